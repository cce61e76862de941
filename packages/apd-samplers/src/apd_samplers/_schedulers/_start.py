"""Where adaptive generation starts."""

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule

Start = Float[Tensor, "... 1"]
"""Levels that tokens start from, ``(*batch, n, 1)``, or ``(n, 1)`` for every sample: 1 is noise, 0 is known and stays
clean, between is a soft mask."""


def start_levels(start: Start | None, z: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n 1"]:
    """The levels of every sample, in float64 on the device of ``z``; all noise by default.

    Raises:
        ValueError: levels that are not in [0, 1] or do not fit the tokens.
    """
    levels = torch.ones(*z.shape[:-1], 1, dtype=torch.float64, device=z.device)
    if start is None:
        return levels
    if not ((start >= 0) & (start <= 1)).all():
        raise ValueError("tokens start from levels in [0, 1], 1 noise, 0 known")
    *batch, n, e = start.shape if start.ndim > 1 else (0, 0)
    lead = levels.shape[len(levels.shape) - start.ndim : -2]
    if (
        (n, e) != levels.shape[-2:]
        or len(batch) > len(lead)
        or any(k not in (1, m) for k, m in zip(batch, lead, strict=True))
    ):
        raise ValueError(
            f"start has levels of shape {tuple(start.shape)}, tokens of shape {tuple(z.shape)} take "
            f"{tuple(levels.shape)}, or that without batch axes"
        )
    return start.to(levels).expand_as(levels).clone()


def map_at(schedule: NoiseSchedule, levels: Float[Tensor, "*batch n 1"], z: Tensor) -> NoiseMap:
    """The map of the levels, in the precision that tokens ``z`` are moved in."""
    return NoiseMap(schedule(levels)).to(z)
