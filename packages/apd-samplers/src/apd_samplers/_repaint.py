"""RePaint: replacement that goes back up and comes down again."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseSchedule, synchronous

from ._checks import FiniteCheck, check_mask, check_mean
from ._cost import token_evaluations
from ._noise_source import NoiseSource
from ._sample import Progress, Sampled
from ._schedulers import FollowPath
from ._solvers import DDIM
from ._solvers._overwrite import Overwrite
from ._solvers._renoise import renoise


def resampling_times(steps: int, jump: int, resamples: int) -> list[int]:
    """RePaint's way down (Lugmayr et al. 2022, arXiv:2201.09865, section 4.2): ``steps`` is noise, 0 clean.

    One step down at a time. At 1, 1 + ``jump``, 1 + 2 ``jump``, …, wherever ``jump`` steps up stay below noise, the way
    goes ``jump`` up and down again, ``resamples - 1`` times. (The authors' code counts one less: from ``steps - 1`` to
    -1.)

    >>> resampling_times(4, 2, 2)
    [4, 3, 2, 1, 2, 3, 2, 1, 0]
    """
    if min(steps, jump, resamples) < 1:
        raise ValueError(f"steps, jump and resamples are at least 1, got {steps}, {jump} and {resamples}")
    jumps = range(1, steps - jump + 1, jump)
    times = [steps]
    for low in range(steps - 1, -1, -1):
        there_and_back = [*range(low + 1, low + jump), *range(low + jump, low - 1, -1)]
        times += [low, *(resamples - 1) * there_and_back] if low in jumps else [low]
    return times


@torch.no_grad()
def repaint(
    denoise: Denoiser,
    x: Float[Tensor, "*batch n d"],
    known: Bool[Tensor, "..."],
    *,
    schedule: NoiseSchedule,
    noise: NoiseSource,
    steps: int = 250,
    jump: int = 10,
    resamples: int = 10,
    on_step: Callable[[Progress], None] | None = None,
    **cond: Any,
) -> Sampled:
    """Replacement with resampling (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1), with its published numbers.

    All tokens share one level. Down: an ancestral step, ``DDIM(1)``, then the known tokens are put back with fresh
    noise at the level reached. Up: one step of the forward process for the whole image, known tokens too; the model is
    not asked. The way is :func:`resampling_times`. Resampling brings known and unknown tokens nearer to each other; it
    does not make the result a draw from the conditional law, as :func:`inpaint` does.

    Args:
        x: clean tokens; read where known.
        known: tokens ``(*batch, n, 1)`` or elements ``(*batch, n, d)``; they come back bit-equal.
        schedule: of the ``steps`` levels; the paper's is linear in beta (``VPBeta``).
        noise: of all draws, in this order: the start; down, the ancestral step's and the known tokens'; up, one a step.
        steps, jump, resamples: 1 for ``resamples`` is ancestral replacement.
        on_step: called after each step, down or up.
        cond: conditions for the denoiser.

    Returns:
        Its evaluations are the steps down: 2410 with the published numbers.
    """
    check_mask(known, x)
    times = resampling_times(steps, jump, resamples)
    known = known.to(x.device)
    walk = FollowPath(synchronous(x.shape[-2]), schedule, steps)
    solver = Overwrite(DDIM(1.0, noise), x, known, noise)
    # carried in float32 at least, and shown to the model in the precision of x
    z, finite = noise(x).to(torch.promote_types(x.dtype, torch.float32)), FiniteCheck(x.device)
    down, evaluations, of_tokens, posterior = 0, 0, 0, None
    at = walk.at(0, z)
    for step, (now, then) in enumerate(pairwise(times), 1):
        to = walk.at(steps - then, z)
        if then > now:
            z = renoise(z, at, to, noise(z))
        else:
            posterior = denoise(z.to(x), at, **cond)
            check_mean(posterior, z)
            finite.look(step, posterior, at)
            down += 1
            evaluations += posterior.evaluations
            of_tokens += token_evaluations(posterior)
            z, _ = solver.step(z, posterior, at, to, None)
        at = to
        if on_step is not None:
            updates = torch.full(z.shape[:-1], down, device=z.device)
            on_step(Progress(step, len(times) - 1, z.to(x), at, posterior, evaluations, of_tokens, updates))
    finite.close()
    updates = torch.full(z.shape[:-1], down, device=z.device)
    return Sampled(torch.where(known, x, z.to(x)), at, evaluations, of_tokens, updates)
