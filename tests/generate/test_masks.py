"""Masks: polarity, sizes, greys, growth, and what they come to in tokens."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import Tensor

from apd_generate import ImageError, fit_levels, outpainted, read_mask, token_mask
from apd_generate._masks import dilated
from apd_models import Patchify
from completion_cases import MODES, picture, random_levels, values

PATCHIFY = Patchify(8, 12, 1, 4)


def grey(rows: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8))


def test_white_is_made_anew_and_black_stays() -> None:
    image = grey([[0, 255], [255, 0]])
    assert read_mask(image, (2, 2)).levels.tolist() == [[0, 1], [1, 0]]
    assert read_mask(image, (2, 2), invert=True).levels.tolist() == [[1, 0], [0, 1]]
    assert read_mask(image, (2, 2)).report == ""


def test_greys_count_as_the_nearer_end() -> None:
    mask = read_mask(grey([[1, 127, 128, 254]]), (4, 1))
    assert mask.levels.tolist() == [[0, 0, 1, 1]]
    assert mask.report == "greys (100 % of it) taken as black or white"
    assert read_mask(grey([[1, 127, 128, 254]]), (4, 1), invert=True).levels.tolist() == [[1, 1, 0, 0]]


def test_greys_are_levels_of_a_soft_mask() -> None:
    mask = read_mask(grey([[0, 51, 255, 255]]), (4, 1), soft=True)
    assert mask.levels[0].tolist() == pytest.approx([0, 0.2, 1, 1])
    assert mask.report == "greys (25 % of it) taken as levels"
    turned = read_mask(grey([[0, 51, 255]]), (3, 1), soft=True, invert=True)
    assert turned.levels[0].tolist() == pytest.approx([1, 0.8, 0])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_says_the_same(mode: str) -> None:
    bits = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    image = Image.fromarray(255 * bits.numpy().astype(np.uint8))
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    assert torch.equal(read_mask(image, (7, 5)).levels, bits.float())


def test_what_is_transparent_stays_either_way() -> None:
    for mode, white, black in (("LA", (255, 0), (0, 0)), ("RGBA", (255, 255, 255, 0), (0, 0, 0, 0))):
        for colour in (white, black):
            for invert in (False, True):
                assert not read_mask(Image.new(mode, (2, 2), colour), (2, 2), invert=invert).levels.any()


def test_a_mask_of_the_same_shape_is_resized_and_loses_no_speck() -> None:
    speck = np.zeros((40, 60), np.uint8)
    speck[17, 31] = 255
    mask = read_mask(Image.fromarray(speck), (6, 4))
    assert mask.levels.nonzero().tolist() == [[1, 3]]
    assert mask.report == "resized from 60×40 to 6×4"
    assert read_mask(grey([[255, 0]]), (4, 2)).levels.tolist() == [[1, 1, 0, 0]] * 2
    assert read_mask(Image.new("L", (62, 40)), (60, 40)).levels.shape == (40, 60)


def test_a_mask_of_another_shape_is_refused() -> None:
    for size in ((60, 30), (40, 60), (64, 40), (57, 40)):
        with pytest.raises(ImageError, match=f"the mask has {size[0]}×{size[1]} pixels and the image 60×40"):
            read_mask(Image.new("L", size), (60, 40))


def test_growth() -> None:
    levels = torch.zeros(7, 9)
    levels[3, 4], levels[0, 0] = 1.0, 0.5
    grown = dilated(levels, 2)
    expected = torch.zeros(7, 9)
    expected[:3, :3] = 0.5
    expected[1:6, 2:7] = 1
    assert torch.equal(grown, expected)
    assert torch.equal(dilated(levels, 0), levels)
    assert (dilated(levels, 10**6) == 1).all()
    image = Image.fromarray((levels * 255).byte().numpy())
    mask = read_mask(image, (9, 7), dilate=1)
    assert mask.levels.sum() == 9
    assert mask.report == "greys (1.59 % of it) taken as black or white, grown by 1 pixels"
    with pytest.raises(ImageError, match="0 pixels or more, got -1"):
        read_mask(image, (9, 7), dilate=-1)


@pytest.mark.parametrize("mode", MODES)
def test_painting_beyond_the_image(mode: str) -> None:
    image, levels = picture(mode, 5, 3), torch.rand(3, 5)
    image.info = {"icc_profile": b"colours"}
    grown, more = outpainted(image, levels, (1, 2, 3, 4))
    assert (grown.mode, grown.size, grown.info) == (mode, (11, 7), image.info)
    assert np.array_equal(values(grown)[1:4, 4:9], values(image))
    assert torch.equal(more[1:4, 4:9], levels)
    more[1:4, 4:9] = 1
    assert more.shape == (7, 11)
    assert (more == 1).all()
    with pytest.raises(ImageError, match="0 pixels or more to each side, got 0, -1, 0, 0"):
        outpainted(image, levels, (0, -1, 0, 0))
    with pytest.raises(ImageError, match="canvas of 100000005×3 pixels is too large"):
        outpainted(image, levels, (0, 10**8, 0, 0))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(-16, 29), st.integers(-10, 29), st.integers(0, 999))
@settings(max_examples=25)
def test_a_pixel_has_the_highest_level_of_what_it_covers(w: int, h: int, x: int, y: int, seed: int) -> None:
    x, y = min(x, w - 1), min(y, h - 1)
    levels, box = random_levels("soft", w, h, seed), (x, y, x + 17, y + 11)
    found = fit_levels(levels, box, PATCHIFY)
    for i in range(8):
        for j in range(12):
            rows = range(y + math.floor(i * 11 / 8), y + math.ceil((i + 1) * 11 / 8))
            columns = range(x + math.floor(j * 17 / 12), x + math.ceil((j + 1) * 17 / 12))
            covered = [levels[r, c].item() if 0 <= r < h and 0 <= c < w else 1.0 for r in rows for c in columns]
            assert found[i, j] == max(covered)


def tokens_by_hand(levels: Tensor) -> list[Tensor]:
    return [levels[i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4, 8)]


@given(st.sampled_from(["scattered", "box", "soft", "all"]), st.integers(0, 999))
def test_tokens_start_from_their_highest_level(kind: str, seed: int) -> None:
    levels = random_levels(kind, 12, 8, seed)
    mask = token_mask(levels, PATCHIFY)
    of_tokens = tokens_by_hand(levels)
    assert torch.equal(mask.known, levels == 0)
    assert mask.given_up == sum(int((t == 0).sum()) for t in of_tokens if t.any())
    if kind == "soft":
        assert mask.start is not None
        assert mask.start[:, 0].tolist() == [t.max().item() for t in of_tokens]
    else:
        assert mask.start is None
    assert int(mask.clean.sum()) == int(mask.known.sum()) - mask.given_up
    assert tokens_by_hand(mask.clean)[0].all() == (not of_tokens[0].any())
    by_element = token_mask(levels, PATCHIFY, element_levels=True)
    assert by_element.given_up == 0
    assert torch.equal(by_element.clean, by_element.known)


def test_the_report_of_tokens() -> None:
    levels = torch.zeros(8, 12)
    levels[1, 1] = 1
    said = "95 of 96 pixels are known"
    assert token_mask(levels, PATCHIFY, element_levels=True).report == said
    more = ", 15 of them in patches that are not known whole and which the model sees with noise"
    assert token_mask(levels, PATCHIFY).report == said + more
