"""Guidance whose strength depends on the noise map."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap, Posterior

from .._checks import check_fits
from .._named import named
from ._guided import Answer, Calls, Guidance, Guided
from ._query import Query

Strength = Callable[[NoiseMap], Float[Tensor, "*batch n e"]]

GuidanceScale = float | Strength
"""A number, or a function of the noise map that returns one for each token, such as ``lambda noise: 1 +
noise.flow_level``."""


@named
def modulated(guidance: Guidance, strength: Strength) -> Guidance:
    """``x̂ + strength(noise) (guided x̂ - x̂)``: 0 leaves the denoiser as it is, 1 is ``guidance``, per token.

    What ``guidance`` asks anyway is not asked again. ``log_var`` is the denoiser's own.

    Args:
        strength: from a noise map to ``(*batch, n, e)``. Each token can be guided by its own level.

    Raises:
        ValueError: when called, a strength that does not fit the tokens.
    """

    def guide(denoise: Denoiser) -> Denoiser:
        guided = guidance(denoise)

        def plan(query: Query, calls: Calls) -> Answer:
            plain, told = calls.ask(denoise, query), calls.ask(guided, query)
            factor = strength(query.noise)
            check_fits("a strength", factor, query.z)

            def answer() -> Posterior:
                mean = plain().mean
                return Posterior(mean + factor.to(mean) * (told().mean - mean), plain().log_var)

            return answer

        return Guided(plan)

    return guide
