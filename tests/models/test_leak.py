"""How far latents of what is visible move when the rest is hidden: against sums by hand, and beyond an autoencoder's
reach not a bit."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from apd_models import (
    AutoencoderConfig,
    Codec,
    CodecError,
    LatentScale,
    Leak,
    Moved,
    as_codec,
    dilation,
    filled,
    identity,
    known_cells,
    leak,
)
from codec_cases import Blurred, noise, our_network

IMAGES = noise(2, 3, 24, 32)


def box(top: int, bottom: int, left: int, right: int, height: int = 24, width: int = 32) -> Tensor:
    known = torch.ones(1, height, width, dtype=torch.bool)
    known[:, top:bottom, left:right] = False
    return known


def by_hand(known: Tensor, factor: int) -> Tensor:
    """Chessboard distances of cells from the nearest that is not known whole, looking at each pair."""
    whole = known.unflatten(1, (-1, factor)).unflatten(3, (-1, factor)).all(4).all(2)
    i, j = whole.shape[1:]
    places = torch.cartesian_prod(torch.arange(i), torch.arange(j))
    apart = (places[:, None] - places).abs().amax(2)
    far = torch.where(whole.flatten(1)[:, None], 10**6, apart)
    return far.amin(2).view(len(known), i, j)


# ---------------------------------------------------------------------------------------------------------- the cells


@pytest.mark.parametrize("dilate", [0, 1, 3])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_cells_that_are_known_whole_and_far_enough(factor: int, dilate: int) -> None:
    known = torch.rand(4, 24, 32, generator=Generator().manual_seed(1)) > 0.005
    known[0] = True
    known[1] = False
    assert torch.equal(known_cells(known, factor, dilate), by_hand(known, factor) > dilate)
    assert known_cells(known, factor, dilate)[0].all()


def test_cells_of_no_whole_number_or_a_negative_growth_are_refused() -> None:
    for factor, dilate in ((5, 0), (4, -1)):
        with pytest.raises(ValueError, match=f"multiples of {factor} and dilate ≥ 0, got 24×32, {dilate}"):
            known_cells(box(0, 1, 0, 1), factor, dilate)


# ---------------------------------------------------------------------------------------------------- the measurement


def expected(a: Tensor, b: Tensor, distance: Tensor, std: Tensor) -> Moved:
    by = ((b - a) / std[:, None, None]).movedim(1, -1)
    farthest = int(distance[distance < 10**6].max())
    at = [by[distance == d] for d in range(1, farthest + 1)]
    return Moved(
        tuple(float(each.square().mean().sqrt()) for each in at), tuple(float(each.abs().max()) for each in at)
    )


def close(a: Moved | None, b: Moved) -> bool:
    assert a is not None
    pairs = [*zip(a.rms, b.rms, strict=True), *zip(a.largest, b.largest, strict=True)]
    return all(math.isclose(x, y, rel_tol=1e-12, abs_tol=1e-15) for x, y in pairs)


@pytest.mark.parametrize("scale", [None, LatentScale((5.0, 0.0, 1.0), (0.5, 2.0, 3.0))])
def test_it_is_the_mean_square_at_each_distance(scale: LatentScale | None) -> None:
    """Two images with masks of their own, one of them with nothing hidden, which counts nowhere."""
    codec, images = Blurred(), noise(3, 3, 24, 32).double()
    instead = noise(3, 3, 24, 32, seed=5).double()
    known = torch.cat([box(3, 9, 5, 6), box(0, 0, 0, 0), box(20, 24, 0, 32)])
    found = leak(codec, images, known, instead, scale)
    distance = by_hand(known, 2)
    whole = codec.encode(images)
    std = torch.tensor(scale.std).double() if scale else whole.std((0, 2, 3))
    changed = torch.where(known[:, None], images, instead)
    assert found.cells == tuple(int((distance == d).sum()) for d in range(1, len(found.cells) + 1))
    assert sum(found.cells) == int(((distance > 0) & (distance < 10**6)).sum())
    assert close(found.hiding, expected(whole, codec.encode(images, known), distance, std))
    assert close(found.unmasked, expected(whole, codec.encode(changed), distance, std))
    nothing = (0.0,) * len(found.cells)
    assert found.changing == Moved(nothing, nothing)
    assert leak(codec, images, known, scale=scale) == replace(found, changing=None, unmasked=None)


def test_a_codec_that_looks_at_hidden_pixels_is_found_out() -> None:
    """One that only says that it removes them."""
    codec = Blurred(removes=False)
    found = leak(codec, IMAGES, box(8, 16, 8, 16).expand(2, -1, -1), -IMAGES)
    assert found.changing is not None
    assert found.unmasked is not None
    assert found.changing.rms == found.unmasked.rms
    assert found.changing.rms[0] > 0.1


def test_pixels_are_their_own_latents() -> None:
    found = leak(identity(), IMAGES, box(8, 16, 8, 16).expand(2, -1, -1), -IMAGES)
    assert found.hiding == found.changing == found.unmasked
    assert set(found.hiding.largest) == {0.0}
    assert dilation(found, 0.0) == 0


# ------------------------------------------------------------------------------------------------------------ the reach


def reach(config: AutoencoderConfig) -> int:
    """In cells: how far a pixel gets, two for each block and one for the first convolution, at each resolution."""
    pixels = 1
    for level, blocks in enumerate(config.blocks):
        pixels = (math.ceil(pixels / 2) if level else pixels) + 2 * blocks
    return pixels + 1


@pytest.mark.parametrize("blocks", [(1, 0, 0), (0, 0, 1), (1, 1), (0, 0, 0)])
def test_beyond_its_reach_our_autoencoder_does_not_know_that_anything_is_hidden(blocks: tuple[int, ...]) -> None:
    """Not by a bit; and within, it does, at each distance. In float64, where nothing is too small."""
    config = AutoencoderConfig(channels=3, widths=(8,) * len(blocks), blocks=blocks)
    codec, side = as_codec(our_network(config).double()), 12 * config.factor
    known = box(0, 2 * config.factor, 0, side, side, side)
    found = leak(codec, noise(1, 3, side, side).double(), known)
    assert found.cells == (12,) * 10
    far = reach(config)
    assert min(found.hiding.rms[:far]) > 0
    assert set(found.hiding.largest[far:]) == {0.0}
    assert dilation(found, 0.0) == far


# --------------------------------------------------------------------------------------------------------- the dilation


@pytest.mark.parametrize(
    ("rms", "bound", "cells"),
    [
        ((0.3, 0.2, 0.1), 0.3, 0),
        ((0.3, 0.2, 0.1), 0.29, 1),
        ((0.3, 0.2, 0.1), 0.1, 2),
        ((0.3, 0.2, 0.1), 0.09, None),
        ((0.3, 0.0, 0.0), 0.0, 1),
        ((0.1, 0.3, 0.1), 0.2, 2),  # each distance that is left counts, not the first that will do
        ((0.1, 0.2, math.nan), 1.0, None),
        ((math.nan, 0.1), 1.0, 1),
    ],
)
def test_what_is_left_is_within_the_bound(rms: tuple[float, ...], bound: float, cells: int | None) -> None:
    assert dilation(Leak((5,) * len(rms), Moved(rms, (9.0,) * len(rms))), bound) == cells


def test_the_mask_that_grew_so_far_keeps_the_bound() -> None:
    """What the number is for: the latents that are left moved by no more."""
    codec, known = Blurred(), box(9, 11, 9, 11).expand(2, -1, -1)
    found = leak(codec, IMAGES, known)
    cells = dilation(found, 0.0)
    assert cells == 1
    left = known_cells(known, 2, cells)[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(codec.encode(IMAGES, known)[left], codec.encode(IMAGES)[left])
    more = known_cells(known, 2, cells - 1)[:, None].expand(-1, 3, -1, -1)
    assert not torch.equal(codec.encode(IMAGES, known)[more], codec.encode(IMAGES)[more])


@pytest.mark.parametrize("bound", [-0.1, math.nan])
def test_impossible_bounds(bound: float) -> None:
    with pytest.raises(ValueError, match="a bound is 0 or more, got"):
        dilation(Leak((5,), Moved((0.0,), (0.0,))), bound)


# -------------------------------------------------------------------------------------------------------- all the rest


def test_the_table() -> None:
    moved = Moved((0.25, 1e-5), (1.5, 0.0))
    assert str(Leak((12, 100), moved)).splitlines() == [
        "distance   cells   hiding rms   largest",
        "       1      12         0.25       1.5",
        "       2     100        1e-05         0",
    ]
    head, *rows = str(Leak((12, 100), moved, moved, moved)).splitlines()
    assert head.split() == "distance cells hiding rms largest changing rms largest unmasked rms largest".split()
    assert rows[0].split() == ["1", "12", *("0.25", "1.5") * 3]


def test_what_cannot_be_measured_is_refused_in_one_line() -> None:
    codec: Codec = Blurred()
    some = box(8, 16, 8, 16).expand(2, -1, -1)
    for known in (torch.ones_like(some), torch.zeros_like(some), torch.arange(32).expand(2, 24, 32) % 2 == 0):
        with pytest.raises(CodecError, match=r"a part is hidden and a cell is known whole, got none$"):
            leak(codec, IMAGES, known)
    with pytest.raises(CodecError, match=r"images of 3 channels, .* got 3×23×32$"):
        leak(codec, IMAGES[:, :, 1:], some[:, 1:])
    with pytest.raises(CodecError, match=r"a scale of 3 channels, got 2$"):
        leak(codec, IMAGES, some, scale=LatentScale((0.0,) * 2, (1.0,) * 2))
    flat, broken = IMAGES.clone(), IMAGES.clone()
    flat[:, 1] = 0.5
    broken[0, 1, 10, 10] = math.nan
    for images in (flat, broken):
        with pytest.raises(CodecError, match=r"constant, or not finite, in a channel: say their scale$"):
            leak(identity(), images, some)


# --------------------------------------------------------------------------------------------------------------- filled


def test_what_is_filled_in_comes_from_what_is_known() -> None:
    known = torch.rand(2, 24, 32, generator=Generator().manual_seed(0)) > 0.9
    known[0, :20, :20] = False
    result = filled(IMAGES, known)
    on = known[:, None].expand_as(IMAGES)
    assert torch.equal(result[on], IMAGES[on])
    assert IMAGES.min() <= result.min() < result.max() <= IMAGES.max()
    assert torch.equal(filled(torch.where(known[:, None], IMAGES, math.nan), known), result)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 3), (24, 32)])
def test_constant_images_are_filled_with_their_colour(height: int, width: int) -> None:
    """Also at the edges of sizes that cannot be halved, and where all but a pixel is hidden."""
    images = torch.tensor([0.3, -0.7, 1.0]).double()[:, None, None].expand(1, 3, height, width)
    known = torch.zeros(1, height, width, dtype=torch.bool)
    assert torch.equal(filled(images, known), torch.zeros_like(images))
    known[0, -1, -1] = True
    torch.testing.assert_close(filled(images, known), images, rtol=0, atol=1e-15)


def test_a_hole_is_filled_smoothly() -> None:
    """A slope goes on through it, to a twentieth of what it rises by over the image."""
    slope = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    made = filled(slope, box(12, 20, 12, 20, 32, 32))
    assert (made - slope).abs().max() < 0.25
