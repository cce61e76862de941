"""Solvers against their published forms, and what is refused."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import DDIM, Adams, Churn, DPMSolverPP2M, Euler, FollowPath, Heun, Solver, sample
from apd_schedules import NoiseMap, Posterior, RectifiedFlow, eps_from_x, synchronous, x_from_flow
from solver_cases import coupled, randn, steps_of
from strategies import log_snrs, normals, seeds, tokens


def walk_of(seed: int, steps: int = 6) -> list[NoiseMap]:
    """One level, uneven steps of half the log-SNR in [0.4, 0.7]."""
    half = 0.4 + 0.3 * torch.rand(steps, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return [NoiseMap(level.reshape(1, 1)) for level in torch.cat([half.new_zeros(1), 2 * half.cumsum(0)]) - 3]


def scalar(noise: NoiseMap) -> tuple[float, float]:
    """alpha and sigma."""
    half = noise.log_snr.item() / 2
    return 1 / math.sqrt(1 + math.exp(-2 * half)), 1 / math.sqrt(1 + math.exp(2 * half))


def guess(z: float, alpha: float, sigma: float) -> float:
    return coupled(torch.tensor([[z]], dtype=torch.float64), level(alpha, sigma)).mean.item()


def level(alpha: float, sigma: float) -> NoiseMap:
    return NoiseMap(torch.tensor([[2 * math.log(alpha / sigma)]], dtype=torch.float64))


def runs_as(solver: Solver[Any], maps: list[NoiseMap], expected: list[float], start: float = 0.8) -> None:
    z = torch.tensor([[start]], dtype=torch.float64)
    got = [step.moved.item() for step in steps_of(solver, coupled, maps, z)]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@given(seeds)
def test_euler_follows_v_in_the_angle_and_ddim_the_flow(seed: int) -> None:
    maps, z, w, tangent, straight = walk_of(seed), 0.8, 0.8, [], []
    for (alpha, sigma), (alpha_b, sigma_b) in pairwise(map(scalar, maps)):
        x = guess(z, alpha, sigma)
        v = alpha * (z - alpha * x) / sigma - sigma * x
        z += (math.atan2(sigma_b, alpha_b) - math.atan2(sigma, alpha)) * v
        tangent.append(z)
        x = guess(w, alpha, sigma)
        velocity = (w - alpha * x) / sigma - x
        u = w / (alpha + sigma) + (sigma_b / (alpha_b + sigma_b) - sigma / (alpha + sigma)) * velocity
        w = (alpha_b + sigma_b) * u
        straight.append(w)
    runs_as(Euler(), maps, tangent)
    runs_as(DDIM(), maps, straight)
    runs_as(Adams(1), maps, straight)


@given(seeds)
def test_heun_is_algorithm_1_of_karras(seed: int) -> None:
    maps, expected = walk_of(seed), []
    y = 0.8 / scalar(maps[0])[0]
    for (alpha, sigma), (alpha_b, sigma_b) in pairwise(map(scalar, maps)):
        rho, rho_b = sigma / alpha, sigma_b / alpha_b
        d = (y - guess(alpha * y, alpha, sigma)) / rho
        euler = y + (rho_b - rho) * d
        d_b = (euler - guess(alpha_b * euler, alpha_b, sigma_b)) / rho_b
        y += (rho_b - rho) * (d + d_b) / 2
        expected.append(alpha_b * y)
    runs_as(Heun(coupled), maps, expected)


@given(seeds)
def test_dpm_solver_is_algorithm_2_of_lu(seed: int) -> None:
    maps, expected, z, before = walk_of(seed), [], 0.8, None
    for (alpha, sigma), (alpha_b, sigma_b) in pairwise(map(scalar, maps)):
        h = math.log(alpha_b / sigma_b) - math.log(alpha / sigma)
        d = x = guess(z, alpha, sigma)
        if before is not None:
            r = before[1] / h
            d = (1 + 1 / (2 * r)) * x - before[0] / (2 * r)
        z = sigma_b / sigma * z - alpha_b * (math.exp(-h) - 1) * d
        before = x, h
        expected.append(z)
    runs_as(DPMSolverPP2M(), maps, expected)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_with_equal_steps_has_the_classical_coefficients(order: int) -> None:
    table = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    times = torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    maps = [NoiseMap((2 * ((1 - t) / t).log()).reshape(1, 1)) for t in times]
    u, past, expected = 0.8 / sum(scalar(maps[0])), [], []
    for (alpha, sigma), (alpha_b, sigma_b) in pairwise(map(scalar, maps)):
        x, f = guess((alpha + sigma) * u, alpha, sigma), sigma / (alpha + sigma)
        past = [(u - x) / f, *past][:order]
        u -= 0.1 * sum(c * velocity for c, velocity in zip(table[len(past)], past, strict=True))
        expected.append((alpha_b + sigma_b) * u)
    runs_as(Adams(order), maps, expected)


@given(st.data(), tokens, st.integers(1, 4))
def test_adams_is_exact_for_polynomials_with_every_tokens_own_steps(data: st.DataObject, n: int, order: int) -> None:
    """From noise to clean or the other way, once the history is long enough."""
    coefficients = data.draw(normals(order, n, 1))
    sizes = 0.05 + 0.04 * torch.rand(8, n, 1, generator=Generator().manual_seed(data.draw(seeds)), dtype=torch.float64)
    levels = 0.95 - torch.cat([torch.zeros(1, n, 1, dtype=torch.float64), sizes.cumsum(0)])
    if data.draw(st.booleans()):
        levels = levels.flip(0)

    def polynomial(f: Tensor, lift: int) -> Tensor:
        return sum((c * f ** (k + lift) / (k + lift if lift else 1) for k, c in enumerate(coefficients)), 0 * f)

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        return Posterior(x_from_flow(polynomial(noise.flow_level, 0), z, noise))

    maps = [NoiseMap(2 * ((1 - f) / f).log()) for f in levels]
    run = list(steps_of(Adams(order), denoise, maps, torch.zeros(n, 1, dtype=torch.float64)))
    for k, step in enumerate(run[order - 1 :], order - 1):
        change = step.moved / (step.b.alpha + step.b.sigma) - step.z / (step.a.alpha + step.a.sigma)
        exact = polynomial(levels[k + 1], 1) - polynomial(levels[k], 1)
        torch.testing.assert_close(change, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [DPMSolverPP2M(), Adams(2), Adams(4)], ids=repr)
@pytest.mark.parametrize(
    ("levels", "end"),
    [
        ((-2.0, -1.5, -1.0, -1.0, -0.6, -0.2, 0.2), 3),  # rest
        ((-2.0, -1.8, -1.6, 0.2, 1.0, 1.5, 2.0), 2),  # a step of more than limit times the one before
        ((-2.0, -1.6, -1.2, -0.8, -1.2, -1.6, -2.0), 3),  # a turn
    ],
)
def test_rests_jumps_and_turns_end_the_history(solver: Solver[Any], levels: tuple[float, ...], end: int) -> None:
    """From there on the run is one that starts there."""
    maps = [NoiseMap(torch.tensor([[x]], dtype=torch.float64)) for x in levels]
    run = list(steps_of(solver, coupled, maps, torch.tensor([[0.8]], dtype=torch.float64)))
    for ours, fresh in zip(run[end:], steps_of(solver, coupled, maps[end:], run[end].z), strict=True):
        torch.testing.assert_close(ours.moved, fresh.moved, rtol=0, atol=1e-14)


def test_limits_can_be_lifted() -> None:
    z = torch.tensor([[0.8]], dtype=torch.float64)
    maps = [NoiseMap(torch.tensor([[x]], dtype=torch.float64)) for x in (-2.0, -1.8, 0.5)]
    lifted: list[Solver[Any]] = [DPMSolverPP2M(limit=math.inf), Adams(2, limit=math.inf)]
    for solver in lifted:
        _, last = steps_of(solver, coupled, maps, z)
        first, _ = DDIM().step(last.z, coupled(last.z, last.a), last.a, last.b, None)
        assert (last.moved - first).abs() > 1e-3
    for a, b in ((-9.0, -5.0), (5.0, 9.0), (9.0, 5.0)):  # sigma / alpha changes by e² = 7.4
        maps = [NoiseMap(torch.tensor([[x]], dtype=torch.float64)) for x in (a, b)]
        first, _ = DDIM().step(z, coupled(z, maps[0]), maps[0], maps[1], None)
        assert torch.equal(next(steps_of(Heun(coupled), coupled, maps, z)).moved, first)
        assert not torch.equal(next(steps_of(Heun(coupled, limit=8.0), coupled, maps, z)).moved, first)


@given(st.data(), tokens)
def test_ancestral_and_first_steps(data: st.DataObject, n: int) -> None:
    """DDIM(1) is the posterior of Ho et al. 2020, and the first step of DPM-Solver++ and Adams is DDIM's."""
    a = NoiseMap(data.draw(log_snrs(n)).clamp(-6, 6))
    b = NoiseMap(a.log_snr + 0.1 + data.draw(log_snrs(n)).abs() / 4)
    z, x, fresh = (data.draw(normals(2, n, 2)) for _ in range(3))
    forward = a.alpha / b.alpha
    added = a.sigma**2 - forward**2 * b.sigma**2
    mean = forward * (b.sigma / a.sigma) ** 2 * z + b.alpha * added / a.sigma**2 * x
    moved, _ = DDIM(1.0, lambda like: fresh).step(z, Posterior(x), a, b, None)
    expected = mean + added.sqrt() * b.sigma / a.sigma * fresh
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
    first, _ = DDIM().step(z, Posterior(x), a, b, None)
    torch.testing.assert_close(first, b.alpha * x + b.sigma * eps_from_x(x, z, a), rtol=1e-12, atol=1e-12)
    others: list[Solver[Any]] = [DPMSolverPP2M(), Adams(4)]
    for solver in others:
        torch.testing.assert_close(solver.step(z, Posterior(x), a, b, solver.init(z))[0], first, rtol=0, atol=1e-12)


