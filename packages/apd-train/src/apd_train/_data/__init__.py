"""Images to train on."""

from ._embedded import load_animals28 as load_animals28
from ._folder import load_folder as load_folder
from ._image_set import DataError as DataError, ImageSet as ImageSet, LatentScale as LatentScale
from ._latents import at_scale as at_scale
from ._source import (
    Animals28 as Animals28,
    DataSource as DataSource,
    ImageArrays as ImageArrays,
    ImageFolder as ImageFolder,
    ImageLmdb as ImageLmdb,
    ImageParquet as ImageParquet,
    ImageZip as ImageZip,
    Latents as Latents,
    source_of as source_of,
)
from ._split import fingerprints as fingerprints, hold_out as hold_out, spread as spread
