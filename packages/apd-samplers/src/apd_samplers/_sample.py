"""The generation loop."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap, Posterior

from ._checks import FiniteCheck, check_fits, check_map, check_mean
from ._cost import token_evaluations
from ._figures import trace_figure
from ._guidance._query import same
from ._schedulers import InferenceScheduler
from ._schedulers._scheduler import moved, moving_of
from ._solvers import Solver, of_chain

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where generation is: before the first step, and after each.

    Args:
        step: steps made, 0 before the first.
        max_steps: steps that it takes at most.
        tokens: at the map reached, ``(*batch, n, d)``.
        noise: that map.
        posterior: the guess that the last step was made with; none before the first. With ``only_moving``, that of
            tokens at rest is an old one.
        evaluations: network evaluations of each sample so far, guidance and second stages of solvers included.
        token_evaluations: tokens that went through the network so far, see :class:`Sampled`.
        token_updates: in how many steps each token has moved, ``(*batch, n)``.
    """

    step: int
    max_steps: int
    tokens: Float[Tensor, "*batch n d"]
    noise: NoiseMap
    posterior: Posterior | None
    evaluations: int
    token_evaluations: int
    token_updates: Int[Tensor, "*batch n"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What generation gives and what it cost.

    Args:
        tokens: the tokens at the last map, ``(*batch, n, d)``.
        noise: that map.
        evaluations: network evaluations of each sample; guidance and the solver's own are counted.
        token_evaluations: tokens that went through the network, for each sample: all of them at each evaluation, unless
            the denoiser leaves some out and says so. A batch is as long as its longest sample: of each evaluation the
            most of any sample count.
        token_updates: in how many steps each token moved, ``(*batch, n)``. What a network would compute that leaves
            out tokens at rest, in units of one token and one step.
        trace: on request, the maps passed through: log-SNR ``(k + 1, *batch, n, e)`` after 0 to k steps.
    """

    tokens: Float[Tensor, "*batch n d"]
    noise: NoiseMap
    evaluations: int
    token_evaluations: int
    token_updates: Int[Tensor, "*batch n"]
    trace: NoiseMap | None = None

    def plot(self, file: str | Path | None = None, *, grid: tuple[int, int] | None = None, sample: int = 0) -> Any:
        """Draws the levels that one sample passed through; needs ``trace=True`` and matplotlib.

        Args:
            file: where to save the figure, in the format of its ending.
            grid: token rows and columns, to show some of the maps as the image lies.
            sample: which, in the batch's row-major order.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: no trace, no such sample, a grid of another number of tokens.
        """
        if self.trace is None:
            raise ValueError("there is no trace to draw: ask for it, as in sample(…, trace=True)")
        levels = self.trace.flow_level.mean(-1).reshape(len(self.trace.log_snr), -1, self.tokens.shape[-2])
        if not 0 <= sample < levels.shape[1]:
            raise ValueError(f"there is no sample {sample}: the batch has {levels.shape[1]}, counted from 0")
        return trace_figure(levels[:, sample], grid, file)


def sample_steps(
    denoise: Denoiser,
    solver: Solver[S],
    scheduler: InferenceScheduler[R],
    z: Float[Tensor, "*batch n d"],
    *,
    only_moving: bool = False,
    **cond: Any,
) -> Iterator[Progress]:
    """:func:`sample` step by step, for progress bars, films and loops that stop when they like.

    Yields:
        Where it is: once before the first step, then after each.
    """
    if "moving" in cond:
        raise ValueError(
            "moving is the condition that only_moving=True gives the denoiser: one of your own needs another name"
        )
    own = of_chain(solver, "cond")
    if own is not None:
        _check_own(own, cond)
    if getattr(scheduler, "goes_up", False) and not of_chain(solver, "goes_up", False):
        raise ValueError(
            f"{type(scheduler).__name__} sends tokens back to noise, which {type(solver).__name__} cannot: say "
            f"Renoise({type(solver).__name__}(…), noise)"
        )
    # Tokens are carried in float32 at least; the model sees them, and they are given out, in their own precision.
    with torch.no_grad():  # levels of a schedule that is learned too
        dtype, state, z = z.dtype, solver.init(z), z.to(torch.promote_types(z.dtype, torch.float32))
        noise, planned = scheduler.init(z)
    check_map(noise, z)
    finished = getattr(scheduler, "finished", lambda noise, planned: False)
    finite = FiniteCheck(z.device)
    asked, of_tokens, step, posterior = 0, 0, 0, None
    updates = torch.zeros(z.shape[:-1], dtype=torch.long, device=z.device)
    while True:
        last = step == scheduler.max_steps or finished(noise, planned)
        if last:
            if step and hasattr(state, "evaluations"):  # of the guesses that the solver made itself nobody has looked
                finite.look(step, Posterior(z), noise)
            finite.close()
        second = getattr(state, "evaluations", 0)
        spent = asked + second, of_tokens + getattr(state, "token_evaluations", second * z.shape[-2])
        yield Progress(step, scheduler.max_steps, z.to(dtype), noise, posterior, *spent, updates)
        if last:
            return
        step += 1
        with torch.no_grad():  # and not around the yield, where the caller's own code runs
            told = {**cond, "moving": _moving(scheduler, noise, planned, z)} if only_moving else cond
            posterior = denoise(z.to(dtype), noise, **told)
            check_mean(posterior, z)
            finite.look(step, posterior, noise)
            asked += posterior.evaluations
            of_tokens += token_evaluations(posterior)
            target, planned = scheduler.next(noise, posterior, planned)
            check_map(target, z)
            z, state = solver.step(z, posterior, noise, target, state)
            updates = updates + moved(noise, target)
        noise = target


def _check_own(own: Mapping[str, Any], cond: Mapping[str, Any]) -> None:
    """Raises ValueError if a solver that asks the network itself does so with other conditions."""
    say = "say the same to both, as in sample(model, Heun(model, {'label': label}), …, label=label)"
    if own.keys() != cond.keys():
        raise ValueError(
            f"the solver's own evaluations have the conditions {sorted(own)}, sample's have {sorted(cond)}: {say}"
        )
    for name, value in cond.items():
        if not _alike(own[name], value):
            raise ValueError(f"the solver's own evaluations have another {name} than sample's: {say}")


def _alike(a: Any, b: Any) -> bool:
    """As far as can be told without waiting for a device."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        here = a.device.type == b.device.type == "cpu" and a.dtype == b.dtype
        return a.shape == b.shape and (not here or torch.equal(a, b))
    plain = isinstance(a, int | float | str | None) and isinstance(b, int | float | str | None)
    return same(a, b) if plain else True


def _moving(
    scheduler: InferenceScheduler[R], noise: NoiseMap, planned: R, z: Tensor
) -> Bool[Tensor, "*batch n"] | None:
    moving = moving_of(scheduler, noise, planned)
    if moving is None:
        return None
    check_fits("a mask of moving tokens", moving[..., None], z)
    return moving.expand(z.shape[:-1])


def sample(
    denoise: Denoiser,
    solver: Solver[S],
    scheduler: InferenceScheduler[R],
    z: Float[Tensor, "*batch n d"],
    *,
    on_step: Callable[[Progress], None] | None = None,
    trace: bool = False,
    only_moving: bool = False,
    **cond: Any,
) -> Sampled:
    """Carries ``z`` along the scheduler's maps.

    Args:
        denoise: the model, guided or not.
        z: tokens at the scheduler's first map: noise, and the data itself where a token is known. Tokens that no map
            moves come back equal to the bit.
        on_step: called after each step, for progress or films.
        trace: keep the maps passed through.
        only_moving: for denoisers that can leave out tokens. They are given the condition ``moving``, ``(*batch, n)``:
            the tokens whose guess the next step uses, or ``None`` where the scheduler cannot tell. A solver's own
            evaluations are made without it. With a denoiser that is right where it is true the result is the same, to
            the bit, but for a :class:`LookAhead` in :class:`Heun`. Guidance passes it on, to every model that it asks.
        cond: conditions for the denoiser.

    Raises:
        ValueError: shapes that do not fit; a solver that asks the model itself was given other conditions; a condition
            named ``moving``.
        FloatingPointError: the denoiser's mean is not finite; the message names the step and the token. On the CPU at
            once, elsewhere at the end, so that the host never waits for the device.
    """
    maps: list[Tensor] = []
    last: Progress | None = None
    for last in sample_steps(denoise, solver, scheduler, z, only_moving=only_moving, **cond):
        if trace:
            maps.append(last.noise.log_snr.expand(*z.shape[:-1], -1))
        if on_step is not None and last.step:
            on_step(last)
    assert last is not None
    whole = NoiseMap(torch.stack(maps)) if trace else None
    return Sampled(last.tokens, last.noise, last.evaluations, last.token_evaluations, last.token_updates, whole)
