"""Going back up: the forward kernel as a solver, and rounds of partial refinement."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import inpainting_exact as benchmark
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import (
    DDIM,
    Adams,
    Churn,
    DPMSolverPP2M,
    FollowPath,
    Heun,
    NoiseSource,
    PerSampleNoise,
    Renoise,
    Restarts,
    Solver,
    sample,
)
from apd_samplers._solvers._renoise import renoise
from apd_schedules import (
    Linear,
    NoiseMap,
    NoiseSchedule,
    Posterior,
    RectifiedFlow,
    capped,
    hold_at,
    hold_clean,
    sequential,
    staggered,
    synchronous,
)
from long_runs import unchecked
from oracles import Gaussian
from solver_cases import N, coupled, randn, steps_of
from strategies import log_snrs, masks, normals, tokens

FLOW = RectifiedFlow()
ORACLE = Gaussian(N, seed=1)


def keys(seed: int = 0) -> NoiseSource:
    g = Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=g, dtype=like.dtype)


def marginal(noise: NoiseMap) -> Tensor:
    alpha, sigma = noise.alpha.reshape(N), noise.sigma.reshape(N)
    return alpha[:, None] * ORACLE.cov * alpha + torch.diag(sigma**2)


# Renoise


class Exact:
    """A stub that brings unit rows to a root of the exact covariance of the map it is asked for."""

    def init(self, z: Tensor) -> None:
        return None

    def step(self, z: Tensor, posterior: Posterior, a: NoiseMap, b: NoiseMap, state: None) -> tuple[Tensor, None]:
        return torch.cat([torch.linalg.cholesky(marginal(b)).mT, torch.zeros(N, N).double()])[..., None], None


@given(st.data())
def test_going_up_keeps_the_law_of_z_and_is_the_published_kernel(data: st.DataObject) -> None:
    """Exact at the cleaner of the two maps, hence exact at ``b``, whichever tokens rise."""
    a, b = NoiseMap(data.draw(log_snrs(N))), NoiseMap(data.draw(log_snrs(N)))
    z, units = torch.zeros(2 * N, N, 1).double(), torch.cat([torch.zeros(N, N), torch.eye(N)]).double()[..., None]
    rows = Renoise(Exact(), lambda like: units).step(z, Posterior(z), a, b, None)[0][..., 0]
    torch.testing.assert_close(rows.mT @ rows, marginal(b), rtol=0, atol=1e-12)
    low, x, fresh = (
        NoiseMap(torch.maximum(a.log_snr, b.log_snr)),
        data.draw(normals(2, N, 3)),
        data.draw(normals(2, N, 3)),
    )
    ratio = b.alpha / low.alpha
    expected = ratio * x + (b.sigma**2 - ratio**2 * low.sigma**2).clamp(min=0).sqrt() * fresh
    torch.testing.assert_close(renoise(x, low, b, fresh), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "solver", [DDIM(), DPMSolverPP2M(), Adams(3), Heun(coupled)], ids=lambda solver: type(solver).__name__
)
@given(st.data(), tokens, st.sampled_from([torch.float32, torch.float64]))
def test_tokens_that_do_not_rise_step_as_without(
    solver: Solver[Any], data: st.DataObject, n: int, dtype: torch.dtype
) -> None:
    """Bit for bit, also at rest; and the inner solver sees the others at rest."""
    a, b = (NoiseMap(data.draw(log_snrs(n)).to(dtype)) for _ in range(2))
    b = NoiseMap(torch.where(data.draw(masks(n)), a.log_snr, b.log_snr))
    z = data.draw(normals(2, n, 2)).to(dtype)
    posterior, falls = coupled(z, a), (b.log_snr >= a.log_snr)[:, 0]
    low = NoiseMap(torch.maximum(a.log_snr, b.log_snr))
    moved, state = Renoise(solver, randn).step(z, posterior, a, b, solver.init(z))
    plain, own = solver.step(z, posterior, a, low, solver.init(z))
    assert torch.equal(moved[:, falls], plain[:, falls])
    rest = (b.log_snr == a.log_snr)[:, 0]
    assert torch.equal(moved[:, rest], z[:, rest])
    assert moved.isfinite().all()
    if isinstance(solver, Heun):
        assert state == own


@pytest.mark.parametrize("solver", [DPMSolverPP2M(), Adams(3)], ids=repr)
def test_going_up_ends_the_history(solver: Solver[Any]) -> None:
    """The run from there on is one that starts there: unlimited in its steps, it would extrapolate over the turn."""
    maps = [NoiseMap(torch.tensor([[x]], dtype=torch.float64)) for x in (-2.0, -1.6, -1.2, -2.2, -1.8, -1.4, -1.0)]
    up = Renoise(solver, randn)
    run = list(steps_of(up, coupled, maps, torch.tensor([[0.8]], dtype=torch.float64)))
    for ours, fresh in zip(run[3:], steps_of(up, coupled, maps[3:], run[3].z), strict=True):
        torch.testing.assert_close(ours.moved, fresh.moved, rtol=0, atol=1e-14)


# Restarts


def walked(scheduler: Restarts[Any], z: Tensor) -> list[NoiseMap]:
    noise, state = scheduler.init(z)
    maps = [noise]
    while len(maps) <= scheduler.max_steps and not scheduler.finished(noise, state):
        noise, state = scheduler.next(noise, Posterior(z), state)
        maps.append(noise)
    assert scheduler.finished(noise, state) or len(maps) == scheduler.max_steps + 1
    return maps


@given(st.data(), st.integers(1, 8), st.integers(1, 3), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_rounds_move_a_share_of_the_tokens_and_no_known_one(
    data: st.DataObject, n: int, rounds: int, share: float
) -> None:
    known, z = torch.stack([data.draw(masks(n)) for _ in range(3)]), torch.zeros(3, n, 2)
    first = FollowPath(hold_clean(synchronous(n), known), FLOW, 4)
    maps = walked(Restarts(first, synchronous(n), FLOW, 3, rounds, keys(), share), z)
    ends = FLOW(torch.tensor([0.0, 1.0], dtype=torch.float64)).float()
    assert len(maps) == (1 if known.all() else 5 + 3 * rounds)
    assert all((noise.log_snr[known] == ends[0]).all() for noise in maps)
    assert (maps[-1].log_snr == ends[0]).all()
    unknown = (~known).sum((-2, -1))
    for k in range(rounds if len(maps) > 1 else 0):
        start, *middle, _ = maps[4 + 3 * k : 8 + 3 * k]
        chosen = start.log_snr == ends[1]
        assert torch.equal(chosen.sum((-2, -1)), torch.minimum((share * unknown).round().clamp(min=1).long(), unknown))
        for at, level in zip(middle, (2 / 3, 1 / 3), strict=True):
            expected = torch.where(chosen, FLOW(torch.tensor(level).double()).float(), ends[0])
            torch.testing.assert_close(at.log_snr, expected)


@pytest.mark.parametrize(("n", "share", "count"), [(7, 0.25, 2), (6, 0.2, 1), (100, 0.29, 29), (3, 0.1, 1)])
def test_a_share_is_the_nearest_whole_number(n: int, share: float, count: int) -> None:
    first = FollowPath(synchronous(n), FLOW, 1)
    maps = walked(Restarts(first, synchronous(n), FLOW, 1, 1, keys(), share), torch.zeros(1, n, 1))
    assert (maps[1].log_snr < 0).sum() == count


def test_a_context_that_is_held_noisy_is_never_chosen() -> None:
    """Neither beside unknown tokens nor where a sample has nothing else."""
    held, z = torch.tensor([[True, True], [True, False]])[..., None], torch.zeros(2, 2, 1)
    first = FollowPath(hold_at(synchronous(2), held, 0.3), FLOW, 2)
    for noise in walked(Restarts(first, synchronous(2), FLOW, 4, 2, keys(), 1.0), z):
        assert (noise.log_snr[held] == FLOW(torch.tensor(0.3, dtype=torch.float64)).float()).all()


def test_all_tokens_are_chosen_alike() -> None:
    z = torch.zeros(4000, 5, 1)
    known = torch.tensor([False, True, False, False, False])[:, None]
    first = FollowPath(hold_clean(synchronous(5), known), FLOW, 1)
    maps = walked(Restarts(first, synchronous(5), FLOW, 1, 2, keys(), 0.5), z)
    one, two = ((noise.log_snr < 0)[..., 0].double() for noise in maps[1:3])
    deviation = (0.25 / len(z)) ** 0.5
    for chosen in (one, two):
        assert ((chosen.mean(0) - torch.tensor([0.5, 0.0, 0.5, 0.5, 0.5])).abs() < 5 * deviation).all()
    assert abs((one * two).mean(0)[0] - 0.25) < 5 * (3 / 16 / len(z)) ** 0.5  # anew in each round


def test_a_sample_is_refined_alike_in_any_company() -> None:
    z, seeds = torch.randn(3, 6, 2, generator=Generator().manual_seed(0)), [7, 8, 9]

    def run(rows: slice) -> Tensor:
        steps = Restarts(FollowPath(synchronous(6), FLOW, 4), synchronous(6), FLOW, 4, 3, PerSampleNoise(seeds[rows]))
        return sample(coupled, Renoise(DDIM(), PerSampleNoise(seeds[rows])), steps, z[rows]).tokens

    torch.testing.assert_close(run(slice(3))[1:2], run(slice(1, 2)))


def test_no_token_goes_above_where_it_started_or_above_the_level() -> None:
    start = torch.tensor([[1.0], [0.3], [0.8], [0.0]], dtype=torch.float64)
    first = FollowPath(capped(synchronous(4), start), FLOW, 4)
    z = torch.zeros(4, 1, dtype=torch.float64)
    maps = walked(Restarts(first, staggered(torch.tensor([0, 0, 1, 1]), 0.9), FLOW, 20, 2, keys(), 1.0, 0.5), z)
    torch.testing.assert_close(FLOW.level_of(maps[4].log_snr), start.clamp(max=0.5))
    levels = torch.stack([FLOW.level_of(noise.log_snr) for noise in maps[4:24]])
    expected = torch.stack(
        [0.5 * staggered(torch.tensor([0, 0, 1, 1]), 0.9)(1 - torch.tensor(k / 20).double()) for k in range(20)]
    )
    torch.testing.assert_close(levels, torch.minimum(expected, start))


def test_evaluations_are_those_of_the_steps() -> None:
    """None is spent on a map that is only passed through; a first pass that is done early is not waited for."""
    asked: list[NoiseMap] = []

    def watch(z: Tensor, noise: NoiseMap) -> Posterior:
        asked.append(noise)
        return coupled(z, noise)

    known, z = torch.tensor([[True], [True], [False], [True]]), torch.zeros(1, 4, 1)
    first = FollowPath(hold_clean(sequential(torch.arange(4)), known), FLOW, 12)  # moves in three of twelve steps
    steps = Restarts(first, synchronous(4), FLOW, 5, 2, keys())
    assert steps.max_steps == 22
    result = sample(watch, Renoise(DDIM(), randn), steps, z)
    assert result.evaluations == len(asked) == 3 + 2 * 5
    assert all((noise.log_snr < FLOW(torch.zeros(()))).any() for noise in asked)
    assert result.token_updates.tolist() == [[0, 0, 13, 0]]


def test_no_rounds_are_the_first_pass_bit_for_bit() -> None:
    z, path = torch.randn(2, 4, 2, generator=Generator().manual_seed(0)), staggered(torch.arange(4), 0.5)
    first = FollowPath(path, FLOW, 6)
    plain = sample(coupled, DDIM(), first, z)
    none = sample(coupled, Renoise(DDIM(), randn), Restarts(first, path, FLOW, 3, 0, keys()), z)
    assert torch.equal(plain.tokens, none.tokens)
    assert plain.evaluations == none.evaluations


@given(st.data(), st.sampled_from([0.4, 1.0]))
def test_known_tokens_come_back_bit_equal(data: st.DataObject, level: float) -> None:
    z, known = data.draw(normals(2, 4, 2)).float(), torch.stack([data.draw(masks(4)) for _ in range(2)])
    first = FollowPath(hold_clean(synchronous(4), known), FLOW, 3)
    steps = Restarts(first, synchronous(4), FLOW, 3, 2, keys(), 0.5, level)
    result = sample(coupled, Renoise(DPMSolverPP2M(), randn), steps, z)
    assert torch.equal(result.tokens[known.expand_as(z)], z[known.expand_as(z)])
    assert result.tokens.isfinite().all()
    assert (result.token_updates[known[..., 0]] == 0).all()


def covariance_error(schedule: NoiseSchedule, steps: int, rounds: int, level: float) -> float:
    """Of the last map, from the exact one at the first: roots are pushed through, with units for each step's noise."""
    known = torch.tensor([[False], [True], [False], [False]])
    path = hold_clean(staggered(torch.tensor([0, 0, 1, 2]), 0.7), known)
    scheduler = Restarts(FollowPath(path, schedule, steps), synchronous(N), schedule, steps, rounds, keys(), 0.5, level)
    maps = walked(scheduler, torch.zeros(N, 1, dtype=torch.float64))
    units = torch.cat([torch.zeros(N, N), torch.eye(N)]).double()[..., None]
    solver, root = Renoise(DPMSolverPP2M(), lambda like: units), torch.linalg.cholesky(marginal(maps[0])).mT
    state = solver.init(units)
    for a, b in pairwise(maps):
        rows = torch.cat([root, torch.zeros(N, N)])[..., None]
        moved, state = solver.step(rows, ORACLE(rows, a), a, b, state)
        assert state is not None
        # Of all rows together a new root is made, by a rotation that the history of the solver goes through too.
        rotate, root = torch.linalg.qr(moved[..., 0])
        state = torch.cat([rotate.mT @ state[0][..., 0], torch.zeros(N, N)])[..., None], state[1]
    return (root.mT @ root - marginal(maps[-1])).abs().max().item()


