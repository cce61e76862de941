"""PSNR, SSIM, exactness and diversity of completions, and the distance in feature maps."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from apd_metrics import (
    average,
    exactness,
    feature_distance,
    feature_diversity,
    pixel_diversity,
    psnr,
    ssim,
)
from long_runs import unchecked


def pictures(b: int, c: int, h: int, w: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Smooth truths, and noisy versions of them."""
    generator = Generator().manual_seed(seed)
    truth = torch.rand(b, c, h, w, generator=generator, dtype=torch.float64).cumsum(-1).sin()
    noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    return (truth + 0.2 * noise).to(dtype), truth.to(dtype)


def positive(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """In [0, 1], where SSIM is defined."""
    return (images.double() + 1) / 2, (truth.double() + 1) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("c", "h", "w"), [(1, 28, 28), (3, 16, 40), (3, 6, 11)])
def test_on_whole_images_they_are_torchmetrics(c: int, h: int, w: int, dtype: torch.dtype) -> None:
    images, truth = pictures(4, c, h, w, 0, dtype)
    x, y = positive(images, truth)
    whole = torch.ones(4, h, w, dtype=torch.bool)
    for found in (ssim(images, truth), ssim(images, truth, whole)):
        expected = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for found in (psnr(images, truth), psnr(images, truth, whole)):
        expected = peak_signal_noise_ratio(x, y, data_range=1.0, dim=(1, 2, 3), reduction="none")
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # its logarithm of 10 is in float32


def test_in_a_hole_they_are_averages_over_it() -> None:
    """SSIM of torchmetrics' map of the whole image, whose windows see over the edge; PSNR of the hole's pixels."""
    images, truth = pictures(3, 3, 20, 20, 1)
    hole = torch.rand(3, 20, 20, generator=Generator().manual_seed(0)) < 0.3
    x, y = positive(images, truth)
    _, maps = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none", return_full_image=True)
    for i in range(3):
        assert ssim(images, truth, hole)[i] == pytest.approx(float(maps[i, :, hole[i]].mean()), rel=1e-9)
        error = (images - truth)[i, :, hole[i]].square().mean()
        assert psnr(images, truth, hole)[i] == pytest.approx(float(10 * torch.log10(4 / error)), rel=1e-12)


def test_known_pixels_do_not_count_and_equal_ones_are_perfect() -> None:
    images, truth = pictures(2, 3, 16, 16, 2)
    hole = torch.zeros(2, 16, 16, dtype=torch.bool)
    hole[:, 4:9, 3:12] = True
    filled = torch.where(hole[:, None], truth, images)  # wrong outside of the hole only
    assert psnr(filled, truth, hole).tolist() == [math.inf, math.inf]
    broken = torch.where(hole[:, None], images, math.nan)  # nobody looks there
    assert psnr(broken, truth, hole).tolist() == psnr(images, truth, hole).tolist()
    torch.testing.assert_close(ssim(truth, truth, hole), torch.ones(2).double())
    assert (ssim(-truth, truth) < 0.2).all()  # the negative of a picture is not like it


def test_psnr_of_a_constant_error_in_closed_form() -> None:
    truth = torch.zeros(1, 3, 8, 8)
    assert float(psnr(truth + 0.02, truth)) == pytest.approx(40, rel=1e-6)
    assert float(psnr(truth + 1, truth - 1)) == 0


def test_exactness_counts_known_pixels_that_differ() -> None:
    _, truth = pictures(3, 3, 8, 8, 3, torch.float32)
    known = torch.zeros(3, 8, 8, dtype=torch.bool)
    known[:, :4] = True
    images = truth.clone()
    images[:, :, 4:] += 1  # unknown
    images[1, 0, 0, 0] = torch.nextafter(truth[1, 0, 0, 0], torch.tensor(9.0))  # one bit of one channel
    images[2, 1:, 2, 5] -= 0.25
    images[2, 0, 0, 7] += 0.5
    found = exactness(images, truth, known)
    assert found.differing.tolist() == [0, 1, 2]
    assert found.known.tolist() == [32, 32, 32]
    assert found.largest[0] == 0
    assert 0 < found.largest[1] < 1e-6
    assert found.largest[2] == pytest.approx(0.5)
    images[0, 0, 0, 0] = math.nan
    broken = exactness(images, truth, known)
    assert broken.differing[0] == 1
    assert broken.largest[0].isnan()
    nothing = exactness(images, truth, torch.zeros_like(known))
    assert (nothing.largest.tolist(), nothing.differing.tolist()) == ([0, 0, 0], [0, 0, 0])


@given(st.integers(0, 2**32), st.integers(2, 5))
def test_diversities_are_means_over_pairs(seed: int, k: int) -> None:
    """Their closed forms are the loops over pairs."""
    generator = Generator().manual_seed(seed)
    candidates = torch.randn(k, 2, 7, 6, generator=generator)
    hole = torch.rand(7, 6, generator=generator) < 0.5
    hole[0, 0] = True
    pairs = [(i, j) for i in range(k) for j in range(i)]
    squares = [(candidates[i] - candidates[j])[:, hole].double().square().mean() for i, j in pairs]
    assert float(pixel_diversity(candidates, hole)) == pytest.approx(float(torch.stack(squares).mean().sqrt()))
    maps = [candidates, candidates[:, :, ::2, ::3].relu()]
    of = lambda i: [stage[i : i + 1] for stage in maps]
    distances = torch.cat([feature_distance(of(i), of(j)) for i, j in pairs])
    assert float(feature_diversity(maps)) == pytest.approx(float(distances.mean()))


