"""Conversions between predictions, against their definitions."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st

import apd_schedules as sch
from apd_schedules import NoiseMap, corrupt
from strategies import log_snrs, normals, tokens


@given(st.data(), tokens)
def test_each_prediction_is_what_it_is_called(data: st.DataObject, n: int) -> None:
    """From z = alpha x + sigma eps with known x and eps."""
    noise = NoiseMap(data.draw(log_snrs(n)).clamp(-12, 12))
    x, eps = data.draw(normals(n, 2)), data.draw(normals(n, 2))
    z = corrupt(x, noise, eps)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    close(sch.eps_from_x(x, z, noise), eps)
    close(sch.v_from_x(x, z, noise), noise.alpha * eps - noise.sigma * x)
    close(sch.flow_from_x(x, z, noise), eps - x)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
@given(st.data(), tokens)
def test_round_trips(kind: str, data: st.DataObject, n: int) -> None:
    to: Callable[..., torch.Tensor] = getattr(sch, f"{kind}_from_x")
    back: Callable[..., torch.Tensor] = getattr(sch, f"x_from_{kind}")
    noise = NoiseMap(data.draw(log_snrs(n)).clamp(-12, 12))
    x, z = data.draw(normals(n, 2)), data.draw(normals(n, 2))
    torch.testing.assert_close(back(to(x, z, noise), z, noise), x, rtol=1e-8, atol=1e-8)


def test_v_and_flow_give_x_well_at_every_level_in_float32() -> None:
    """The error of x is a few roundings of z and the prediction, from clean to noise."""
    noise = NoiseMap(torch.linspace(-18, 18, 101)[:, None])
    exact = NoiseMap(noise.log_snr.double())
    z, p = torch.randn(2, 101, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("v", "flow"):
        back: Callable[..., torch.Tensor] = getattr(sch, f"x_from_{kind}")
        torch.testing.assert_close(back(p, z, noise).double(), back(p.double(), z.double(), exact), rtol=0, atol=2e-6)
