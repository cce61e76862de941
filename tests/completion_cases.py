"""Small models of pixels, pictures of every kind, and masks for them."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from apd_models import Patchify, Pretrained
from dit_cases import random_model

MODES = ("L", "LA", "RGB", "RGBA", "I;16")


def small(channels: int = 1, grid: tuple[int, int] = (2, 2), patch: int = 4, **options: Any) -> Pretrained:
    """A model with random weights, in float32, of images of 8×8 pixels unless said otherwise."""
    patchify = Patchify(grid[0] * patch, grid[1] * patch, channels, patch)
    shape: dict[str, Any] = {"grid": grid, "token_dim": patchify.token_dim, "width": 16, "depth": 1, **options}
    model = random_model(**shape).float()
    return Pretrained(model, patchify, tuple("abc"[: model.config.classes]), "random")


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """Random pixels, of one of the modes that images are read in."""
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels)


def values(image: Image.Image) -> np.ndarray:
    """Height, width, bands."""
    array = np.asarray(image)
    return array.reshape(*array.shape[:2], -1)


def random_levels(kind: str, width: int, height: int, seed: int = 0) -> Tensor:
    """Of pixels: scattered, a box, soft, or all noise; at least one is not known."""
    rng = np.random.default_rng((seed, 1))
    levels = np.zeros((height, width), np.float32)
    if kind == "scattered":
        levels[:] = rng.random((height, width)) < rng.random()
    elif kind == "soft":
        levels[:] = rng.random((height, width)) * (rng.random((height, width)) < 0.5)
    elif kind == "all":
        levels[:] = 1
    top, left = rng.integers(height), rng.integers(width)
    levels[top : top + 1 + rng.integers(height), left : left + 1 + rng.integers(width)] = 1
    return torch.from_numpy(levels)
