"""Whole networks to measure, and the maps that they are asked at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from apd_models import DiT, Levels, Patchify, dit_config
from apd_models._modulation import distinct_levels
from apd_schedules import NoiseMap, Posterior, RectifiedFlow

from . import peers
from .protocol import Machine

SCHEDULE = RectifiedFlow()


@dataclass(frozen=True, slots=True)
class Network:
    """A size of network and of its inputs.

    Args:
        depth: blocks, if fewer than the size has.
        side: tokens a side.
        seconds: for each comparison.
    """

    size: str
    batch: int
    depth: int | None = None
    side: int = 16
    seconds: float = 30.0

    @property
    def tokens(self) -> int:
        return self.side**2

    @property
    def name(self) -> str:
        shorter = "" if self.depth is None else f" of {self.depth} block{'s' * (self.depth > 1)}"
        return f"{self.size}{shorter}, N = {self.tokens}, B = {self.batch}"

    def model(self, machine: Machine, **options: Any) -> DiT:
        """With weights at random."""
        patchify = Patchify(2 * self.side, 2 * self.side, 4, 2)
        shape = {} if self.depth is None else {"depth": self.depth}
        model = DiT(dit_config(self.size, patchify, **shape, **options)).eval()
        peers.drawn_anew(model, machine.seed)
        return model.to(machine.device)

    def normal(self, machine: Machine, generator: Generator) -> Tensor:
        return torch.randn(self.batch, self.tokens, 16, generator=generator, device=machine.device)


def with_levels(model: DiT) -> Callable[..., Posterior]:
    """The model, told which levels there are: nothing in it then depends on how many are found."""

    def denoise(z: Tensor, log_snr: Tensor, values: Tensor, index: Tensor, label: Tensor | None = None) -> Posterior:
        if label is None:
            label = torch.full((len(z),), model.null_label, device=z.device)
        modulations = model.modulations(Levels(values, index), label)
        return model(z, NoiseMap(log_snr[..., None]), label, modulations=modulations)

    return denoise


def found(log_snr: Tensor) -> Levels:
    """The distinct levels; compiled code is to take any number of them, as in training."""
    levels = distinct_levels(log_snr)
    torch._dynamo.maybe_mark_dynamic(levels.log_snr, 0)
    return levels


def at(level: Tensor) -> Tensor:
    """Log-SNR at levels in [0, 1], 0 clean."""
    return SCHEDULE(level)


def box(side: int, batch: int, device: torch.device) -> Tensor:
    """Known tokens, 75 %: all but a square in the middle; ``(b, n)``."""
    known = torch.ones(side, side, dtype=torch.bool, device=device)
    quarter = side // 4
    known[quarter : side - quarter, quarter : side - quarter] = False
    return known.flatten().expand(batch, -1)
