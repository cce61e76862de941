"""Training draws: a noise map and a weight per token. The loss knows nothing else."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apd_schedules import Denoiser, NoiseMap, NoiseSchedule, corrupt

from .._checks import check_mean
from .._named import named
from ._levels import LevelSampler
from ._weighting import Weighting, flow_weighting


@dataclass(frozen=True, slots=True)
class Draw:
    """What one training batch looks at.

    Args:
        noise: the maps, ``(b, n, e)``.
        weight: what the squared error of the mean is multiplied by, ``(b, n, e)``, not negative.
    """

    noise: NoiseMap
    weight: Float[Tensor, "b n e"]

    def to(self, like: Tensor | torch.device) -> "Draw":
        """On the device of the data: samplers draw on the CPU, where their generators are."""
        device = like.device if isinstance(like, Tensor) else like
        return Draw(NoiseMap(self.noise.log_snr.to(device)), self.weight.to(device))


@runtime_checkable
class TrainingLevelSampler(Protocol):
    """(batch, generator) to a :class:`Draw`, both on the CPU. Without a generator, torch's global one."""

    def __call__(self, batch: int, generator: Generator | None = None) -> Draw: ...


@named
def weighted(
    sampler: LevelSampler, schedule: NoiseSchedule, weighting: Weighting = flow_weighting
) -> TrainingLevelSampler:
    """Levels read by a schedule and weighted by level. Clean tokens (level 0) weigh nothing: there is nothing to learn.

    The prediction whose plain squared error is minimised is the weighting's; by default the flow's velocity.

    Raises:
        ValueError: when called, a weighting that is negative or not finite somewhere.
    """

    def draw(batch: int, generator: Generator | None = None) -> Draw:
        level = sampler(batch, generator)
        noise = NoiseMap(schedule(level))
        weight = torch.where(level == 0, 0.0, weighting(noise))
        if not ((weight >= 0) & weight.isfinite()).all():
            at = float(noise.log_snr.expand_as(weight)[~((weight >= 0) & weight.isfinite())][0])
            name = getattr(weighting, "__name__", repr(weighting))
            raise ValueError(f"weights must be finite and not negative: {name} is not, at a log-SNR of {at:.4g}")
        return Draw(noise, weight)

    return draw


def loss(
    denoise: Denoiser,
    x: Float[Tensor, "b n d"],
    draw: Draw,
    eps: Float[Tensor, "b n d"],
    **cond: Any,
) -> Float[Tensor, " b"]:
    """Weighted squared error of the mean, summed over the tokens and elements of each sample.

    Args:
        x: clean tokens.
        draw: on their device, see :meth:`Draw.to`.
        eps: standard normal noise.
        cond: conditions for the denoiser.

    Raises:
        ValueError: a draw or noise of other tokens, or a denoiser's mean of another shape.
    """
    noise, weight = draw.noise.log_snr.shape, draw.weight.shape
    fits = all(len(s) == 3 and s[:2] == x.shape[:2] and s[2] in (1, x.shape[2]) for s in (noise, weight))
    if not fits or eps.shape != x.shape:
        raise ValueError(
            f"tokens of shape {tuple(x.shape)} take noise of that shape and a draw of as many samples and tokens, got "
            f"{tuple(eps.shape)}, levels {tuple(noise)} and weights {tuple(weight)}"
        )
    posterior = denoise(corrupt(x, draw.noise, eps), draw.noise, **cond)
    check_mean(posterior, x)
    error = x - posterior.mean
    return (draw.weight * error.square()).sum((-2, -1))
