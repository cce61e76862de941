"""Noise schedules: decreasing, exact at their ends, and the formulas they claim."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from apd_schedules import Cosine, Linear, NoiseMap, NoiseSchedule, RectifiedFlow
from strategies import schedules


@given(schedules, st.sampled_from([torch.float32, torch.float64]))
def test_ends_are_met_to_rounding_and_the_way_is_strictly_down(schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    levels = torch.linspace(0, 1, 1025, dtype=dtype)
    log_snr = schedule(levels)
    assert log_snr.dtype == dtype
    ends = torch.tensor([schedule.clean, schedule.noise], dtype=dtype)  # pyrefly: ignore - all of ours have ends
    torch.testing.assert_close(log_snr[[0, -1]], ends, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert (log_snr.diff() < 0).all()


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


@pytest.mark.parametrize("ends", [(1.0, 2.0), (math.inf, 0.0), (math.nan, 0.0), (1500.0, 0.0), (0.0, -90.0)])
@pytest.mark.parametrize("make", [RectifiedFlow, Cosine, Linear])
def test_impossible_ends_are_refused(make: type[Linear], ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="clean > noise"):
        make(*ends)
