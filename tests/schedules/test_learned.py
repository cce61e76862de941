"""The learned schedule: VDM's formula, decreasing whatever its parameters, differentiable."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor
from torch.nn import functional as F

from apd_schedules import LearnedSchedule
from strategies import seeds

T = torch.linspace(0, 1, 252, dtype=torch.float64)  # not the midpoints of bisection


def make(
    seed: int = 0, width: int = 8, spread: float = 0.0, clean: float = 13.3, noise: float = -5.0
) -> LearnedSchedule:
    """A schedule in float64 with its parameters moved by ``spread`` times standard normal numbers."""
    generator = Generator().manual_seed(seed)
    schedule = LearnedSchedule(clean, noise, width, generator=generator).double()
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return schedule


def vdm(schedule: LearnedSchedule, t: Tensor) -> Tensor:
    """Appendix H as it is written there, with l1 the identity: normalised by its values at 0 and 1."""
    rows = [F.softplus(schedule.steepness), schedule.bias, F.softplus(schedule.height)]
    sums = lambda t: t + sum(h * torch.sigmoid(w * t + b) for w, b, h in zip(*rows, strict=True))
    low, high = sums(torch.zeros(())), sums(torch.ones(()))
    return schedule.clean + (schedule.noise - schedule.clean) * (sums(t) - low) / (high - low)


@given(seeds, st.integers(1, 9), st.floats(0, 3))
def test_it_is_the_network_of_vdm(seed: int, width: int, spread: float) -> None:
    schedule = make(seed, width, spread)
    torch.testing.assert_close(schedule(T), vdm(schedule, T), rtol=1e-9, atol=1e-9)


@given(seeds, st.floats(0, 30), st.sampled_from([torch.float32, torch.float64]))
def test_it_meets_its_ends_and_goes_down_whatever_its_parameters(seed: int, spread: float, dtype: torch.dtype) -> None:
    schedule = make(seed, spread=spread, clean=9.0, noise=-8.5).to(dtype)
    log_snr = schedule(torch.linspace(0, 1, 65, dtype=dtype))
    assert log_snr[[0, -1]].tolist() == [9.0, -8.5]
    assert (log_snr.diff() < 0).all()


def test_it_starts_near_a_line_and_does_not_end_there() -> None:
    straight = 13.3 - 18.3 * T
    assert (make(width=64)(T) - straight).abs().max() < 0.5
    assert (make(spread=3.0)(T) - straight).abs().max() > 1.0


@given(seeds, st.floats(0, 3))
def test_level_of_is_the_inverse_and_has_no_gradient(seed: int, spread: float) -> None:
    schedule = make(seed, spread=spread)
    levels = schedule.level_of(schedule(T))
    assert not levels.requires_grad
    torch.testing.assert_close(levels, T, rtol=0, atol=1e-11)
    assert schedule.level_of(torch.tensor([13.3, 50.0, -5.0, -50.0])).tolist() == [0, 0, 1, 1]
    assert schedule.level_of(torch.zeros(2, 3)).dtype == torch.float32


@given(seeds)
def test_gradients_reach_the_parameters_through_the_slope_too(seed: int) -> None:
    """Of the log-SNR and of its derivative in the level, against differences in every parameter."""
    schedule = make(seed, width=3, spread=0.5)
    t = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)

    def value() -> Tensor:
        log_snr, slope, *_ = torch.func.jvp(schedule, (t,), (torch.ones_like(t),))
        return (weights * log_snr).sum() + (weights * slope).sum()

    gradients = torch.autograd.grad(value(), list(schedule.parameters()))
    for parameter, gradient in zip(schedule.parameters(), gradients, strict=True):
        for i in range(parameter.numel()):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[i] += step
                    ends.append(value().item())
                    parameter[i] -= step
            assert gradient[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7)
            assert gradient[i] != 0


def test_its_randomness_is_the_argument() -> None:
    before = torch.get_rng_state()
    first, same, other = (LearnedSchedule(generator=Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.bias, same.bias)
    assert not torch.equal(first.bias, other.bias)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make(width=0), "at least one sigmoid, got width=0"),
        (lambda: make(clean=-6.0), "clean > noise"),
        (lambda: make(noise=math.nan), "clean > noise.*nan"),
    ],
)
def test_impossible_networks_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_of_its_ends_are_exact(dtype: torch.dtype) -> None:
    """In float32 13.7 is below itself in float64."""
    schedule = LearnedSchedule(13.7, -5.1, generator=Generator().manual_seed(0))
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert torch.equal(schedule.level_of(schedule(ends)), ends)
