"""The baselines: replacement and RePaint, against the published schedule and plain loops."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from apd_samplers import (
    DDIM,
    DPMSolverPP2M,
    FollowPath,
    Heun,
    NoiseSource,
    Solver,
    classifier_free,
    repaint,
    replacement,
    resampling_times,
)
from apd_schedules import NoiseMap, Posterior, RectifiedFlow, VPBeta, synchronous
from solver_cases import coupled

N, D = 5, 2
X = torch.randn(2, N, D, generator=Generator().manual_seed(0), dtype=torch.float64)
TOKENS = torch.tensor([[True], [False], [True], [False], [False]])
ELEMENTS = torch.rand(2, N, D, generator=Generator().manual_seed(1)) < 0.5


def stream(seed: int = 2) -> NoiseSource:
    g = Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=g, dtype=like.dtype)


# The way of RePaint. Numbers from get_schedule_jump of the authors' code (github.com/andreas128/RePaint, 8e2a055),
# each time one larger: they count from steps - 1 to -1.

PUBLISHED = {
    (10, 2, 2): "10 9 8 7 8 9 8 7 6 5 6 7 6 5 4 3 4 5 4 3 2 1 2 3 2 1 0",
    (10, 3, 2): "10 9 8 7 8 9 10 9 8 7 6 5 4 5 6 7 6 5 4 3 2 1 2 3 4 3 2 1 0",
    (12, 4, 3): "12 11 10 9 8 7 6 5 6 7 8 9 8 7 6 5 6 7 8 9 8 7 6 5 4 3 2 1 2 3 4 5 4 3 2 1 2 3 4 5 4 3 2 1 0",
    (6, 1, 3): "6 5 6 5 6 5 4 5 4 5 4 3 4 3 4 3 2 3 2 3 2 1 2 1 2 1 0",
    (5, 5, 3): "5 4 3 2 1 0",
    (10, 2, 1): "10 9 8 7 6 5 4 3 2 1 0",
}


@pytest.mark.parametrize("numbers", PUBLISHED, ids=str)
def test_times_are_the_published_ones(numbers: tuple[int, int, int]) -> None:
    assert " ".join(map(str, resampling_times(*numbers))) == PUBLISHED[numbers]


@pytest.mark.parametrize(
    ("numbers", "moves", "down"),
    [((250, 10, 10), 4570, 2410), ((100, 10, 10), 1720, 910), ((250, 5, 10), 4660, 2455), ((250, 1, 10), 4732, 2491)],
)
def test_network_evaluations_are_the_published_ones(numbers: tuple[int, int, int], moves: int, down: int) -> None:
    times = torch.tensor(resampling_times(*numbers))
    assert (len(times) - 1, int((times.diff() < 0).sum())) == (moves, down)
    assert (times.diff().abs() == 1).all()


def plain_repaint(known: Tensor, schedule: VPBeta, steps: int, times: list[int], normal: NoiseSource) -> Tensor:
    """Algorithm 1 in its own variables: cumulative products and betas, the posterior of Ho et al. 2020, equation 7."""
    level = torch.arange(steps + 1, dtype=torch.float64) / steps
    bar = schedule(level).sigmoid()  # the cumulative product of 1 - beta, from 0 steps of noise to all
    x = normal(X)
    for k, to in pairwise(times):
        if to < k:
            beta = 1 - bar[k] / bar[k - 1]
            guess = coupled(x, NoiseMap(schedule(level[k]).expand(N, 1))).mean
            mean = bar[k - 1].sqrt() * beta / (1 - bar[k]) * guess
            mean = mean + (1 - beta).sqrt() * (1 - bar[k - 1]) / (1 - bar[k]) * x
            x = mean + ((1 - bar[k - 1]) / (1 - bar[k]) * beta).sqrt() * normal(x)
            seen = bar[k - 1].sqrt() * X + (1 - bar[k - 1]).sqrt() * normal(X)
            x = torch.where(known, seen, x)
        else:
            beta = 1 - bar[k + 1] / bar[k]
            x = (1 - beta).sqrt() * x + beta.sqrt() * normal(x)
    return torch.where(known, X, x)


@pytest.mark.parametrize("known", [TOKENS, ELEMENTS], ids=["tokens", "elements"])
def test_a_run_is_algorithm_1(known: Tensor) -> None:
    schedule = VPBeta()
    result = repaint(coupled, X, known, schedule=schedule, noise=stream(), steps=12, jump=4, resamples=3)
    times = [int(k) for k in PUBLISHED[12, 4, 3].split()]
    expected = plain_repaint(known, schedule, 12, times, stream())
    torch.testing.assert_close(result.tokens, expected, rtol=0, atol=1e-12)
    seen = known.expand_as(X)
    assert torch.equal(result.tokens[seen], X[seen])
    assert (result.evaluations, result.token_evaluations) == (28, 28 * N)
    assert (result.token_updates == 28).all()
    assert torch.equal(result.noise.log_snr, schedule(torch.zeros(N, 1, dtype=torch.float64)))


def test_the_model_is_asked_on_the_way_down_alone_and_sees_one_level() -> None:
    asked: list[float] = []

    def watch(z: Tensor, noise: NoiseMap, *, label: Tensor) -> Posterior:
        assert (noise.log_snr == noise.log_snr[0]).all()
        asked.append(round(10 * RectifiedFlow().level_of(noise.log_snr).mean().item(), 6))
        return Posterior(coupled(z, noise).mean + label)

    guided = classifier_free(2.0, {"label": torch.zeros(())})(watch)
    settings = {"schedule": RectifiedFlow(), "noise": stream(), "steps": 10, "jump": 2, "resamples": 2}
    result = repaint(guided, X, TOKENS, label=torch.ones(()), **settings)
    assert (result.token_updates == result.evaluations // 2).all()  # of steps, not of what guidance asks in each
    times = resampling_times(10, 2, 2)
    assert asked[::2] == [now for now, then in pairwise(times) if then < now]
    assert result.evaluations == len(asked) == 36


# Replacement


@pytest.mark.parametrize("known", [TOKENS, ELEMENTS], ids=["tokens", "elements"])
@pytest.mark.parametrize("make", [lambda noise: DDIM(), lambda noise: DDIM(1.0, noise)], ids=["DDIM", "ancestral"])
def test_replacement_is_a_plain_loop(make: Callable[[NoiseSource], DDIM], known: Tensor) -> None:
    """Known tokens have fresh noise at every level, the first too."""
    schedule, normal = VPBeta(), stream()
    solver = make(normal)
    z = normal(X)
    maps = [NoiseMap(schedule(torch.full((N, 1), k / 6, dtype=torch.float64))) for k in range(6, -1, -1)]
    z = torch.where(known, maps[0].alpha * X + maps[0].sigma * normal(X), z)
    for a, b in pairwise(maps):
        z, _ = solver.step(z, coupled(z, a), a, b, None)
        z = torch.where(known, b.alpha * X + b.sigma * normal(X), z)
    normal = stream()
    blind = torch.where(known, X, torch.nan)
    settings = {"path": synchronous(N), "schedule": schedule, "steps": 6, "noise": normal}
    result = replacement(coupled, make(normal), blind, known, **settings)
    torch.testing.assert_close(result.tokens, torch.where(known, X, z), rtol=0, atol=1e-12)
    seen = known.expand_as(X)
    assert torch.equal(result.tokens[seen], X[seen])
    assert result.evaluations == 6


def test_replacement_takes_any_solver_and_counts_its_evaluations() -> None:
    settings = {"path": synchronous(N), "schedule": RectifiedFlow(), "steps": 6, "noise": stream()}
    solvers: list[tuple[Solver[Any], int]] = [(DPMSolverPP2M(), 6), (Heun(coupled), 12)]
    seen: list[int] = []
    for solver, cost in solvers:
        result = replacement(coupled, solver, X, TOKENS, on_step=lambda now: seen.append(now.step), **settings)
        assert result.evaluations == cost
    assert seen == 2 * [1, 2, 3, 4, 5, 6]


# Refusals


@pytest.mark.parametrize("numbers", [(0, 1, 1), (5, 0, 1), (5, 1, 0)])
def test_impossible_ways_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {numbers[0]}, {numbers[1]} and {numbers[2]}"):
        resampling_times(*numbers)


def test_means_of_another_shape_or_not_finite_are_named() -> None:
    settings = {"schedule": RectifiedFlow(), "noise": stream(), "steps": 4, "jump": 1, "resamples": 1}
    with pytest.raises(ValueError, match="a mean of shape"):
        repaint(lambda z, noise: Posterior(z[:, 1:]), X, TOKENS, **settings)
    level = FollowPath(synchronous(N), RectifiedFlow(), 4).at(2, X)
    broken = lambda z, noise: Posterior(z / (noise.log_snr != level.log_snr))
    with pytest.raises(FloatingPointError, match=r"first in step 3, token 0 of sample 0, which was at flow level 0\.5"):
        repaint(broken, X, TOKENS, **settings)