@given(seeds)
def test_churn_is_algorithm_2_of_karras(seed: int) -> None:
    """There: raise rho to (1 + gamma) rho, evaluate, step. Here the raised maps are the walk."""
    maps, expected, z = walk_of(seed), [], 0.8
    for (alpha, sigma), (alpha_b, sigma_b) in pairwise(map(scalar, maps)):
        y, rho_hat, raised = z / alpha, sigma / alpha, sigma_b / alpha_b
        gamma = min((rho_hat / raised) ** 0.3, math.sqrt(2)) - 1
        rho = raised / (1 + gamma)  # the unraised level of the next step
        scale = math.sqrt(1 + rho**2)
        d = (y - guess(z, alpha, sigma)) / rho_hat
        euler = y + (rho - rho_hat) * d
        d_b = (euler - guess(euler / scale, 1 / scale, rho / scale)) / rho
        y += (rho - rho_hat) * (d + d_b) / 2
        z = alpha_b * (y + math.sqrt(raised**2 - rho**2) * 0.7)
        expected.append(z)
    runs_as(Churn(Heun(coupled), 0.3, lambda like: torch.full_like(like, 0.7)), maps, expected)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Adams(0), "orders 1, 2, 3 and 4, got 0"),
        (lambda: Adams(5), "orders 1, 2, 3 and 4, got 5"),
        (lambda: Adams(2, limit=0.5), "at least 1, got 0.5"),
        (lambda: DPMSolverPP2M(limit=math.nan), "at least 1, got nan"),
        (lambda: Heun(coupled, limit=0.0), "at least 1: got 0.0"),
        (lambda: Churn(DDIM(), -0.1, randn), "0 or more, got -0.1"),
        (lambda: Churn(DDIM(), math.nan, randn), "0 or more, got nan"),
    ],
)
def test_impossible_parameters_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("wrap", [lambda heun: heun, lambda heun: Churn(heun, 0.1, torch.zeros_like)])
def test_a_solver_that_asks_the_model_must_have_its_conditions(wrap: Callable[[Heun], Any]) -> None:
    """Else its second stage would silently be the unconditional model."""

    def model(z: Tensor, noise: NoiseMap, label: Tensor | None = None) -> Posterior:
        return Posterior(noise.alpha * z if label is None else noise.alpha * z + label)

    walk, z, label = FollowPath(synchronous(2), RectifiedFlow(), 3), torch.ones(1, 2, 1), torch.ones(())
    with pytest.raises(ValueError, match=r"conditions \[\], sample's have \['label'\]"):
        sample(model, wrap(Heun(model)), walk, z, label=label)
    assert sample(model, wrap(Heun(model, {"label": label})), walk, z, label=label).evaluations == 6
