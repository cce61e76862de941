"""Steps as long as each token's uncertainty allows."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Posterior

from ._start import Start, start_levels
from ._uncertainty import Predicted, Uncertainty


class GuidedState(NamedTuple):
    """Args:
    step: steps planned so far.
    log_snr: of every token, in float64.
    end: log-SNR of clean.
    uncertainty: the uncertainty's own state.
    like: a tensor of the tokens' device and precision.
    """

    step: int
    log_snr: Float[Tensor, "*batch n 1"]
    end: Float[Tensor, ""]
    uncertainty: Any
    like: Tensor


@dataclass(frozen=True, slots=True)
class UncertaintyGuided:
    """Every token that moves commits the same number of nats: uncertain tokens take short steps, certain ones long.

    A step from SNR ``s`` to ``s'`` made with a guess of expected squared error ``v`` (per element) costs
    ``½ v (s' - s)`` nats an element: the divergence of the true step from the model's (Kingma et al. 2021,
    arXiv:2107.00630, equation 13, a token at a time). From here to clean, at SNR ``S``, a token gains at most
    ``½ r = ½ log(1 + v (S - s))``, what a normal variable of variance ``v`` gains. The rule, for each sample by itself,
    with ``k`` steps left:

        ``y = exp(max_i r_i / k) - 1``          the token with most to gain spreads it over all steps left,
        ``s_i' = min(S, s_i + y / v_i)``        each token that moves commits ``½ y`` nats an element,
        i moves if ``ceil(k r_i / max_j r_j) >= patience k``: it needs at least that share of the steps left.

    A token that waits costs no step and becomes more certain as the others move. The paper advances tokens of low error
    faster (Papa et al. 2026, arXiv:2606.07079) and gives no rule; this one makes the excess of the
    sampler's bound, ``½ (y - log(1 + y))`` for normal variables, equal among tokens and over steps.

    The steps of a *dense* network stay as many as the most uncertain token needs; what is saved is in
    ``Sampled.token_updates``. ``sample`` ends before ``max_steps`` where all tokens are clean, which takes one look of
    the host at the device in each step.

    Args:
        schedule: only its two ends count.
        max_steps: steps; all are used unless ``nats`` is set.
        uncertainty: where ``v`` comes from.
        patience: 0 lets every token move from the first step, certain ones ahead of the others; at 1 each waits until
            it needs all the steps left. With an exact ``v`` 1 is best; 0.5 forgives an estimate.
        tolerance: noise of this variance no longer matters: a token that would reach ``S = 1 / tolerance`` becomes
            clean. In units of the data's variance.
        nats: least that a moving token commits, per element; 0 is none. Samples that are easier than others then take
            fewer steps.
        together: the tokens of a sample move by the same SNR, as far as the most uncertain may: synchronous generation
            at the rule's pace, to tell what the pace does from what the tokens' own steps do.
        start: levels that tokens start from, 0 known; noise by default.
    """

    schedule: NoiseSchedule
    max_steps: int
    uncertainty: Uncertainty[Any] = Predicted()
    patience: float = 0.5
    tolerance: float = 1e-4
    nats: float = 0.0
    together: bool = False
    start: Start | None = None

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"generation takes at least one step, got {self.max_steps}")
        if not 0 <= self.patience <= 1:
            raise ValueError(f"patience is a share of the steps left, in [0, 1], got {self.patience}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance is a variance in (0, 1), got {self.tolerance}")
        if not 0 <= self.nats < math.inf:
            raise ValueError(f"nats must not be negative, got {self.nats}")

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, GuidedState]:
        level = start_levels(self.start, z)
        log_snr = self.schedule(level)
        end = self.schedule(torch.zeros_like(level[..., :1, :]).flatten()[0])
        return NoiseMap(log_snr).to(z), GuidedState(0, log_snr, end, self.uncertainty.init(z), z)

    def next(self, noise: NoiseMap, posterior: Posterior, state: GuidedState) -> tuple[NoiseMap, GuidedState]:
        log_error, seen = self.uncertainty(noise, posterior, state.uncertainty)
        v = log_error.to(state.log_snr).exp()[..., None]
        snr, left = state.log_snr.exp(), self.max_steps - state.step
        goal = state.end.exp().clamp(max=1 / self.tolerance)
        rest = torch.log1p(v * (goal - snr).clamp(min=0)) * (state.log_snr < state.end)
        most = rest.amax(-2, keepdim=True)
        y = torch.expm1(most / left).clamp(min=2 * self.nats)
        step = y / v
        if self.together:
            step = torch.where(rest > 0, step, math.inf).amin(-2, keepdim=True)
            waits = torch.zeros_like(rest, dtype=torch.bool)
        else:
            # a token that needs 3.0000001 of 3 steps does not wait longer than one that needs 3
            needs = (rest / torch.log1p(y).clamp(min=1e-300) - 1e-6).ceil()
            waits = (needs < self.patience * needs.amax(-2, keepdim=True)) & (snr < goal)
        reached = snr + step
        log_snr = torch.where(reached >= goal * (1 - 1e-9), state.end, reached.log())
        log_snr = torch.where(waits, state.log_snr, torch.maximum(log_snr, state.log_snr))
        if left == 1:
            log_snr = state.end.expand_as(log_snr)
        return NoiseMap(log_snr).to(state.like), GuidedState(state.step + 1, log_snr, state.end, seen, state.like)

    def finished(self, noise: NoiseMap, state: GuidedState) -> bool:
        return bool((state.log_snr >= state.end).all())
