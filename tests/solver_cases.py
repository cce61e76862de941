"""Solvers by name, what they are walked along, and a walk with gradients."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from apd_samplers import DDIM, Adams, Churn, DPMSolverPP2M, Euler, FollowPath, Heun, NoiseSource, Solver
from apd_schedules import Denoiser, NoiseMap, NoiseSchedule, Path, Posterior, sequential, staggered, synchronous

N = 4
OFFSETS = torch.tensor([[0.9], [-0.6], [0.3], [-0.9]], dtype=torch.float64)
PATHS: dict[str, Path] = {  # kinks at multiples of 1/4: on the grid of any number of steps below
    "synchronous": synchronous(N),
    "staggered": staggered(torch.tensor([2, 0, 1, 1]), 0.5),
    "sequential": sequential(torch.tensor([2, 0, 1, 3])),
    "quad": lambda s: s[..., None, None] + (s * (1 - s))[..., None, None] * OFFSETS,
}


def together(paths: Iterable[Path]) -> Path:
    """Several paths at once: the first axis of a batch says which."""
    return lambda s: torch.stack([path(s) for path in paths])[:, None]


Make = Callable[[Denoiser, NoiseSource], Solver[Any]]
ONE_STEP: dict[str, Make] = {
    "DDIM": lambda denoise, noise: DDIM(),
    "DDPM": lambda denoise, noise: DDIM(1.0, noise),
    "Euler": lambda denoise, noise: Euler(),
    "Heun": lambda denoise, noise: Heun(denoise),
    "churn+Heun": lambda denoise, noise: Churn(Heun(denoise), 0.3, noise),
}
MULTISTEP: dict[str, Make] = {
    "DPM++2M": lambda denoise, noise: DPMSolverPP2M(),
    **{f"Adams{p}": functools.partial(lambda denoise, noise, p: Adams(p), p=p) for p in (1, 2, 3, 4)},
}
SOLVERS = ONE_STEP | MULTISTEP


def randn(like: Tensor) -> Tensor:
    """New noise of one seed at each call, so that a run can be repeated."""
    return torch.randn(like.shape, generator=Generator().manual_seed(0), dtype=like.dtype)


def coupled(z: Tensor, noise: NoiseMap) -> Posterior:
    """Not linear, and every token sees every other."""
    return Posterior((noise.alpha * z + 0.5 * (noise.alpha * z).mean(-2, keepdim=True)).tanh())


@dataclass
class Step:
    """One step of a run: from ``z`` at ``a`` to ``moved`` at ``b``."""

    z: Tensor
    a: NoiseMap
    moved: Tensor
    b: NoiseMap


def steps_of(solver: Solver[Any], denoise: Denoiser, maps: list[NoiseMap], z: Tensor) -> Iterator[Step]:
    """What ``sample`` does, with gradients."""
    state = solver.init(z)
    for a, b in pairwise(maps):
        moved, state = solver.step(z, denoise(z, a), a, b, state)
        yield Step(z, a, moved, b)
        z = moved


def maps_of(path: Path, schedule: NoiseSchedule, steps: int, like: Tensor) -> list[NoiseMap]:
    walk = FollowPath(path, schedule, steps)
    return [walk.at(k, like) for k in range(steps + 1)]
