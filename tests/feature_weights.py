"""Weights and images that are the same numbers everywhere: of raw words of PCG64, whose stream never changes."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

POSITIVE = ("running_var", "bn.weight", "norm.weight", "norm1.weight", "norm2.weight", "gamma")


def frozen_weights(like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Signals stay about as large throughout, normalisations do something, and filters sum to zero, so that features
    tell images apart."""
    words = np.random.PCG64(seed)
    state = {}
    for name, tensor in like.items():
        uniform = torch.from_numpy((words.random_raw(tensor.numel()) >> np.uint64(40)).astype(np.float32) / 2**23 - 1)
        uniform = uniform.view(tensor.shape)
        if tensor.ndim > 1:
            means = uniform.flatten(1).mean(1).view(-1, *(1,) * (tensor.ndim - 1))
            state[name] = (uniform - means) * math.sqrt(6 / math.prod(tensor.shape[1:]))
        else:
            state[name] = 1 + uniform / 2 if name.endswith(POSITIVE) else uniform / 5
    return state


def frozen_image(height: int, width: int, seed: int = 0) -> UInt8[Tensor, "1 3 h w"]:
    """Squares of 8 pixels, each of a colour, with noise on them."""
    words = np.random.PCG64(seed)
    rows, columns = -(-height // 8), -(-width // 8)
    squares = (words.random_raw(3 * rows * columns) >> np.uint64(57)).reshape(3, rows, columns)
    noise = (words.random_raw(3 * height * width) >> np.uint64(57)).reshape(3, height, width)
    pixels = squares.repeat(8, 1).repeat(8, 2)[:, :height, :width] + noise
    return torch.from_numpy(pixels.astype(np.uint8))[None]


def summary(features: Float[Tensor, "1 d"]) -> list[float]:
    """Five numbers that all features enter: four cosine transforms and the length."""
    x = features[0].double()
    waves = torch.cos(torch.arange(len(x), dtype=torch.float64)[:, None] * torch.arange(1, 5))
    return [*(x @ waves).tolist(), x.norm().item()]
