"""Away from the guess of a weaker model."""

from apd_schedules import Denoiser

from .._named import named
from ._branch import Branch
from ._composite import composite
from ._guided import Guidance
from ._modulated import GuidanceScale, modulated


@named
def autoguidance(weak: Denoiser, scale: GuidanceScale) -> Guidance:
    """``x̂_weak + scale (x̂ - x̂_weak)`` (Karras et al. 2024, arXiv:2406.02507).

    Both models are asked, with the same tokens, map and conditions: two evaluations.

    Args:
        weak: a smaller or less trained version of the model that is guided.
        scale: 1 is the model itself, 0 the weak one; each costs one evaluation. A function of the noise map gives each
            token its own.
    """
    if callable(scale):
        return modulated(autoguidance(weak, 2.0), lambda noise: scale(noise) - 1)
    return composite([Branch(scale), Branch(1 - scale, denoise=weak)])
