"""Iterative partial refinement: some tokens go back to noise and are made again among the others."""

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Path, Posterior, check_monotone

from .._checks import check_fits
from .._noise_source import NoiseSource
from ._scheduler import InferenceScheduler, moved, moving_of

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RestartsState(Generic[R]):
    """Args:
    first: of the first pass.
    start: log-SNR of the first map.
    round: 0 is the first pass.
    step: steps made in it.
    end: log-SNR of the tokens that rest in this round.
    chosen: those that do not.
    """

    first: R
    start: Float[Tensor, "*#batch n e"]
    round: int
    step: int
    end: Float[Tensor, "*#batch n e"]
    chosen: Bool[Tensor, "*batch n 1"]


@dataclass(frozen=True, slots=True)
class Restarts(Generic[R]):
    """After ``first``, rounds in which a random share of the tokens goes back to noise and is made again.

    Iterative partial refinement (Kang et al. 2026, arXiv:2605.19317): early tokens were made with little around them;
    made again, they see all others. With an exact denoiser a round leaves the law of the tokens as it is. Tokens that
    ``first`` does not move, the known ones, are never chosen, and none goes above the level it started from. Needs a
    solver for the way up: :class:`Renoise`.

    The step that ends a pass also begins the next round: there the chosen tokens go up from the map before, while the
    others finish. Going up forgets the difference, and the model is never asked about a map that is only passed
    through: evaluations are those of ``first`` and ``steps`` for each round. ``max_steps`` is their sum, with
    ``first.max_steps``; where ``first`` is done before, so is the whole.

    Args:
        first: the pass that makes all tokens; it ends at clean.
        path: of all tokens, for the rounds: a chosen token is at ``level`` times its level on the path. A step in which
            no chosen token moves is made all the same; :func:`staggered` with a large overlap has none.
        schedule: that of ``first``.
        steps: of each round.
        rounds: 0 is ``first`` itself; the paper makes up to 50.
        keys: source of the numbers that choose; the tokens with the least are. One stream a sample
            (:class:`PerSampleNoise`) makes a sample's rounds independent of its batch.
        share: of the tokens that ``first`` moves, to the nearest whole number, but at least one token.
        level: that chosen tokens go back to; below 1 they keep a part of what they were.

    Raises:
        ValueError: a number out of its range; a path that does not run from all noise to all clean, or goes back.
    """

    first: InferenceScheduler[R]
    path: Path
    schedule: NoiseSchedule
    steps: int
    rounds: int
    keys: NoiseSource
    share: float = 0.25
    level: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rounds < 0:
            raise ValueError(f"rounds, 0 or more, take at least one step each, got {self.rounds} of {self.steps}")
        if not 0 < self.share <= 1 or not 0 < self.level <= 1:
            raise ValueError(f"share and level lie in (0, 1], got share={self.share}, level={self.level}")
        check_monotone(self.path, self.steps + 1)
        for s, name in ((1.0, "noise"), (0.0, "clean")):
            if not ((self.path(torch.tensor(s, dtype=torch.float64)) - s).abs() <= 1e-6).all():
                raise ValueError(f"the rounds' path must run from noise to clean, but at s = {s:g} not all is {name}")

    @property
    def goes_up(self) -> bool:
        """Tokens are sent back up: the solver must be able to."""
        return self.rounds > 0

    @property
    def max_steps(self) -> int:
        return self.first.max_steps + self.rounds * self.steps

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, RestartsState[R]]:
        noise, first = self.first.init(z)
        check_fits("a path of rounds", self.path(torch.tensor(1.0, dtype=torch.float64)), z)
        none = torch.zeros_like(z[..., :1], dtype=torch.bool)
        return noise, RestartsState(first, noise.log_snr, 0, 0, noise.log_snr, none)

    def next(self, noise: NoiseMap, posterior: Posterior, state: RestartsState[R]) -> tuple[NoiseMap, RestartsState[R]]:
        if state.round:
            state = replace(state, step=state.step + 1)
            target, ends = self._map(state), state.step == self.steps
        else:
            target, first = self.first.next(noise, posterior, state.first)
            state = replace(state, first=first, step=state.step + 1)
            ends = state.step == self.first.max_steps or self._done(target, first)
        if not ends or state.round == self.rounds:
            return target, state
        state = replace(state, round=state.round + 1, step=0, end=target.log_snr, chosen=self._choose(target, state))
        return self._map(state), state

    def moving(self, noise: NoiseMap, state: RestartsState[R]) -> Bool[Tensor, "*batch n"] | None:
        """Those that ``first`` names, then the chosen ones. Which go up next is not known, and asks for no guess."""
        if not state.round:
            return moving_of(self.first, noise, state.first)
        return moved(noise, self._map(replace(state, step=state.step + 1)))

    def finished(self, noise: NoiseMap, state: RestartsState[R]) -> bool:
        if not state.round:
            return self._done(noise, state.first)
        return state.round == self.rounds and state.step == self.steps

    def _done(self, noise: NoiseMap, first: R) -> bool:
        finished = getattr(self.first, "finished", lambda noise, state: False)
        return finished(noise, first)

    def _choose(self, end: NoiseMap, state: RestartsState[R]) -> Bool[Tensor, "*batch n 1"]:
        moved = (state.start < end.log_snr).any(-1, keepdim=True).expand_as(state.chosen)
        keys = self.keys(torch.empty_like(state.chosen, dtype=end.log_snr.dtype))
        rank = keys.masked_fill(~moved, torch.inf).argsort(-2).argsort(-2)
        return moved & (rank < (self.share * moved.sum(-2, keepdim=True)).round().clamp(min=1))

    def _map(self, state: RestartsState[R]) -> NoiseMap:
        s = torch.full((), 1 - state.step / self.steps, dtype=torch.float64, device=state.end.device)
        raised = self.schedule(self.level * self.path(s)).to(state.end)
        return NoiseMap(torch.where(state.chosen, torch.maximum(raised, state.start), state.end))
