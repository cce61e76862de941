"""Tokens take turns by the clock: the control for orders that a model chooses."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Posterior

from ._scheduler import moved
from ._start import Start, map_at, start_levels


class RoundRobinState(NamedTuple):
    """Args:
    step: steps made.
    start: level that each token starts from.
    turn: of each token within a round.
    turns: in a round.
    rounds: in which each token makes its way.
    """

    step: int
    start: Float[Tensor, "*batch n"]
    turn: Int[Tensor, " n"]
    turns: int
    rounds: int


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """One group moves at a time, each in turn, ``groups`` times as far as all together would in as many steps.

    Every unknown token moves ``max_steps / groups`` times, in equal parts of its level. A group of which no image of
    the batch has an unknown token takes no turn, which makes it fewer steps. The host reads from the device once, in
    ``init``: which groups these are.

    Args:
        max_steps: a multiple of the number of groups.
        groups: how many, of interleaved tokens: token ``i`` is in group ``i % groups``. Or the group of every token, as
            ``checkerboard(grid)`` has them: equal numbers move together, the smallest first.
        start: levels that tokens start from, ``(*batch, n, 1)`` or ``(n, 1)``: 1 noise, 0 known. All noise by default.

    Raises:
        ValueError: no group, steps that are no multiple of the groups, groups of another number of tokens.
    """

    schedule: NoiseSchedule
    max_steps: int
    groups: int | Int[Tensor, " n"]
    start: Start | None = None

    def __post_init__(self) -> None:
        groups = self._count()
        if groups < 1 or self.max_steps < 1 or self.max_steps % groups:
            raise ValueError(
                "turns are taken by at least one group, in a number of steps that is a multiple of them: got "
                f"max_steps={self.max_steps} and {groups} groups"
            )

    def _count(self) -> int:
        return self.groups if isinstance(self.groups, int) else len(self.groups.unique())

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, RoundRobinState]:
        n = z.shape[-2]
        group = torch.arange(n) % self.groups if isinstance(self.groups, int) else self.groups
        if len(group) != n:
            raise ValueError(f"groups are of {len(group)} tokens, z has {n}")
        levels = start_levels(self.start, z)
        start = levels[..., 0]
        group, rounds = group.to(z.device), self.max_steps // self._count()
        moving = group[(start > 0).reshape(-1, n).any(0)].unique()
        state = RoundRobinState(0, start, torch.searchsorted(moving, group), len(moving), rounds)
        return map_at(self.schedule, levels, z), state

    def next(self, noise: NoiseMap, posterior: Posterior, state: RoundRobinState) -> tuple[NoiseMap, RoundRobinState]:
        return self._target(noise, state), state._replace(step=state.step + 1)

    def _target(self, noise: NoiseMap, state: RoundRobinState) -> NoiseMap:
        step, start, turn, turns, rounds = state
        done = (step + turns - turn) // turns  # moves of each token in step + 1 steps
        levels = start * ((rounds - done).to(start) / rounds)
        return map_at(self.schedule, levels[..., None], noise.log_snr)

    def moving(self, noise: NoiseMap, state: RoundRobinState) -> Bool[Tensor, "*batch n"]:
        return moved(noise, self._target(noise, state))

    def finished(self, noise: NoiseMap, state: RoundRobinState) -> bool:
        return state.step >= state.turns * state.rounds
