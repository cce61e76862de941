"""Conversions between predictions and between scales, against their definitions."""

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

import apd_schedules as sch
from apd_schedules import NoiseMap, Scale, corrupt, rescale
from strategies import log_snrs, normals, tokens

KINDS = ("eps", "v", "flow", "score", "edm")
SCALES: tuple[Scale, ...] = ("variance-preserving", "variance-exploding", "flow")
each_kind = pytest.mark.parametrize("kind", KINDS)
Conversion = Callable[..., Tensor]


def both(kind: str) -> tuple[Conversion, Conversion]:
    return getattr(sch, f"{kind}_from_x"), getattr(sch, f"x_from_{kind}")


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
    close(noise.sigma * sch.score_from_x(x, z, noise), -eps)


@given(st.data(), tokens)
def test_score_is_the_gradient_of_the_log_density_of_a_known_token(data: st.DataObject, n: int) -> None:
    noise, x, z = NoiseMap(data.draw(log_snrs(n)).clamp(-12, 12)), data.draw(normals(n, 2)), data.draw(normals(n, 2))
    z.requires_grad_(True)
    log_p = torch.distributions.Normal(noise.alpha * x, noise.sigma).log_prob(z).sum()
    (gradient,) = torch.autograd.grad(log_p, z)
    torch.testing.assert_close(sch.score_from_x(x, z.detach(), noise), gradient, rtol=1e-9, atol=1e-9)


@given(st.data(), tokens, st.floats(0.1, 10.0))
def test_edm_is_the_published_preconditioning(data: st.DataObject, n: int, data_std: float) -> None:
    """``x = c_skip y + c_out F`` with ``y = x + s eps``, Karras et al. 2022, table 1."""
    noise, network = NoiseMap(data.draw(log_snrs(n)).clamp(-12, 12)), data.draw(normals(n, 2))
    y = data.draw(normals(n, 2))
    s = (-noise.log_snr / 2).exp()
    x = data_std**2 / (s**2 + data_std**2) * y + s * data_std / (s**2 + data_std**2).sqrt() * network
    z = rescale(y, noise, "variance-exploding", "variance-preserving")
    torch.testing.assert_close(sch.x_from_edm(network, z, noise, data_std), x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sch.edm_from_x(x, z, noise, 1.0), -sch.v_from_x(x, z, noise), rtol=1e-9, atol=1e-9)


def test_targets_of_edm_have_unit_variance() -> None:
    """For data of independent elements of the standard deviation that was promised; five standard errors."""
    generator = torch.Generator().manual_seed(0)
    noise = NoiseMap(torch.tensor([-9.0, -1.0, 0.0, 2.0, 9.0], dtype=torch.float64)[:, None])
    x, eps = torch.randn(2, 5, 20_000, generator=generator, dtype=torch.float64)
    target = sch.edm_from_x(0.3 * x, corrupt(0.3 * x, noise, eps), noise, 0.3)
    torch.testing.assert_close(target.var(1), torch.ones(5).double(), rtol=0, atol=5 * math.sqrt(2 / 20_000))


@each_kind
@given(st.data(), tokens)
def test_round_trips(kind: str, data: st.DataObject, n: int) -> None:
    """To 1e-10, and to 1e-4 in float32, where z is of x and noise: the log-SNR within ±10."""
    to, back = both(kind)
    noise = NoiseMap(data.draw(log_snrs(n)).clamp(-10, 10))
    x = data.draw(normals(n, 2))
    z = corrupt(x, noise, data.draw(normals(n, 2)))
    torch.testing.assert_close(back(to(x, z, noise), z, noise), x, rtol=0, atol=1e-10)
    prediction = to(x, z, noise)
    torch.testing.assert_close(to(back(prediction, z, noise), z, noise), prediction, rtol=1e-10, atol=1e-10)
    x, z, noise = x.float(), z.float(), NoiseMap(noise.log_snr.float())
    torch.testing.assert_close(back(to(x, z, noise), z, noise), x, rtol=0, atol=1e-4)


