"""Steps that are left out."""

import math

import pytest

from apd_train import DivergedError
from apd_train._guard import Guard


def test_good_steps_change_nothing() -> None:
    guard = Guard()
    assert guard.next(1, [0.5, 3.0]) == guard
    assert not guard.next(1, [0.0]).skips


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_norm_that_is_not_finite_is_enough(bad: float) -> None:
    guard = Guard().next(1, [0.5, bad])
    assert guard.skips
    assert guard == Guard(skipped=1, in_a_row=1)


def test_a_good_step_ends_the_row_and_not_the_count() -> None:
    guard = Guard(limit=2)
    for step, norm in enumerate([math.nan, math.inf, 1.0, math.nan, math.nan, 2.0], 1):
        guard = guard.next(step, [norm])
        assert guard.skips is not math.isfinite(norm)
    assert guard == Guard(limit=2, skipped=4, in_a_row=0)


def test_one_more_than_the_limit_ends_the_run() -> None:
    guard = Guard(limit=2).next(7, [math.nan]).next(8, [math.nan])
    with pytest.raises(DivergedError, match="not finite in 3 steps in a row, up to step 9: try a smaller learning"):
        guard.next(9, [math.nan])


def test_a_guard_goes_on_from_its_numbers() -> None:
    first = Guard(limit=3).next(1, [math.nan]).next(2, [math.nan])
    again = Guard(limit=3, skipped=first.skipped, in_a_row=first.in_a_row)
    assert again == first
    with pytest.raises(DivergedError):
        again.next(3, [math.nan]).next(4, [math.nan])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        Guard(limit=0)
    for skipped, in_a_row in ((1, 2), (0, -1), (-1, -1)):
        with pytest.raises(ValueError, match="cannot have been in a row"):
            Guard(skipped=skipped, in_a_row=in_a_row)
