"""One guidance on top of another."""

import functools

from apd_schedules import Denoiser

from .._named import named
from ._guided import Guidance


@named
def compose_guidance(*guidances: Guidance) -> Guidance:
    """From left to right: ``compose_guidance(g1, g2)(denoise) = g2(g1(denoise))``.

    The first is the nearest to the network. The order of Papa et al. 2026 (arXiv:2606.07079) is
    ``compose_guidance(classifier_free(…), input_guidance(…))``: classifier-free at both levels of the context, then the
    two compared. Without arguments it is the identity.
    """

    def guide(denoise: Denoiser) -> Denoiser:
        return functools.reduce(lambda inner, guidance: guidance(inner), guidances, denoise)

    return guide