@given(st.data(), tokens, st.floats(0.1, 10.0))
def test_errors_of_predictions_are_in_the_known_ratios(data: st.DataObject, n: int, data_std: float) -> None:
    """Squared, per element, for one error of x; the weights of the likelihood in any of them follow."""
    noise = NoiseMap(data.draw(log_snrs(n)).clamp(-10, 10))
    z, x, guess = data.draw(normals(n, 2)), data.draw(normals(n, 2)), data.draw(normals(n, 2))
    guess = x + (guess - x).sign() * (guess - x).abs().clamp(min=0.1)
    squares = {kind: (both(kind)[0](guess, z, noise) - both(kind)[0](x, z, noise)) ** 2 for kind in KINDS}
    squares["edm"] = (sch.edm_from_x(guess, z, noise, data_std) - sch.edm_from_x(x, z, noise, data_std)) ** 2
    of_eps, inverse = squares["eps"], (-noise.log_snr).exp()
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-8, atol=0)
    close((guess - x) ** 2, inverse * of_eps)
    close(squares["v"], (1 + inverse) * of_eps)
    close(squares["flow"], (1 + inverse.sqrt()) ** 2 * of_eps)
    close(squares["score"], (1 + noise.log_snr.exp()) * of_eps)
    close(squares["edm"], (inverse + data_std**2) / data_std**2 * of_eps)


def test_v_flow_and_edm_give_x_well_at_every_level_in_float32() -> None:
    """The error of x is a few roundings of z and the prediction, from clean to noise."""
    noise = NoiseMap(torch.linspace(-18, 18, 101)[:, None])
    exact = NoiseMap(noise.log_snr.double())
    z, p = torch.randn(2, 101, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("v", "flow", "edm"):
        back = both(kind)[1]
        torch.testing.assert_close(back(p, z, noise).double(), back(p.double(), z.double(), exact), rtol=0, atol=2e-6)


@given(st.data(), tokens)
def test_scales_are_what_they_are_called(data: st.DataObject, n: int) -> None:
    noise = NoiseMap(data.draw(log_snrs(n)))
    x, eps = data.draw(normals(n, 2)), data.draw(normals(n, 2))
    t = noise.flow_level
    of = {
        "variance-preserving": corrupt(x, noise, eps),
        "variance-exploding": x + (-noise.log_snr / 2).exp() * eps,
        "flow": (1 - t) * x + t * eps,
    }
    for source in SCALES:
        for target in SCALES:
            torch.testing.assert_close(rescale(of[source], noise, source, target), of[target], rtol=1e-10, atol=1e-10)
            there = rescale(of[source].float(), NoiseMap(noise.log_snr.float()), source, target)
            again = rescale(there, NoiseMap(noise.log_snr.float()), target, source)
            torch.testing.assert_close(again, of[source].float(), rtol=1e-6, atol=0)
        assert torch.equal(rescale(of[source], noise, source, source), of[source])


@pytest.mark.parametrize("scales", [("vp", "flow"), ("flow", "edm")])
def test_other_scales_are_refused(scales: tuple[str, str]) -> None:
    """By the function itself: the checker of the tests would get there first."""
    noise = NoiseMap(torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"variance-preserving, variance-exploding, flow, got '(vp|edm)'"):
        inspect.unwrap(rescale)(torch.zeros(1, 1), noise, *scales)


@pytest.mark.parametrize("data_std", [0.0, -1.0, math.nan, math.inf])
def test_impossible_standard_deviations_are_refused(data_std: float) -> None:
    z, noise = torch.zeros(1, 1), NoiseMap(torch.zeros(1, 1))
    for convert in both("edm"):
        with pytest.raises(ValueError, match=f"above 0 and finite, got {data_std}"):
            convert(z, z, noise, data_std)
