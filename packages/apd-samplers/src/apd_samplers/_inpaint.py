"""Inpainting: known tokens stay clean, the others are generated along a path given them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseSchedule, Path, capped, corrupt

from ._checks import check_fits, check_mask
from ._noise_source import NoiseSource
from ._sample import Progress, Sampled, sample
from ._schedulers import FollowPath, InferenceScheduler
from ._solvers import Solver, of_chain
from ._solvers._overwrite import Overwrite

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Inpainted:
    """Completions of images.

    Args:
        tokens: ``(candidates, *batch, n, d)``; known ones are those of the image, bit for bit.
        sampled: the run of all candidates, ``(candidates * batch, n, d)``, candidates outermost: what each one cost.
    """

    tokens: Float[Tensor, "k *batch n d"]
    sampled: Sampled

    @property
    def mean(self) -> Float[Tensor, "*batch n d"]:
        """Of the candidates; known tokens are bit-equal here too."""
        return self.tokens[0] + (self.tokens - self.tokens[0]).mean(0)

    @property
    def variance(self) -> Float[Tensor, "*batch n"]:
        """How far candidates differ, per token: unbiased, averaged over its elements, and 0 where known."""
        if len(self.tokens) < 2:
            raise ValueError("a variance is of two candidates or more, got 1")
        return self.tokens.var(0).mean(-1)


def inpaint(
    denoise: Denoiser,
    solver: Solver[S],
    x: Float[Tensor, "*batch n d"],
    known: Bool[Tensor, "..."],
    *,
    path: Path,
    schedule: NoiseSchedule,
    steps: int,
    noise: NoiseSource,
    start: Float[Tensor, "..."] | None = None,
    candidates: int = 1,
    element_levels: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    trace: bool = False,
    only_moving: bool = False,
    **cond: Any,
) -> Inpainted:
    """Draws of what is not known of ``x``, given what is.

    The joint score at a map in which known tokens are clean *is* the score of the others given them: nothing is pasted
    or resampled, only unknown tokens move, and with the exact denoiser the result converges to the conditional law
    with the order of the solver.

    A soft mask, ``start``, gives each token the level it starts from: 0 is known, 1 unknown, and between a token is
    kept in part and starts as ``alpha x + sigma eps`` there (SDEdit, Meng et al. 2021, arXiv:2108.01073, per token).

    Args:
        x: clean tokens; not read where unknown.
        known: which tokens, ``(*batch, n, 1)``, or elements, ``(*batch, n, d)``; true is known.
        path: of all tokens, of one image or with batch axes.
        steps: along the path; those in which no token moves are left out.
        noise: of the start; it is asked once, for ``candidates * batch`` rows.
        start: levels that unknown tokens start from, ``(*batch, n, 1)``; noise, 1, by default.
        candidates: completions of each image, made as one batch: row ``j * batch + i`` is candidate ``j`` of image
            ``i``. That is the order of the seeds of a :class:`PerSampleNoise`, and of the conditions that a solver or
            guidance holds itself.
        element_levels: the model takes a level for each element. Without, a token that is known in part starts from
            noise, and what is known of it is put back after each step with the noise it started with
            (:class:`Overwrite`).
        on_step, trace, only_moving: see :func:`sample`.
        cond: conditions for the denoiser; of a tensor whose leading axes are the batch's (without batch axes: of a
            number), each candidate is given its image's, any other goes to all as it is.

    Raises:
        ValueError: no candidates, masks that do not fit, levels of elements without ``element_levels``, or a solver
            whose own conditions are not those of the rows.
    """

    def along(levels: Levels, rows: Callable[..., Tensor]) -> Planned:
        check_fits("a path's map", path(torch.ones((), dtype=torch.float64, device=x.device)), x)
        way = capped(path, levels)

        def of_rows(s: Float[Tensor, "*s"]) -> Float[Tensor, "*srows n e"]:
            at = way(s)
            return at if at.ndim - s.ndim == 2 else rows(at, s.ndim)  # one map for all rows, where it is one

        return FollowPath(of_rows, schedule, steps), of_rows(torch.ones((), dtype=torch.float64, device=x.device))

    given = _Given(x, known, start, candidates, element_levels)
    return _run(denoise, solver, given, along, noise, on_step, trace, only_moving, cond)


def inpaint_with(
    denoise: Denoiser,
    solver: Solver[S],
    x: Float[Tensor, "*batch n d"],
    known: Bool[Tensor, "..."],
    *,
    scheduler: Callable[[Float[Tensor, "*batch n e"]], InferenceScheduler[Any]],
    noise: NoiseSource,
    start: Float[Tensor, "..."] | None = None,
    candidates: int = 1,
    element_levels: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    trace: bool = False,
    only_moving: bool = False,
    **cond: Any,
) -> Inpainted:
    """:func:`inpaint` where a scheduler chooses the maps, such as those that go by uncertainty.

    Args:
        scheduler: from the levels that tokens start from, in [0, 1], one row a candidate and image, ``(candidates *
            batch, n, 1)``, or ``(…, n, d)`` with ``element_levels``, to what takes them to clean:
            ``lambda levels: UncertaintyGuided(schedule, 50, start=levels)``. The adaptive ones of this library take one
            level a token; levels of elements are for one of your own.
        x, known, noise, start, candidates, element_levels, on_step, trace, only_moving, cond: see :func:`inpaint`.
    """

    def chosen(levels: Levels, rows: Callable[..., Tensor]) -> Planned:
        first = rows(levels)
        return scheduler(first), first

    given = _Given(x, known, start, candidates, element_levels)
    return _run(denoise, solver, given, chosen, noise, on_step, trace, only_moving, cond)


Levels = Float[Tensor, "*batch n e"]
Planned = tuple[InferenceScheduler[Any], Float[Tensor, "..."]]
"""What chooses the maps of all rows, and the levels of the first."""


@dataclass(frozen=True, slots=True)
class _Given:
    x: Tensor
    known: Tensor
    start: Tensor | None
    candidates: int
    element_levels: bool

    def rows(self, each: Tensor, s_axes: int = 0) -> Tensor:
        """``(*s, *batch, n, d)`` to ``(*s, candidates * batch, n, d)``."""
        lead, own = each.shape[:s_axes], each.shape[s_axes:]
        each = each.reshape(*lead, 1, *(1,) * (self.x.ndim - len(own)), *own)
        return each.expand(*lead, self.candidates, *self.x.shape[:-2], *own[-2:]).flatten(s_axes, -3)


def _run(
    denoise: Denoiser,
    solver: Solver[Any],
    given: _Given,
    plan: Callable[[Tensor, Callable[..., Tensor]], Planned],
    noise: NoiseSource,
    on_step: Callable[[Progress], None] | None,
    trace: bool,
    only_moving: bool,
    cond: dict[str, Any],
) -> Inpainted:
    x, known, start, candidates = given.x, given.known.to(given.x.device), given.start, given.candidates
    if candidates < 1:
        raise ValueError(f"an image has at least one candidate, got {candidates}")
    check_mask(known, x)
    if start is not None:
        check_fits("a soft mask", start, x)
        start = start.to(x.device)
    batch, rows = x.shape[:-2], given.rows
    levels, partly = _levels(known, start, given.element_levels)
    with torch.no_grad():  # levels of a schedule that is learned too
        walk, first = plan(levels, rows)
        data = rows(x)
        eps = noise(data)
        at = walk.at(0, data) if isinstance(walk, FollowPath) else walk.init(data)[0]
        z = torch.where(first == 0, data, torch.where(first == 1, eps, corrupt(data, at, eps)))
        if partly is not None:
            solver = Overwrite(solver, data, rows(partly), lambda like: eps)
            z = solver.put(z, at)
    told = {name: _repeated(value, batch, candidates) for name, value in cond.items()}
    _check_own(of_chain(solver, "cond", {}), told)
    result = sample(denoise, solver, walk, z.to(x), on_step=on_step, trace=trace, only_moving=only_moving, **told)
    if partly is not None:
        result = replace(result, tokens=torch.where(rows(partly), data, result.tokens))
    return Inpainted(result.tokens.unflatten(0, (candidates, *batch)), result)


def _levels(known: Tensor, start: Tensor | None, element_levels: bool) -> tuple[Tensor, Tensor | None]:
    """The levels to start from, and the elements that are to be put back."""
    by_element = known.shape[-1] > 1 and not element_levels
    if start is not None and start.shape[-1] > 1 and not element_levels:
        raise ValueError(
            "a soft mask has one level a token, (…, n, 1), unless the model takes one an element (element_levels=True)"
        )
    whole = known.all(-1, keepdim=True) if by_element else known
    levels = torch.where(whole, 0.0, 1.0 if start is None else start.double()).double()
    return levels, known & ~whole if by_element else None


def _repeated(value: Any, batch: torch.Size, candidates: int) -> Any:
    if not isinstance(value, Tensor) or value.shape[: len(batch)] != batch or (not batch and value.ndim):
        return value
    return value.expand(candidates, *value.shape).flatten(0, len(batch))


def _check_own(own: Any, told: dict[str, Any]) -> None:
    """A solver that asks the model itself holds its conditions, which only the caller can repeat."""
    for name in own.keys() & told.keys():
        have, want = (getattr(value, "shape", None) for value in (own[name], told[name]))
        if have != want:
            raise ValueError(
                f"the solver's own condition {name} has shape {have}, the rows of all candidates take {want}: repeat "
                "it, candidates outermost"
            )
