"""Training samplers: which noise maps the network sees, and how much each token's error counts."""

from ._contiguous import clean_context as clean_context, wavefront as wavefront
from ._draw import (
    Draw as Draw,
    TrainingLevelSampler as TrainingLevelSampler,
    loss as loss,
    weighted as weighted,
)
from ._elementary import async_patch as async_patch, independent as independent, shared as shared
from ._laws import LevelLaw as LevelLaw, logit_normal as logit_normal, uniform as uniform
from ._levels import LevelSampler as LevelSampler, mixture as mixture, snap as snap
from ._weighting import (
    Weighting as Weighting,
    eps_weighting as eps_weighting,
    flow_weighting as flow_weighting,
    v_weighting as v_weighting,
    x_weighting as x_weighting,
)
