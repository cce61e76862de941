"""Solvers in whole runs: measured orders, tokens at rest, precision, the law of z, evaluations."""

import functools
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import Churn, FollowPath, Heun, classifier_free, sample
from apd_samplers._solvers import of_chain
from apd_schedules import Cosine, Linear, NoiseMap, NoiseSchedule, Posterior, RectifiedFlow, hold_clean, sequential
from long_runs import unchecked
from oracles import Gaussian
from solver_cases import MULTISTEP, PATHS, SOLVERS, Make, N, coupled, maps_of, randn, steps_of, together
from strategies import log_snrs, masks, normals, paths, tokens

ORACLE = Gaussian(N, seed=1)
each_solver = pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS.keys())


def marginal(noise: NoiseMap) -> Tensor:
    """Covariance of the tokens at a map, without batch axes or with ``(paths, 1)`` of them."""
    alpha, sigma = (factor.reshape(-1, N) for factor in (noise.alpha, noise.sigma))
    return alpha[:, :, None] * ORACLE.cov * alpha[:, None, :] + torch.diag_embed(sigma**2)


def errors(make: Make, schedule: NoiseSchedule, steps: int) -> Tensor:
    """Largest error of the final covariance on each path, from the exact one at the start.

    The denoiser is linear, so a run is a matrix: the rows of a root of the covariance are pushed through. Noise is
    linear too: N more rows start every step at 0 and receive unit noise each; of all rows together a new root is made.
    """

    maps = maps_of(together(PATHS.values()), schedule, steps, torch.zeros(1, dtype=torch.float64))
    root = torch.linalg.cholesky(marginal(maps[0])).mT
    eye = torch.eye(N, dtype=torch.float64).expand_as(root)
    units = torch.cat([torch.zeros_like(eye), eye], 1)[..., None]
    drawn = 0

    def unit_noise(like: Tensor) -> Tensor:
        nonlocal drawn
        drawn += 1
        return units

    solver = make(ORACLE, unit_noise)
    state = solver.init(root)
    for a, b in pairwise(maps):
        rows = torch.cat([root, torch.zeros_like(root)], 1)[..., None]
        moved, state = solver.step(rows, ORACLE(rows, a), a, b, state)
        if drawn:
            root = torch.linalg.cholesky(moved[..., 0].mT @ moved[..., 0]).mT
        else:
            root = moved[:, :N, :, 0]
    return (root.mT @ root - marginal(maps[-1])).abs().amax((1, 2))


MILD = Linear(clean=8.0, noise=-8.0)
# Adams starts every token at order 1: orders 3 and 4 show where that step is short, in a schedule that creeps out of
# noise. In Euler's covariance the leading error of synchronous tokens cancels in schedules linear in log-SNR.
ORDERS: dict[str, tuple[float, float, NoiseSchedule, int]] = {
    **dict.fromkeys(("DDPM", "DDIM"), (1, 0.1, MILD, 512)),
    "Euler": (1, 0.1, RectifiedFlow(clean=8.0, noise=-8.0), 512),
    **dict.fromkeys(("Heun", "churn+Heun", "DPM++2M"), (2, 0.1, MILD, 512)),
    **{f"Adams{p}": (p, 0.15, Linear(clean=14.0, noise=-14.0), 1024) for p in (1, 2, 3, 4)},
}


@pytest.mark.parametrize("name", SOLVERS)
def test_order_on_every_path(name: str) -> None:
    order, slack, schedule, steps = ORDERS[name]
    with unchecked():
        fine, coarse = (errors(SOLVERS[name], schedule, n) for n in (steps, steps // 2))
    measured = (coarse / fine).log2()
    assert ((measured - order).abs() < slack).all(), dict(zip(PATHS, measured.tolist(), strict=True))


def test_a_jump_out_of_noise_sets_the_order_of_adams() -> None:
    with unchecked():
        fine, coarse = (errors(MULTISTEP["Adams4"], RectifiedFlow(clean=8.0, noise=-8.0), n) for n in (512, 256))
    assert ((coarse / fine).log2() - 2).abs().max() < 0.1


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine(), Linear(clean=18.0, noise=-18.0)], ids=repr)
@each_solver
def test_few_steps_between_far_ends_stay_sane(make: Make, schedule: NoiseSchedule) -> None:
    """The first and last steps change sigma / alpha a thousandfold; unlimited, Heun's error is 1e5 here."""
    for steps in (4, 12, 20):
        assert errors(make, schedule, steps).max() < 1.5


