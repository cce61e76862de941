"""Noise schedules: decreasing, exact at their ends, invertible, and the formulas they claim."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from apd_schedules import (
    EDM,
    Cosine,
    InvertibleSchedule,
    LearnedSchedule,
    Linear,
    NoiseMap,
    RectifiedFlow,
    Shifted,
    VPBeta,
    resolution_shift,
    shifted,
)
from strategies import schedules

# Levels in float32: evenly, and by ever smaller steps towards either end.
LEVELS = torch.cat([torch.linspace(0, 1, 1025), torch.logspace(-7, -3, 100), 1 - torch.logspace(-6, -3, 100)])
LEVELS = LEVELS.unique()
CLOSE = torch.logspace(-12, -3, 100, dtype=torch.float64)
FINE = torch.cat([torch.linspace(0, 1, 1025, dtype=torch.float64), CLOSE, 1 - CLOSE]).unique()
EPS = torch.finfo(torch.float32).eps
ours = pytest.mark.parametrize(
    "schedule", [RectifiedFlow(), Cosine(), Linear(), VPBeta(), EDM()], ids=lambda s: type(s).__name__
)


def greatest(schedule: InvertibleSchedule) -> float:
    return max(abs(schedule.clean), abs(schedule.noise))


def stretch(schedule: InvertibleSchedule) -> float:
    """A shift multiplies distances from an end, and the rounding in them, by up to this factor."""
    if isinstance(schedule, Shifted):
        return math.exp(abs(schedule.nats) / 2) * stretch(schedule.schedule)
    return 1.0


@given(schedules, st.sampled_from([torch.float32, torch.float64]))
def test_ends_are_met_to_rounding_and_the_way_is_strictly_down(
    schedule: InvertibleSchedule, dtype: torch.dtype
) -> None:
    levels = torch.linspace(0, 1, 1025, dtype=dtype)
    log_snr = schedule(levels)
    assert log_snr.dtype == dtype
    ends = torch.tensor([schedule.clean, schedule.noise], dtype=dtype)
    torch.testing.assert_close(log_snr[[0, -1]], ends, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert (log_snr.diff() < 0).all()


@given(schedules)
def test_the_way_is_strictly_down_to_the_very_ends(schedule: InvertibleSchedule) -> None:
    assert (schedule(FINE).diff() < 0).all()


@given(schedules)
def test_float32_is_float64_to_a_few_roundings(schedule: InvertibleSchedule) -> None:
    """Measured: 0.2 to 1.7 eps of the larger end, and 5 for shifts of 4 nats."""
    error = (schedule(LEVELS).double() - schedule(LEVELS.double())).abs().max().item()
    assert error <= 2 * EPS * greatest(schedule) * stretch(schedule)


@given(schedules)
def test_level_of_is_the_inverse(schedule: InvertibleSchedule) -> None:
    """Measured in float64: 1e-15 in level, 1e-11 in log-SNR where it is steepest, at ends of ±40 nats more."""
    log_snr = torch.linspace(schedule.noise, schedule.clean, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.level_of(schedule(FINE)), FINE, rtol=0, atol=1e-14)
    steep = 1e-6 if greatest(schedule) > 30 else 1e-9
    torch.testing.assert_close(schedule(schedule.level_of(log_snr)), log_snr, rtol=0, atol=steep)
    # In float32, to roundings of the log-SNR by up to eps / 2 of the larger end, and as many of the level.
    slope = torch.func.jvp(schedule, (LEVELS.double(),), (torch.ones_like(LEVELS).double(),))[1]
    rounding = 2 * EPS * (1 + greatest(schedule) * stretch(schedule) / slope.abs())
    assert ((schedule.level_of(schedule(LEVELS)) - LEVELS).abs() <= rounding).all()


@given(schedules)
def test_level_of_keeps_the_digits_of_a_small_level(schedule: InvertibleSchedule) -> None:
    """As many as the log-SNR has: a difference of probabilities would lose all of them here."""
    off = torch.logspace(-9, -2, 50, dtype=torch.float64) * greatest(schedule)
    exact = schedule.level_of(schedule.clean - off)
    slope = torch.func.jvp(schedule, (exact,), (torch.ones_like(exact),))[1]
    first = off < 1e-4
    torch.testing.assert_close((exact * -slope)[first], off[first], rtol=1e-3, atol=1e-13)


@given(schedules, st.sampled_from([torch.float32, torch.float64]))
def test_levels_of_ends_and_beyond_are_0_and_1(schedule: InvertibleSchedule, dtype: torch.dtype) -> None:
    beyond = torch.tensor(
        [schedule.clean, schedule.clean + 1, 90, schedule.noise, schedule.noise - 1, -90], dtype=dtype
    )
    levels = schedule.level_of(beyond)
    assert levels.dtype == dtype
    assert levels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not levels.signbit().any()


@given(schedules)
def test_derivatives_hold_up_to_the_ends(schedule: InvertibleSchedule) -> None:
    """Forward mode against differences one side of each point; the likelihood needs them."""
    t, step = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64), torch.tensor([1, 1, 1, -1]) * 1e-11
    slope = torch.func.jvp(schedule, (t,), (torch.ones_like(t),))[1]
    differences = (schedule(t + step) - schedule(t)) / step
    torch.testing.assert_close(slope, differences, rtol=1e-2, atol=0)


def test_rectified_flow_is_the_straight_line() -> None:
    """z / (alpha + sigma) = (1 - t) x + t eps, with t the level, squeezed by 1e-4 at either end."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    noise = NoiseMap(RectifiedFlow()(t)[:, None])
    torch.testing.assert_close(noise.flow_level[:, 0], 1e-4 + (1 - 2e-4) * t, rtol=1e-12, atol=0)
    torch.testing.assert_close(noise.alpha / (noise.alpha + noise.sigma), 1 - noise.flow_level, rtol=1e-9, atol=0)


