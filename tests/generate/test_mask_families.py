"""Four families of masks: what they hide, how much, and that a seed draws the same again."""

import pytest
import torch
from torch import Generator, Tensor

from apd_generate import MASK_FAMILIES, draw_mask


def hidden(family: str, count: int, height: int = 64, width: int = 64) -> Tensor:
    generator = Generator().manual_seed(0)
    return torch.stack([~draw_mask(family, height, width, generator) for _ in range(count)])


@pytest.mark.parametrize("family", MASK_FAMILIES)
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (9, 40), (64, 17)])
def test_something_is_known_and_something_hidden(family: str, size: tuple[int, int]) -> None:
    masks = hidden(family, 40, *size)
    assert masks.shape == (40, *size)
    assert masks.flatten(1).any(1).all()
    assert not masks.flatten(1).all(1).any()


@pytest.mark.parametrize("family", MASK_FAMILIES)
def test_a_seed_draws_the_same_mask(family: str) -> None:
    one, again, other = (draw_mask(family, 28, 28, Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert torch.equal(one, other) == (family in ("extrema", "square"))


def test_square_and_extrema() -> None:
    square = hidden("square", 1, 28, 20)[0]
    assert square.sum() == 14 * 10
    assert square[7:21, 5:15].all()
    assert torch.equal(hidden("extrema", 1, 28, 20)[0], ~square)
    for height, width in ((1, 2), (2, 1), (2, 2), (3, 5)):
        one = hidden("square", 1, height, width)[0]
        assert one.any()
        assert not one.all()


@pytest.mark.parametrize(("family", "share", "tolerance"), [("thin", 0.280, 0.031), ("wide", 0.265, 0.031)])
def test_how_much_is_hidden(family: str, share: float, tolerance: float) -> None:
    """Half at most; the mean was measured on 4,000 masks, the tolerance is five standard errors of 400."""
    shares = hidden(family, 400).float().mean((1, 2))
    assert shares.max() <= 0.5
    assert shares.mean() == pytest.approx(share, abs=tolerance)
    assert shares.std() > 0.1


def test_thin_strokes_are_thinner() -> None:
    """The share of hidden pixels all of whose neighbours within three are hidden too, at 64 pixels."""
    inner = lambda masks: 1 - torch.nn.functional.max_pool2d(1 - masks.float(), 7, 1, 3)
    thin, wide = (inner(masks).sum() / masks.sum() for masks in (hidden("thin", 200), hidden("wide", 200)))
    assert thin < 0.05
    assert wide > 0.25


def test_strokes_are_at_least_a_pixel_wide() -> None:
    """Eight pixels high, they would be a sixth to a half of one wide, and 0.033 of the image hidden; the tolerance is
    five standard errors."""
    assert hidden("thin", 100, 8, 200).float().mean() == pytest.approx(0.0595, abs=0.012)


def test_boxes_are_three_wide_masks_in_thirteen() -> None:
    """A mask of boxes has as many different rows as boxes have ends; one box has two kinds of rows."""
    masks = hidden("wide", 1300)
    boxes = sum(is_one_box(mask) for mask in masks)
    assert 60 <= boxes <= 180  # a third of 300, five standard errors either way, a few by chance


def is_one_box(mask: Tensor) -> bool:
    rows, columns = mask.any(1), mask.any(0)
    return bool((mask == rows[:, None] & columns).all()) and bool(rows.sum() > 3 and columns.sum() > 3)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="masks are extrema, square, thin, wide, got 'round'"):
        draw_mask("round", 28, 28, Generator())
    with pytest.raises(ValueError, match="1×1 pixels is too small for a mask of the family square"):
        draw_mask("square", 1, 1, Generator())
    with pytest.raises(ValueError, match="7×30 pixels is too small for a mask of the family thin"):
        draw_mask("thin", 7, 30, Generator())
