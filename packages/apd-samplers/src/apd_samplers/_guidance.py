"""Guidance: functions from denoiser to denoiser."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap, Posterior

Guidance = Callable[[Denoiser], Denoiser]


def classifier_free(scale: float, null: Mapping[str, Any]) -> Guidance:
    """``x̂(null) + scale (x̂(cond) - x̂(null))`` (Ho & Salimans 2022, arXiv:2207.12598).

    Said of ``x``; with equal ``z`` and map it is the same rule for eps, v, flow and score.

    Args:
        scale: 1 is the conditional model itself and costs one evaluation; 0 the unconditional one.
        null: the conditions that stand for none, such as ``{"label": null_label}``. They replace those of equal name.
    """

    def guide(denoise: Denoiser) -> Denoiser:
        def guided(z: Float[Tensor, "*batch n d"], noise: NoiseMap, **cond: Any) -> Posterior:
            if scale == 1:
                return denoise(z, noise, **cond)
            free = denoise(z, noise, **{**cond, **null})
            if scale == 0:
                return free
            told = denoise(z, noise, **cond)
            return Posterior(free.mean.lerp(told.mean, scale), told.log_var, free.evaluations + told.evaluations)

        return guided

    return guide