def test_clean_of_rectified_flow_is_the_data_in_float32() -> None:
    assert NoiseMap(RectifiedFlow()(torch.zeros(1))[:, None]).alpha.item() == 1.0


def test_cosine_angle_is_linear_in_level() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    noise = NoiseMap(Cosine()(t)[:, None])
    angle = torch.atan2(noise.sigma, noise.alpha)[:, 0]
    torch.testing.assert_close(angle.diff(), torch.full((10,), (angle[-1] - angle[0]).item() / 10, dtype=t.dtype))
    assert angle[5].item() == pytest.approx(math.pi / 4)


def test_linear_is_linear() -> None:
    t = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(Linear(clean=10.0, noise=-6.0)(t), torch.tensor([10.0, 6.0, -6.0]))


def ddpm_log_snr(steps: int) -> Tensor:
    """DDPM's own product of 1 - beta, at times 1/10, 2/10, …; of 1000 steps its betas are 1e-4 … 0.02."""
    betas = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    return torch.log1p(-betas).cumsum(0).exp().logit()[steps // 10 - 1 :: steps // 10]


def test_vp_beta_is_ddpm_of_infinitely_many_steps() -> None:
    """The difference is as 1 / steps: 0.08 nats of 10 at the noise end for the published 1000."""
    schedule = VPBeta()
    clean_time = (math.sqrt(0.1**2 + 4 * 9.95 * math.log1p(math.exp(-13.8))) - 0.1) / (2 * 9.95)
    assert clean_time == pytest.approx(1e-5, rel=0.02)
    time = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    log_snr = schedule((time - clean_time) / (1 - clean_time))
    error = {steps: (ddpm_log_snr(steps) - log_snr).abs() for steps in (1000, 10_000, 100_000)}
    assert error[1000].max() < 0.1
    torch.testing.assert_close(error[1000] / error[10_000], torch.full((10,), 10.0).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(error[10_000] / error[100_000], torch.full((10,), 10.0).double(), rtol=0.002, atol=0)


def test_vp_beta_is_its_closed_form() -> None:
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    time = (t - 1) * (1 - math.log1p(math.exp(-8)) / 5) + 1  # betas of 5 throughout: B = 5 t
    noise = NoiseMap(VPBeta(5.0, 5.0, clean=8.0)(t)[:, None])
    torch.testing.assert_close(noise.alpha[:, 0], (-5 * time / 2).exp(), rtol=1e-12, atol=0)


def test_edm_is_the_published_sequence() -> None:
    """Equation 5, with 18 steps from 80 to 0.002."""
    i = torch.arange(18, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    noise = NoiseMap(EDM()(1 - i / 17)[:, None])
    torch.testing.assert_close((noise.sigma / noise.alpha)[:, 0], sigmas, rtol=1e-12, atol=0)
    geometric = EDM(rho=1000.0)(torch.tensor(0.5, dtype=torch.float64)).item()
    assert geometric == pytest.approx(-math.log(0.002 * 80), abs=0.1)


@given(schedules, st.floats(-4, 4))
def test_a_shift_adds_nats_inside_and_keeps_the_ends(schedule: InvertibleSchedule, nats: float) -> None:
    moved = shifted(schedule, nats)
    ends = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(moved(ends), torch.tensor([schedule.clean, schedule.noise]), rtol=2 * EPS, atol=0)
    # By the odds themselves, from the log-SNR, in float64.
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    low, high = 1 / (1 + math.exp(schedule.clean / 2)), 1 / (1 + math.exp(-schedule.noise / 2))
    odds = [((-line / 2).sigmoid() - low) / ((line / 2).sigmoid() - high) for line in (schedule(t), moved(t))]
    torch.testing.assert_close(odds[1], odds[0] * math.exp(-nats / 2), rtol=1e-9, atol=0)


@given(schedules, st.sampled_from([-20.0, 20.0]))
def test_ends_stay_however_far_the_shift(schedule: InvertibleSchedule, nats: float) -> None:
    """A shift of 20 nats multiplies the rounding in the end of a schedule by 22,000."""
    moved, ends = shifted(schedule, nats), torch.tensor([0.0, 1.0])
    assert torch.equal(moved(ends), RectifiedFlow(schedule.clean, schedule.noise)(ends))
    assert moved.level_of(torch.tensor([schedule.clean, schedule.noise])).tolist() == [0, 1]


def test_between_far_ends_a_shift_is_an_addition() -> None:
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    schedule = RectifiedFlow(40.0, -40.0)
    torch.testing.assert_close(shifted(schedule, 1.7)(t), schedule(t) + 1.7, rtol=0, atol=1e-7)
    assert shifted(Linear(), 0.5)(torch.tensor(0.5).double()).item() == pytest.approx(4.15 + 0.5, abs=0.12)


@given(schedules, st.floats(-3, 3), st.floats(-3, 3))
def test_shifts_add_up(schedule: InvertibleSchedule, first: float, second: float) -> None:
    both, one = shifted(shifted(schedule, first), second), shifted(schedule, first + second)
    torch.testing.assert_close(both(FINE), one(FINE), rtol=0, atol=1e-9)
    torch.testing.assert_close(shifted(schedule, 0.0)(FINE), schedule(FINE), rtol=0, atol=1e-9)


@given(st.floats(0.2, 8), st.floats(5, 30), st.floats(-30, -5))
def test_of_rectified_flow_it_is_the_map_of_stable_diffusion_3(s: float, clean: float, noise: float) -> None:
    """t' = s t / (1 + (s - 1) t), Esser et al. 2024, eq. 23."""
    schedule, t = RectifiedFlow(clean, noise), FINE
    mapped = schedule.level_of(shifted(schedule, -2 * math.log(s))(t))
    torch.testing.assert_close(mapped, s * t / (1 + (s - 1) * t), rtol=1e-12, atol=1e-14)


def test_resolution_shift_is_that_of_simple_diffusion() -> None:
    assert resolution_shift(64) == 0
    assert resolution_shift(512) == pytest.approx(-2 * math.log(8))
    assert resolution_shift(16, base=32) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("ends", [(1.0, 2.0), (math.inf, 0.0), (math.nan, 0.0), (1500.0, 0.0), (0.0, -90.0)])
@pytest.mark.parametrize("make", [RectifiedFlow, Cosine, Linear])
def test_impossible_ends_are_refused(make: type[Linear], ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="clean > noise"):
        make(*ends)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPBeta(beta_min=-0.1), "beta_min <= beta_max.*-0.1"),
        (lambda: VPBeta(beta_min=21.0), "beta_min <= beta_max.*21"),
        (lambda: VPBeta(beta_min=0.0, beta_max=0.0), "above 0"),
        (lambda: VPBeta(beta_max=math.nan), "beta_min <= beta_max.*nan"),
        (lambda: VPBeta(beta_max=math.inf), "up to 80.*inf"),
        (lambda: VPBeta(clean=-20.0), "clean > noise"),
        (lambda: VPBeta(clean=math.nan), "clean > noise"),
        (lambda: EDM(sigma_min=0.0), "sigma_min < sigma_max.*0.0"),
        (lambda: EDM(sigma_min=3.0, sigma_max=2.0), "sigma_min < sigma_max"),
        (lambda: EDM(sigma_max=math.nan), "sigma_min < sigma_max.*nan"),
        (lambda: EDM(rho=0.5), "rho must be from 1.*0.5"),
        (lambda: EDM(rho=math.nan), "rho must be from 1.*nan"),
        (lambda: shifted(Cosine(), math.nan), "within ±40 nats, got nan"),
        (lambda: shifted(Cosine(), -41.0), "within ±40 nats, got -41"),
        (lambda: resolution_shift(0), "at least 1, got side=0"),
    ],
)
def test_impossible_schedules_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@ours
def test_all_of_ours_are_invertible_schedules(schedule: InvertibleSchedule) -> None:
    assert isinstance(schedule, InvertibleSchedule)
    assert isinstance(shifted(schedule, 1.0), InvertibleSchedule)
    assert isinstance(LearnedSchedule(generator=torch.Generator()), InvertibleSchedule)
