"""Training samplers: which noise maps the network sees, and how much each token's error counts."""

from ._arrivals import (
    Arrival as Arrival,
    radial_front as radial_front,
    random_cells_front as random_cells_front,
    raster_front as raster_front,
    straight_front as straight_front,
)
from ._brush import brush as brush
from ._contiguous import clean_context as clean_context, wavefront as wavefront
from ._describe import describe as describe
from ._description import BoundTest as BoundTest, Coverage as Coverage, Description as Description
from ._draw import Draw as Draw, TrainingLevelSampler as TrainingLevelSampler, loss as loss, weighted as weighted
from ._elementary import (
    async_patch as async_patch,
    correlated as correlated,
    independent as independent,
    patchwise as patchwise,
    shared as shared,
    truncated_gaussian as truncated_gaussian,
)
from ._known_elements import ElementMaskSampler as ElementMaskSampler, known_elements as known_elements
from ._laws import LevelLaw as LevelLaw, logit_normal as logit_normal, uniform as uniform
from ._levels import LevelSampler as LevelSampler, mixture as mixture, snap as snap
from ._masks import (
    MaskSampler as MaskSampler,
    box as box,
    complement as complement,
    either as either,
    half as half,
    scattered as scattered,
)
from ._on_law import OnLaw as OnLaw, bound as bound
from ._on_law_samplers import (
    elbo_walk as elbo_walk,
    inpainting_legs as inpainting_legs,
    mean_beta as mean_beta,
    on_path as on_path,
    quad as quad,
    tent as tent,
)
from ._patch_marginal import AsyncPatchMarginal as AsyncPatchMarginal
from ._perlin import blobs as blobs, perlin as perlin
from ._two_level import two_level as two_level
from ._weighting import (
    Weighting as Weighting,
    edm_weighting as edm_weighting,
    eps_weighting as eps_weighting,
    flow_weighting as flow_weighting,
    min_snr_weighting as min_snr_weighting,
    v_weighting as v_weighting,
    x_weighting as x_weighting,
)
from ._weighting_levels import (
    elbo_weighting as elbo_weighting,
    marginal_corrected as marginal_corrected,
    sigmoid_weighting as sigmoid_weighting,
)
