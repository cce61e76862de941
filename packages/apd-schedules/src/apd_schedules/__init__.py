"""Noise maps, noise schedules and monotone paths of asynchronous diffusion."""

from ._convert import (
    eps_from_x as eps_from_x,
    flow_from_x as flow_from_x,
    v_from_x as v_from_x,
    x_from_eps as x_from_eps,
    x_from_flow as x_from_flow,
    x_from_v as x_from_v,
)
from ._denoiser import Denoiser as Denoiser, Posterior as Posterior
from ._noise import (
    NoiseMap as NoiseMap,
    NoiseSchedule as NoiseSchedule,
    Path as Path,
    corrupt as corrupt,
)
from ._orders import raster as raster, shuffled as shuffled
from ._paths import (
    hold_clean as hold_clean,
    sequential as sequential,
    staggered as staggered,
    synchronous as synchronous,
    warp as warp,
)
from ._schedules import Cosine as Cosine, Linear as Linear, RectifiedFlow as RectifiedFlow
