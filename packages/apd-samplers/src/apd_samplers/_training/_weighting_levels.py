"""Weights that depend on how fast the log-SNR falls with the level, or on how often a level is drawn."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import InvertibleSchedule, NoiseMap, NoiseSchedule

from .._named import named
from ._weighting import Weighting

END = 1e-6
"""Levels this near to 0 or 1 are the ends, where a sampler may put a share of its tokens: no density speaks of them."""


@named
def elbo_weighting(schedule: InvertibleSchedule) -> Weighting:
    """``½ (-d log_snr / dt) SNR``, the integrand of the likelihood bound (Kingma et al. 2021, arXiv:2107.00630).

    A bound for *shared* levels that are uniform in [0, 1], and for no others. For other laws of paths there is
    :func:`bound`, which knows the velocities of their levels (and says on which schedules single draws vary wildly); of
    a sampler of your own :func:`describe` tells.

    Args:
        schedule: what the levels are read by, differentiable by torch.
    """
    return lambda noise: -0.5 * _rate(schedule, noise) * noise.log_snr.exp()


@named
def sigmoid_weighting(schedule: InvertibleSchedule, bias: float = 0.0) -> Weighting:
    """``½ (-d log_snr / dt) SNR sigmoid(bias - log_snr)``: the bound's weight, less and less towards clean.

    With *shared* uniform levels it is the bound of images that have noise added to them, since the factor never falls
    towards noise (Kingma & Gao 2023, arXiv:2303.00848); with a level a token it is none, and can be below it. It is
    ``½ (-d log_snr / dt) e^bias sigmoid(log_snr - bias)``, the sigmoid loss of SiD2 (Hoogeboom et al. 2024,
    arXiv:2410.19324).

    Args:
        schedule: what the levels are read by, differentiable by torch.
        bias: log-SNR in nats at which half of the bound's weight is left. Larger images, in which more pixels tell the
            same, take a lower one.
    """
    if not math.isfinite(bias):
        raise ValueError(f"bias is a log-SNR in nats and must be finite, got {bias}")
    ordinary = elbo_weighting(schedule)
    return lambda noise: ordinary(noise) * (bias - noise.log_snr).sigmoid()


@named
def marginal_corrected(
    weighting: Weighting, density: Callable[[Float[Tensor, "*s"]], Float[Tensor, "*s"]], schedule: InvertibleSchedule
) -> Weighting:
    """``weighting / density(level)``: each level counts as often as if levels were uniform.

    The density of :func:`async_patch` is ``AsyncPatchMarginal(…).density``. The correction is of each token alone: with
    :func:`elbo_weighting` it makes a bound of shared levels of any law, not of others.

    Where the density is 0, so is the weight. Within 1e-6 of levels 0 and 1 the weight stays as it is and the density is
    not asked: samplers draw exactly these with a probability of their own (the tokens that wait as pure noise, say),
    which no density holds and a uniform law has not.

    Args:
        density: of the level of one token in (0, 1), elementwise; without what is drawn at 0 and 1 exactly.
        schedule: what the levels are read by.
    """

    def corrected(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
        level, weight = schedule.level_of(noise.log_snr), weighting(noise)
        at_end = (level < END) | (level > 1 - END)
        share = density(torch.where(at_end, 0.5, level))
        return torch.where(at_end, weight, torch.where(share > 0, weight / share, 0.0))

    return corrected


def log_snr_rate(
    schedule: NoiseSchedule, level: Float[Tensor, "*s"], velocity: Float[Tensor, "*s"] | None = None
) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
    """Log-SNR and its derivative, by the level or along a velocity of it (forward mode)."""
    level = level.contiguous()  # forward mode writes beside it
    velocity = torch.ones_like(level) if velocity is None else velocity.contiguous()
    log_snr, rate, *_ = torch.func.jvp(schedule, (level,), (velocity,))
    return log_snr, rate


def _rate(schedule: InvertibleSchedule, noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``d log_snr / dt`` at a map."""
    return log_snr_rate(schedule, schedule.level_of(noise.log_snr))[1]
