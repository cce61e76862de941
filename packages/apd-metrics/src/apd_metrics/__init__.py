"""Quality of generated images: features, distances between sets of images, and of completions."""

from ._dinov2 import dinov2 as dinov2
from ._efficientnet import efficientnet_lite0 as efficientnet_lite0
from ._estimate import Estimate as Estimate, average as average
from ._feature_distance import feature_distance as feature_distance, feature_diversity as feature_diversity
from ._features import Extractor as Extractor, Features as Features, extract as extract
from ._frechet import (
    FrechetDistance as FrechetDistance,
    Moments as Moments,
    frechet_distance as frechet_distance,
    moments as moments,
)
from ._inception import inception as inception
from ._kernel_distance import (
    SubsetDistance as SubsetDistance,
    kernel_distance as kernel_distance,
    kernel_distance_of_subsets as kernel_distance_of_subsets,
)
from ._neighbours import (
    DensityCoverage as DensityCoverage,
    PrecisionRecall as PrecisionRecall,
    density_coverage as density_coverage,
    precision_recall as precision_recall,
)
from ._npz import ReferenceFileError as ReferenceFileError
from ._pairs import (
    Exactness as Exactness,
    exactness as exactness,
    pixel_diversity as pixel_diversity,
    psnr as psnr,
    ssim as ssim,
)
from ._quality import quality as quality
from ._reference import (
    Reference as Reference,
    read_reference as read_reference,
    reference_images as reference_images,
    save_reference as save_reference,
)
from ._samples import split as split
from ._score import Score as Score, metric_name as metric_name
from ._weights import WeightsError as WeightsError
