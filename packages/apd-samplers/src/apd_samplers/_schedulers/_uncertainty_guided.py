"""Steps as long as each token's uncertainty allows."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import InvertibleSchedule, NoiseMap, Posterior

from ._last_seen import LastSeen
from ._start import Start, start_levels
from ._uncertainty import Predicted, Uncertainty


class GuidedState(NamedTuple):
    """Args:
    step: steps planned so far.
    log_snr: of every token, in float64.
    end: log-SNR of clean.
    uncertainty: the uncertainty's own state.
    like: a tensor of the tokens' device and precision.
    moves: tokens that move in the next step, if they are chosen before it.
    seen: what they are chosen by.
    """

    step: int
    log_snr: Float[Tensor, "*batch n 1"]
    end: Float[Tensor, ""]
    uncertainty: Any
    like: Tensor
    moves: Bool[Tensor, "*batch n 1"] | None = None
    seen: LastSeen | None = None


@dataclass(frozen=True, slots=True)
class UncertaintyGuided:
    """Every token that moves commits the same number of nats: uncertain tokens take short steps, certain ones long.

    A step from SNR ``s`` to ``s'`` made with a guess of expected squared error ``v`` (per element) costs
    ``½ y = ½ v (s' - s)`` nats an element: the divergence of the true step from the model's (Kingma et al. 2021,
    arXiv:2107.00630, equation 13, a token at a time). For each sample by itself, with ``k`` steps left:

        ``y = max_i even_i(k)``               the pace of the token that would commit most on an even way to clean,
        ``s_i' = s_i + y / v_i``              the step of a token that moves,
        i waits if ``r_i <= patience (max_j r_j - log(1 + y))``  with ``r_i = log(1 + v_i (S - s_i))``.

    ``½ r`` nats are what a normal variable of variance ``v`` still gains on its way to clean, at SNR ``S``; each step
    takes ``½ log(1 + y)`` of them. So a token waits until it has as much to gain as the most uncertain one will have
    left, and then both finish together.

    ``even_i(k)`` is ``y`` of token i's next step on an even way to clean. Even by ``level``: in equal steps of level,
    and the most uncertain token then goes as all go in synchronous generation. Even by ``nats``: ``r_i`` in equal
    parts. That is best where tokens tell different things. On images it leaves noise far too fast: there all tokens
    tell the same few things, and what one gains alone says little of what they gain together.

    A token that waits costs no move and becomes more certain as the others move. The paper advances tokens of low error
    faster (Papa et al. 2026, arXiv:2606.07079) and gives no rule.

    The steps of a *dense* network stay as many as the most uncertain token needs; what is saved is in
    ``Sampled.token_updates``. ``sample`` ends before ``max_steps`` where all tokens are clean, which takes one look of
    the host at the device in each step.

    Args:
        max_steps: steps, at most; fewer where all tokens are clean before, by ``least_nats`` or ``tolerance``.
        uncertainty: where ``v`` comes from.
        pace: what the even way is even in.
        patience: 0 lets every token move from the first step, certain ones ahead of the others; at 1 each waits as long
            as it can. By nats 1 is best if ``v`` is exact; 0.5 forgives an estimate, and by level it is best.
        tolerance: noise of this variance no longer matters: a token that would reach ``S = 1 / tolerance`` becomes
            clean. In units of the data's variance.
        least_nats: that a moving token commits, per element; 0 is none. Samples that are easier than others then take
            fewer steps.
        together: the tokens of a sample move by the same SNR, as far as the most uncertain may: synchronous generation
            at the rule's pace, to tell what the pace does from what the tokens' own steps do.
        lagged: who moves is chosen before the evaluation, by the last guess that was asked for of each token, so that a
            network that leaves out the others (``only_moving`` in :func:`sample`) computes just these; not lagged, all
            that are not clean. The lag is in the choice alone: tokens move by new guesses, and small ancestral steps
            draw from the model's law as they do without. What a token's own moves take from its error is foreseen, as
            of a normal variable: ``v / (1 + v (s' - s))``. What its neighbours tell while it waits is seen only when it
            moves, so it may begin too early. The first step asks for all tokens. Not with ``together``.
        start: levels that tokens start from, 0 known; noise by default.
    """

    schedule: InvertibleSchedule
    max_steps: int
    uncertainty: Uncertainty[Any] = Predicted()
    pace: Literal["level", "nats"] = "level"
    patience: float = 0.5
    tolerance: float = 1e-4
    least_nats: float = 0.0
    together: bool = False
    lagged: bool = False
    start: Start | None = None

    def __post_init__(self) -> None:
        if self.pace not in ("level", "nats"):
            raise ValueError(f"pace is 'level' or 'nats', got {self.pace!r}")
        if self.max_steps < 1:
            raise ValueError(f"generation takes at least one step, got {self.max_steps}")
        if not 0 <= self.patience <= 1:
            raise ValueError(f"patience lies in [0, 1], got {self.patience}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is a variance in (0, 1), got {self.tolerance}")
        if not 0 <= self.least_nats < math.inf:
            raise ValueError(f"least_nats must not be negative, got {self.least_nats}")
        if self.lagged and self.together:
            raise ValueError("lagged chooses which tokens wait, together lets none wait: use one of them")

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, GuidedState]:
        level = start_levels(self.start, z)
        log_snr = self.schedule(level)
        end = self.schedule(level.new_zeros(()))
        return NoiseMap(log_snr).to(z), GuidedState(0, log_snr, end, self.uncertainty.init(z), z)

    def next(self, noise: NoiseMap, posterior: Posterior, state: GuidedState) -> tuple[NoiseMap, GuidedState]:
        seen = LastSeen(state.log_snr, posterior)
        if state.seen is not None and state.moves is not None:
            seen = state.seen.renewed(state.moves, seen)
        at = NoiseMap(seen.log_snr).to(state.like)
        log_error, memory = self.uncertainty(at, seen.posterior, state.uncertainty)
        # a model may be sure of what it was shown
        error = log_error.to(state.log_snr).exp().clamp(min=1e-30)[..., None]
        left, goal = self.max_steps - state.step, self._goal(state)
        v = seen.now(error, state.log_snr)
        y, moves = self._plan(v, state, left)
        moves = moves if state.moves is None else state.moves
        step = y / v
        if self.together:
            step = step.where(moves, math.inf).amin(-2, keepdim=True)
        reached = state.log_snr.exp() + step
        log_snr = torch.where(reached >= goal * (1 - 1e-9), state.end, reached.log())
        log_snr = torch.where(moves, torch.maximum(log_snr, state.log_snr), state.log_snr)
        if left == 1:
            log_snr = state.end.expand_as(log_snr)
        state = GuidedState(state.step + 1, log_snr, state.end, memory, state.like)
        if self.lagged and left > 1:
            _, moves = self._plan(seen.now(error, log_snr), state, left - 1)
            state = state._replace(moves=moves, seen=seen)
        return NoiseMap(log_snr).to(state.like), state

    def _goal(self, state: GuidedState) -> Float[Tensor, ""]:
        """SNR at which a token becomes clean."""
        return state.end.exp().clamp(max=1 / self.tolerance)

    def _plan(
        self, v: Float[Tensor, "*batch n 1"], state: GuidedState, left: int
    ) -> tuple[Float[Tensor, "*batch 1 1"], Bool[Tensor, "*batch n 1"]]:
        """``y`` of the next step and the tokens that move in it: in the last step all that are not clean."""
        snr, goal, clean = state.log_snr.exp(), self._goal(state), state.log_snr >= state.end
        gain = torch.log1p(v * (goal - snr).clamp(min=0)).masked_fill(clean, 0)
        y = self._even(v, gain, state.log_snr, goal, left).amax(-2, keepdim=True).clamp(min=2 * self.least_nats)
        if self.together:
            return y, ~clean
        after = gain.amax(-2, keepdim=True) - torch.log1p(y)
        waits = (gain <= self.patience * after - 1e-9) & (snr < goal)
        return y, ~(waits | clean)

    def _even(self, v: Tensor, gain: Tensor, log_snr: Tensor, goal: Tensor, left: int) -> Float[Tensor, "*batch n 1"]:
        """``y`` of every token's next step, were it to go an even way to clean in the steps left."""
        if self.pace == "nats":
            return torch.expm1(gain / left)
        further = self.schedule(self.schedule.level_of(log_snr) * (1 - 1 / left)).exp()
        return (v * (torch.minimum(further, goal) - log_snr.exp()).clamp(min=0)).masked_fill(gain == 0, 0)

    def moving(self, noise: NoiseMap, state: GuidedState) -> Bool[Tensor, "*batch n"]:
        """All that are not clean, for which of them will wait their guesses tell; ``lagged``, those that move."""
        return (state.log_snr < state.end if state.moves is None else state.moves)[..., 0]

    def finished(self, noise: NoiseMap, state: GuidedState) -> bool:
        return bool((state.log_snr >= state.end).all())