@each_solver
@given(st.data(), tokens, st.integers(1, 6), st.sampled_from([torch.float32, torch.float64]))
def test_tokens_at_rest_are_bit_equal_and_gradients_finite(
    make: Make, data: st.DataObject, n: int, steps: int, dtype: torch.dtype
) -> None:
    """Through whole runs in which tokens start, stop and start again, some of them clean from the beginning."""
    z = (3 * data.draw(normals(2, n, 2))).to(dtype).requires_grad_()
    maps = maps_of(hold_clean(data.draw(paths(n)), data.draw(masks(n))), RectifiedFlow(), steps, z)
    for k, held in enumerate(data.draw(normals(steps, n, 2)) > 0):  # elements wait for a step and make up for it later
        maps[k + 1] = NoiseMap(torch.where(held, maps[k].log_snr, maps[k + 1].log_snr))
    solver, moved = make(coupled, randn), z
    for step in steps_of(solver, coupled, maps, z):
        rest = (step.a.log_snr == step.b.log_snr).expand_as(z[0])
        assert torch.equal(step.moved[:, rest], step.z[:, rest])
        assert step.moved.isfinite().all()
        moved = step.moved
    (gradient,) = torch.autograd.grad(moved.square().sum(), z)
    assert gradient.isfinite().all()


@each_solver
def test_float32_runs_stay_near_float64(make: Make) -> None:
    z = torch.randn(2, N, 3, generator=Generator().manual_seed(0), dtype=torch.float64)
    for steps in (20, 200):
        walk, runs = FollowPath(PATHS["staggered"], RectifiedFlow(), steps), []
        for start in (z, z.float()):
            solver = make(coupled, lambda like: randn(z).to(like))
            runs.append(sample(coupled, solver, walk, start).tokens.double())
        assert (runs[0] - runs[1]).abs().max() < 1e-4


class Exact:
    """A stub that brings unit rows to a root of the exact covariance of the map it is asked for."""

    asked: NoiseMap

    def init(self, z: Tensor) -> None:
        return None

    def step(self, z: Tensor, posterior: Posterior, a: NoiseMap, b: NoiseMap, state: None) -> tuple[Tensor, None]:
        self.asked = b
        return torch.cat([torch.linalg.cholesky(marginal(b))[0].mT, torch.zeros(N, N).double()])[..., None], None


@given(st.data(), st.floats(0, 3))
def test_churn_keeps_the_law_of_z(data: st.DataObject, share: float) -> None:
    """Exact at the cleaner map before, hence exact at ``b`` after."""
    a = NoiseMap(data.draw(log_snrs(N)))
    b = NoiseMap(a.log_snr + data.draw(log_snrs(N)).clamp(0) / 4)
    z, units = torch.zeros(2 * N, N, 1).double(), torch.cat([torch.zeros(N, N), torch.eye(N)]).double()[..., None]
    exact = Exact()
    rows = Churn(exact, share, lambda like: units).step(z, Posterior(z), a, b, None)[0][..., 0]
    torch.testing.assert_close(rows.T @ rows, marginal(b)[0], rtol=0, atol=1e-12)
    raised = exact.asked.log_snr - b.log_snr
    torch.testing.assert_close(raised, (share * (b.log_snr - a.log_snr)).clamp(max=math.log(2)), rtol=0, atol=1e-14)


@each_solver
@given(st.data(), tokens)
def test_churn_of_nothing_is_the_solver_bit_for_bit(make: Make, data: st.DataObject, n: int) -> None:
    walk = FollowPath(data.draw(paths(n)), RectifiedFlow(), 4)
    z = data.draw(normals(2, n, 2)).float()
    with unchecked():
        plain = sample(coupled, make(coupled, randn), walk, z)
    churned = sample(coupled, Churn(make(coupled, randn), 0.0, randn), walk, z)
    assert torch.equal(plain.tokens, churned.tokens)
    assert plain.evaluations == churned.evaluations


@each_solver
def test_every_evaluation_is_counted_and_conditions_reach_it(make: Make) -> None:
    calls = 0

    def told(z: Tensor, noise: NoiseMap, *, label: float) -> Posterior:
        nonlocal calls
        calls += 1
        return Posterior(torch.full_like(z, label))

    walk, z = FollowPath(sequential(torch.arange(5)), RectifiedFlow(), 7), torch.zeros(2, 5, 1)
    for denoise, cost in ((told, 1), (classifier_free(2.0, {"label": 0.0})(told), 2)):
        bound = functools.partial(denoise, label=1.0)
        solver = make(bound, randn)
        calls = 0
        if of_chain(solver, "cond") is None:
            result = sample(denoise, solver, walk, z, label=1.0)
        else:  # it asks the model itself, which has its conditions bound
            result = sample(bound, solver, walk, z)
        per_step = 2 if isinstance(solver, Heun | Churn) else 1
        assert (result.evaluations, result.token_evaluations) == (7 * per_step * cost, 35 * per_step * cost)
        assert calls == result.evaluations
        if isinstance(solver, Heun):
            said = sample(denoise, Heun(denoise, {"label": 1.0}), walk, z, label=1.0)
            assert torch.equal(said.tokens, result.tokens)


def test_the_second_stage_of_heun_is_of_the_tokens() -> None:
    """It is not broadcast."""
    a, b = (NoiseMap(torch.full((3, 1), level, dtype=torch.float64)) for level in (0.0, 1.0))
    z = torch.ones(2, 3, 2, dtype=torch.float64)
    solver = Heun(lambda z, noise: Posterior(z[..., :1]))
    with unchecked(), pytest.raises(ValueError, match=r"returned a mean of shape \(2, 3, 1\) for tokens of shape"):
        solver.step(z, Posterior(z), a, b, solver.init(z))
