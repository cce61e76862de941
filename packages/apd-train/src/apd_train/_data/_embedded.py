"""The data that comes with the package."""

from importlib.resources import files

import numpy as np
import torch

from ._image_set import ImageSet


def load_animals28() -> ImageSet:
    """10,000 grey animal silhouettes of 28×28 pixels, 1,000 for each of ten classes, 9,716 of them different.

    The arrays of the PyPI package animal-mnist 0.4, MIT licence, copyright 2025 SinaSR-6 (LICENSE.animals28).
    """
    with (
        files("apd_train._data").joinpath("animals28.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        images = torch.from_numpy(arrays["images"])[:, None]
        labels = torch.from_numpy(arrays["labels"]).long()
        names = tuple(str(name) for name in arrays["names"])
    return ImageSet(list(images), labels, names, size=28)
