"""Noise maps, noise schedules and monotone paths of asynchronous diffusion."""

from ._adaptive import Choose as Choose, adaptive_elbo as adaptive_elbo
from ._beta_law import beta_law as beta_law
from ._bound_terms import (
    bits_per_dim as bits_per_dim,
    diffusion_nats as diffusion_nats,
    discrete_diffusion_nats as discrete_diffusion_nats,
    prior_nats as prior_nats,
    reconstruction_nats as reconstruction_nats,
    step_back as step_back,
)
from ._capped import capped as capped
from ._convert import (
    edm_from_x as edm_from_x,
    eps_from_x as eps_from_x,
    flow_from_x as flow_from_x,
    score_from_x as score_from_x,
    v_from_x as v_from_x,
    x_from_edm as x_from_edm,
    x_from_eps as x_from_eps,
    x_from_flow as x_from_flow,
    x_from_score as x_from_score,
    x_from_v as x_from_v,
)
from ._curves import hilbert as hilbert, spiral as spiral
from ._denoiser import Denoiser as Denoiser, Posterior as Posterior
from ._elbo import Elbo as Elbo, Proposal as Proposal, elbo as elbo
from ._exact import (
    GaussianDenoiser as GaussianDenoiser,
    GaussianMixtureDenoiser as GaussianMixtureDenoiser,
    gaussian_texture as gaussian_texture,
)
from ._flux import Flux as Flux, flux as flux
from ._learned import LearnedSchedule as LearnedSchedule
from ._likelihood import (
    ContinuousGaussian as ContinuousGaussian,
    DiscretizedGaussian as DiscretizedGaussian,
    Likelihood as Likelihood,
)
from ._noise import (
    NoiseMap as NoiseMap,
    NoiseSchedule as NoiseSchedule,
    Path as Path,
    corrupt as corrupt,
)
from ._offsets import (
    Offsets as Offsets,
    correlated_offsets as correlated_offsets,
    independent_offsets as independent_offsets,
)
from ._orders import (
    checkerboard as checkerboard,
    coarse_to_fine as coarse_to_fine,
    grouped as grouped,
    one_by_one as one_by_one,
    ranked as ranked,
    raster as raster,
    shuffled as shuffled,
)
from ._path_combinators import (
    check_monotone as check_monotone,
    concatenate as concatenate,
    hold_at as hold_at,
    hold_clean as hold_clean,
    product as product,
    warp as warp,
)
from ._path_law import (
    Levels as Levels,
    PathLaw as PathLaw,
    law_of as law_of,
    mixture_law as mixture_law,
    path_law as path_law,
)
from ._path_laws import (
    logit_shift_law as logit_shift_law,
    probit_law as probit_law,
    quad_law as quad_law,
    shared_law as shared_law,
    tent_law as tent_law,
    tilt_law as tilt_law,
    window_law as window_law,
)
from ._path_laws_turns import (
    autoregressive_law as autoregressive_law,
    path_weights as path_weights,
    split_law as split_law,
    two_level_law as two_level_law,
    walk_law as walk_law,
    walk_log_density as walk_log_density,
)
from ._paths import (
    logit_shift as logit_shift,
    piecewise_linear as piecewise_linear,
    sequential as sequential,
    sliding_window as sliding_window,
    staggered as staggered,
    synchronous as synchronous,
)
from ._rescale import Scale as Scale, rescale as rescale
from ._schedules import (
    Cosine as Cosine,
    InvertibleSchedule as InvertibleSchedule,
    Linear as Linear,
    RectifiedFlow as RectifiedFlow,
)
from ._schedules_diffusion import EDM as EDM, VPBeta as VPBeta
from ._shifted import Shifted as Shifted, resolution_shift as resolution_shift, shifted as shifted