@pytest.mark.parametrize("level", [0.6, 1.0])
def test_rounds_do_not_bias(level: float) -> None:
    """With the exact denoiser the covariance stays the data's, with the order of the solver."""
    schedule = Linear(clean=8.0, noise=-8.0)
    with unchecked():
        coarse, fine = (covariance_error(schedule, steps, 3, level) for steps in (64, 128))
    assert fine < 2e-3
    assert 3.2 < coarse / fine < 4.8


def test_components_come_up_as_often_after_rounds() -> None:
    """Completions of a mixture, refined three times: still draws from the conditional law."""
    task, noise = benchmark.problem(), benchmark.gaussian_noise(3)
    n, path = len(task.x), hold_clean(benchmark.PATH, task.known)
    z = torch.where(task.known, task.x, noise(task.x.expand(1000, n, 1)))
    steps = Restarts(FollowPath(path, FLOW, 20), benchmark.PATH, FLOW, 20, 3, keys(4), 0.5)
    # One map for all samples: the choice is that of a single one.
    maps = walked(steps, z[0])
    solver, state = Renoise(DPMSolverPP2M(), noise), None
    for a, b in pairwise(maps):
        z, state = solver.step(z, task.data(z, a), a, b, state)
    score = task.score(z[:, ~task.known[:, 0], 0])
    assert score.p > 1e-4
    assert score.mean_error < 0.05