def test_equal_candidates_are_not_diverse() -> None:
    candidates = pictures(1, 3, 7, 6, 4)[0].expand(4, -1, -1, -1)
    assert float(pixel_diversity(candidates)) < 1e-12
    assert float(feature_diversity([candidates])) < 1e-24


def test_feature_distance_in_closed_form() -> None:
    """Of directions alone: 0 if equal, 2 - 2 cos at an angle, 4 if opposite; a mean over space, a sum over stages."""
    first, second = torch.zeros(2, 1, 2, 2, 2).double()
    first[:, 0], second[:, 0] = 1, 3  # equal but for their length
    second[0, :, 0, 0] = torch.tensor([0.0, 5.0])  # at one of four places: nothing in common
    second[0, :, 1, 1] = torch.tensor([1.0, 1.0])  # at another: 45 degrees
    one = (2 + (2 - 2**0.5)) / 4
    assert float(feature_distance([first], [second])) == pytest.approx(one)
    assert float(feature_distance([first, first], [second, -first])) == pytest.approx(one + 4)
    assert float(feature_distance([first], [7 * first])) < 1e-18
    assert float(feature_distance([first * 0], [first])) == pytest.approx(1)


def test_an_average_and_its_standard_error() -> None:
    found = average(torch.tensor([1.0, 2.0, 6.0]))
    assert found.value == 3
    assert found.standard_error == pytest.approx((14 / 2 / 3) ** 0.5)
    assert str(found) == "3 ± 1.5"
    assert average(torch.tensor([2.0])).standard_error is None
    assert str(average(torch.tensor([2.0]))) == "2"


def test_what_is_refused() -> None:
    images, truth = pictures(2, 3, 8, 8, 5)
    hole = torch.ones(2, 8, 8, dtype=torch.bool)
    hole[1] = False
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="a pixel at least: that of image 1 is empty"):
            metric(images, truth, hole)
    with pytest.raises(ValueError, match=r"6 × 6 pixels or more, got \(5, 8\)"):
        ssim(images[:, :, :5], truth[:, :, :5])
    with pytest.raises(ValueError, match="empty"):
        pixel_diversity(images, hole[1])
    with pytest.raises(ValueError, match="two candidates or more, got 1"):
        pixel_diversity(images[:1])
    with pytest.raises(ValueError, match="two candidates or more, got 1"):
        feature_diversity([images[:1]])
    for refused in (lambda: feature_distance([], []), lambda: feature_diversity([])):
        with pytest.raises(ValueError, match="no feature maps: ask the extractor"):
            refused()
    with pytest.raises(ValueError, match="same stages and sizes"):
        feature_distance([images], [images, truth])
    with pytest.raises(ValueError, match="same stages and sizes"):
        feature_distance([images], [truth[:, :, :4]])
    with pytest.raises(ValueError, match="average of no values"):
        average(torch.tensor([]))


NAMED = {"psnr": psnr, "ssim": ssim}


@pytest.mark.parametrize("name", NAMED)
def test_what_would_give_wrong_numbers_is_refused(name: str) -> None:
    """Masks of bytes count 255 for a pixel, and `~` of 1 is 254; bytes are no values in [-1, 1]; none are broadcast."""
    measure, (images, truth) = NAMED[name], pictures(2, 3, 8, 8, 0)
    hole = torch.zeros(2, 8, 8, dtype=torch.bool)
    hole[:, 2:5, 2:5] = True
    with unchecked():
        for wrong in (hole.to(torch.uint8), ~(~hole).to(torch.uint8), hole.float(), hole[0], hole[:, None], hole[:1]):
            with pytest.raises(ValueError, match=r"hole is of booleans, \(2, 8, 8\), got \("):
                measure(images, truth, wrong)
        with pytest.raises(ValueError, match=r"floats in \[-1, 1\], got torch.uint8 and torch.uint8: x / 127.5 - 1 of"):
            measure(images.to(torch.uint8), truth.to(torch.uint8), hole)
        for other in (truth[:1], truth[:, :1], truth[0]):
            with pytest.raises(ValueError, match=r"images are compared \(b, c, h, w\), got \(2, 3, 8, 8\) and \("):
                measure(images, other, hole)


def test_so_it_is_of_exactness_and_diversity() -> None:
    images, truth = pictures(2, 3, 8, 8, 0)
    known = torch.ones(2, 8, 8, dtype=torch.uint8)
    with unchecked():
        with pytest.raises(ValueError, match=r"known is of booleans, \(2, 8, 8\), got \(2, 8, 8\) of torch.uint8"):
            exactness(images, truth, known)
        with pytest.raises(ValueError, match="floats in"):
            exactness(images.to(torch.uint8), truth.to(torch.uint8), known > 0)
        with pytest.raises(ValueError, match=r"hole is of booleans, \(1, 8, 8\), got \(1, 8, 8\) of torch.uint8"):
            pixel_diversity(images, known[0])
        with pytest.raises(ValueError, match=r"one an image, \(n,\), got \(2, 3\)"):
            average(torch.ones(2, 3))
