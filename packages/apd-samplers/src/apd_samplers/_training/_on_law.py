"""Samplers of levels on random monotone paths, and training by a likelihood bound's own weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apd_schedules import Levels, NoiseMap, NoiseSchedule, PathLaw

from .._named import named
from ._draw import Draw, TrainingLevelSampler
from ._levels import LevelSampler
from ._weighting_levels import log_snr_rate


@dataclass(frozen=True, slots=True, repr=False)
class OnLaw:
    """Levels at evenly spread places of the paths of a law: a sampler of levels that knows its velocities.

    Args:
        law: of the paths.
        name: what it prints as.
    """

    law: PathLaw
    name: str

    def __call__(self, batch: int, generator: Generator | None = None) -> Float[Tensor, "b n e"]:
        return self.draw(batch, generator).level.to(torch.get_default_dtype())

    def draw(self, batch: int, generator: Generator | None = None) -> Levels:
        """Levels and velocities ``d level / du`` in float64; ``u`` is uniform and evenly spread over the batch."""
        jitter = torch.rand((), generator=generator, dtype=torch.float64)
        u = (torch.randperm(batch, generator=generator) + jitter) / max(batch, 1)
        return self.law.at(u, self.law.draw(batch, generator))

    def __repr__(self) -> str:
        return self.name


@named
def bound(sampler: LevelSampler | PathLaw, schedule: NoiseSchedule) -> TrainingLevelSampler:
    """Levels of a law of paths with the weights that make the loss its likelihood bound.

    The expected :func:`loss` of the draws is the diffusion term of ``apd_schedules.elbo`` in nats, whatever the law:
    ``½ (-d log_snr / du) SNR`` times the squared error of x, with ``u`` the path's parameter.

    How much single draws vary depends on the schedule: on :class:`RectifiedFlow`, whose SNR runs away at the clean end,
    the mean is made by rare large draws (a standard deviation of 12 times the mean for 4 tokens of unit variance, and a
    batch of thousands can miss); on :class:`Linear`, linear in log-SNR, of about the mean.

    Args:
        sampler: a sampler made from a law (:func:`quad`, :func:`tent`, …), or a law. Of several laws make one by
            ``apd_schedules.mixture_law``, of a path by :func:`on_path`.
        schedule: differentiable by torch.

    Raises:
        TypeError: a sampler of levels that knows no velocities.
        ValueError: a law whose velocities are not those of its levels, see ``PathLaw.check``.
    """
    if not isinstance(sampler, OnLaw | PathLaw):
        raise TypeError(
            f"a bound needs the velocities of a law of paths, which {sampler!r} does not know: give it quad, tent, "
            "mean_beta, elbo_walk, on_path, inpainting_legs, or a PathLaw such as mixture_law makes"
        )
    source = sampler if isinstance(sampler, OnLaw) else OnLaw(sampler, "PathLaw")
    tried = Generator().manual_seed(0)
    source.law.check(torch.rand(64, generator=tried, dtype=torch.float64), source.law.draw(64, tried))

    def draw(batch: int, generator: Generator | None = None) -> Draw:
        drawn = source.draw(batch, generator)
        log_snr, rate = log_snr_rate(schedule, drawn.level, drawn.velocity)
        weight = -0.5 * rate * log_snr.exp()
        dtype = torch.get_default_dtype()
        return Draw(NoiseMap(log_snr.to(dtype)), weight.to(dtype))

    return draw
