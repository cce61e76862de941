"""Masks of elements laid over maps of tokens."""

import pytest
import torch
from torch import Generator, Tensor

from apd_samplers import independent, known_elements, shared, snap, weighted
from apd_schedules import RectifiedFlow

MASK = torch.tensor([[True, False, False], [False, False, False], [True, True, True], [False, True, False]])


def masks(batch: int, generator: Generator | None = None) -> Tensor:
    return MASK.expand(batch, 4, 3)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_is_kept_in_each_batch(share: float) -> None:
    levels = known_elements(independent(4), masks, share)(20, Generator().manual_seed(0))
    assert levels.shape == (20, 4, 3)
    laid = (levels == 0).any(-1).any(-1)
    assert laid.sum() == 20 * share
    assert torch.equal(levels[laid] == 0, MASK.expand(int(laid.sum()), 4, 3))


def test_what_the_mask_leaves_is_the_sampler() -> None:
    plain = independent(4)(20, Generator().manual_seed(3))
    levels = known_elements(independent(4), masks, 0.5)(20, Generator().manual_seed(3))
    assert torch.equal(torch.where(levels == 0, plain.expand_as(levels), levels), plain.expand_as(levels))


def test_known_elements_weigh_nothing_and_snap_leaves_them_clean() -> None:
    draw = weighted(snap(known_elements(shared(4), masks, 1.0), 8), RectifiedFlow())(5, Generator().manual_seed(0))
    assert (draw.weight[MASK.expand(5, 4, 3)] == 0).all()
    assert (draw.weight[~MASK.expand(5, 4, 3)] > 0).all()


def test_shares_are_shares() -> None:
    with pytest.raises(ValueError, match=r"a share lies in \[0, 1\], got 1.5"):
        known_elements(shared(4), masks, 1.5)
