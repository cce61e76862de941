"""Inpainting by replacement: the baseline for models that take one level for all tokens."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseSchedule, Path

from ._checks import check_map, check_mask
from ._noise_source import NoiseSource
from ._sample import Progress, Sampled, sample
from ._schedulers import FollowPath
from ._solvers import Solver
from ._solvers._overwrite import Overwrite

S = TypeVar("S")


def replacement(
    denoise: Denoiser,
    solver: Solver[S],
    x: Float[Tensor, "*batch n d"],
    known: Bool[Tensor, "..."],
    *,
    path: Path,
    schedule: NoiseSchedule,
    steps: int,
    noise: NoiseSource,
    on_step: Callable[[Progress], None] | None = None,
    **cond: Any,
) -> Sampled:
    """Generation of all tokens in which the known ones are overwritten after each step, at the level of the path.

    Song et al. 2021 (arXiv:2011.13456, appendix I). A baseline: the result fits the known tokens without being a draw
    of the rest given them, whatever the steps. :func:`inpaint` is, with a model that knows levels of tokens.

    Args:
        x: clean tokens; read where known.
        known: tokens ``(*batch, n, 1)`` or elements ``(*batch, n, d)``; they come back bit-equal.
        path: of all tokens, known or not; published with ``synchronous(n)``.
        steps: along the path.
        noise: of the start and of the known tokens, drawn anew for each step.
        on_step: see :func:`sample`.
        cond: conditions for the denoiser.
    """
    check_mask(known, x)
    walk = FollowPath(path, schedule, steps)
    known = known.to(x.device)
    overwriting = Overwrite(solver, x, known, noise)
    with torch.no_grad():  # levels of a schedule that is learned too
        first = walk.at(0, x)
        check_map(first, x)
        z = overwriting.put(noise(x), first)
    result = sample(denoise, overwriting, walk, z.to(x), on_step=on_step, **cond)
    return replace(result, tokens=torch.where(known, x, result.tokens))
