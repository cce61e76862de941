"""Learning rates against what their formulas say, digit by digit."""

import math

import pytest

from apd_train._rates import constant_rate, cosine_rate, inverse_sqrt_rate


def test_the_warm_up_is_a_line_that_ends_at_the_peak() -> None:
    for rate in (constant_rate(0.5, 4), cosine_rate(0.5, 10, 4), inverse_sqrt_rate(0.5, 20, 4)):
        assert [rate(step) for step in range(5)] == [0.125, 0.25, 0.375, 0.5, 0.5]


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    for rate in (constant_rate(0.3), cosine_rate(0.3, 7), inverse_sqrt_rate(0.3, 1)):
        assert rate(0) == 0.3


def test_constant_stays() -> None:
    assert constant_rate(0.7, 3)(10**9) == 0.7


def test_cosine_is_half_way_in_the_middle_and_ends_where_it_should() -> None:
    rate = cosine_rate(2.0, 110, 10, final=0.1)
    assert rate(10) == 2.0
    assert math.isclose(rate(60), (2.0 + 0.2) / 2, rel_tol=1e-12)
    assert math.isclose(rate(10 + 25), 0.2 + 1.8 * (1 + 0.5**0.5) / 2, rel_tol=1e-12)
    assert math.isclose(rate(110), 0.2, rel_tol=1e-12)
    assert rate(500) == rate(110)


def test_cosine_of_a_run_that_is_all_warm_up() -> None:
    assert [cosine_rate(1.0, 4, 4)(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_inverse_square_root_halves_in_four_times_the_steps() -> None:
    rate = inverse_sqrt_rate(0.6, 100, 10)
    assert [rate(step) for step in (10, 50, 100)] == [0.6, 0.6, 0.6]
    assert rate(101) < 0.6
    assert math.isclose(rate(400), 0.3, rel_tol=1e-12)
    assert math.isclose(rate(10_000), 0.06, rel_tol=1e-12)


@pytest.mark.parametrize("step", [0, 1, 199, 200, 201, 700, 1500, 2198, 2199])
def test_cosine_is_the_one_that_published_runs_had(step: int) -> None:
    """To the bit: the default recipe's figures are of it."""
    peak, warmup, floor = 8e-3, 200, 0.02
    if step < warmup:
        expected = peak * (step + 1) / warmup
    else:
        done = (step - warmup) / (2200 - warmup)
        expected = peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
    assert cosine_rate(peak, 2200, warmup, floor)(step) == expected


def test_refusals() -> None:
    for peak in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="peak of the learning rate must be positive and finite"):
            constant_rate(peak)
    with pytest.raises(ValueError, match="warmup must not be negative, got -1"):
        inverse_sqrt_rate(1.0, 5, -1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        cosine_rate(1.0, 0)
    with pytest.raises(ValueError, match=r"final is a share of the peak in \[0, 1\], got 1.5"):
        cosine_rate(1.0, 5, final=1.5)
    with pytest.raises(ValueError, match="reference must be at least 1, got 0"):
        inverse_sqrt_rate(1.0, 0)