# Refusals


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda first: Restarts(first, synchronous(2), FLOW, 0, 1, randn), "at least one step each, got 1 of 0"),
        (lambda first: Restarts(first, lambda s: 0.5 * synchronous(2)(s), FLOW, 4, 1, randn), "from noise to clean"),
        (lambda first: Restarts(first, lambda s: 1 - synchronous(2)(s), FLOW, 4, 1, randn), "must not fall"),
        (lambda first: Restarts(first, synchronous(2), FLOW, 3, -1, randn), "0 or more, .* got -1 of 3"),
        (lambda first: Restarts(first, synchronous(2), FLOW, 3, 1, randn, 0.0), "got share=0.0, level=1.0"),
        (lambda first: Restarts(first, synchronous(2), FLOW, 3, 1, randn, 0.5, 1.1), "got share=0.5, level=1.1"),
        (lambda first: Restarts(first, synchronous(2), FLOW, 3, 1, randn, torch.nan), "got share=nan, level=1.0"),
    ],
)
def test_impossible_rounds_are_refused(make: Callable[[FollowPath], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(FollowPath(synchronous(2), FLOW, 3))


def test_a_solver_that_asks_the_model_must_have_its_conditions() -> None:
    model = lambda z, noise, label: Posterior(z + label)
    walk, z = FollowPath(synchronous(2), FLOW, 3), torch.ones(1, 2, 1)
    with pytest.raises(ValueError, match=r"conditions \[\], sample's have \['label'\]"):
        sample(model, Renoise(Heun(model), randn), walk, z, label=torch.ones(()))


def test_a_solver_that_cannot_go_up_is_refused() -> None:
    """DDIM would invert itself there instead of drawing noise."""
    rounds = Restarts(FollowPath(synchronous(4), FLOW, 4), synchronous(4), FLOW, 4, 1, randn)
    for solver in (DDIM(), Churn(DDIM(), 0.1, randn)):
        with pytest.raises(ValueError, match=r"sends tokens back to noise, which .* cannot: say Renoise\("):
            sample(coupled, solver, rounds, torch.zeros(1, 4, 2))
    for solver in (Renoise(DDIM(), randn), Churn(Renoise(DDIM(), randn), 0.1, randn)):
        assert sample(coupled, solver, rounds, torch.zeros(1, 4, 2)).evaluations == 8
    with pytest.raises(ValueError, match="a path of rounds of shape"):
        sample(coupled, Renoise(DDIM(), randn), rounds, torch.zeros(1, 3, 2))
