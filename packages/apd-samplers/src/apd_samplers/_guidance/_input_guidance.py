"""Away from the guess that sees less of the known tokens."""

from jaxtyping import Bool
from torch import Tensor

from apd_schedules import NoiseSchedule

from .._named import named
from .._noise_source import NoiseSource
from ._branch import Branch
from ._composite import composite
from ._guided import Guidance
from ._modulated import GuidanceScale, modulated
from ._renoised_region import RenoisedRegion


@named
def input_guidance(
    scale: GuidanceScale,
    region: Bool[Tensor, "*batch n e"],
    level: float = 1.0,
    *,
    schedule: NoiseSchedule,
    noise: NoiseSource,
) -> Guidance:
    """``(1 + scale) x̂(z_s; s) - scale x̂(z_t; t)`` (Papa et al. 2026, arXiv:2606.07079).

    From ``z_s`` to ``z_t`` only the tokens of a region, the context, are re-noised: see :class:`RenoisedRegion`. For
    frames it is history guidance (Song et al. 2025, arXiv:2502.06764). Forms of x, eps, v, flow and score agree only
    for tokens whose level is the same on both sides. Only these are combined; the region's own guess passes through as
    it is.

    Several regions or levels: nest, or give :func:`composite` a branch for each. With classifier-free guidance the
    published order is ``input_guidance(…)(classifier_free(…)(denoise))``: four evaluations, in one call.

    Args:
        scale: 0 is the denoiser itself, bit for bit, and costs one evaluation; above, the context counts for more.
            Between -1 and 0 it counts for less; -1 is the guess with the context re-noised. A function of the noise
            map gives each token its own.
        region: tokens ``(*batch, n, 1)``, such as the known ones.
        level: ``t``: 1 takes the context away, less blurs it. Tokens that are noisier already stay as they are.
        schedule: of the level.
        noise: a source, called once at each evaluation.
    """
    renoise = RenoisedRegion(region, level, schedule, noise)
    if callable(scale):
        return modulated(composite([Branch(2.0), Branch(-1.0, renoise=renoise)]), scale)
    return composite([Branch(1 + scale), Branch(-scale, renoise=renoise)])
