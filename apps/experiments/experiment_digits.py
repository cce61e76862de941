"""Handwritten digits, and a reader of them."""

from functools import cache
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from sklearn.datasets import load_digits
from torch import Tensor

SIDE = 8
"""Pixels."""
NAMES = (0, 3, 6, 7)
"""Digits that are easily told apart: half of the variance of their pixels is between them, of 1 to 4 a third."""
EVERY = 4
"""One of so many images of each digit is held out."""


@cache
def digits(held_out: bool) -> tuple[UInt8[Tensor, "_k 8 8"], ...]:
    """Images of each of the digits: about 180 of UCI's optical recognition of handwritten digits (Alpaydin and
    Kaynak 1998), those that scikit-learn has; every fourth is held out."""
    values, names = cast(tuple[np.ndarray, np.ndarray], load_digits(return_X_y=True))
    images = torch.from_numpy(values * (255 / 16)).round().to(torch.uint8).reshape(-1, SIDE, SIDE)
    of = [images[torch.from_numpy(names) == name] for name in NAMES]
    return tuple(each[(torch.arange(len(each)) % EVERY == 0) == held_out] for each in of)


def read(cells: Float[Tensor, "*n 8 8"]) -> Int[Tensor, "*n"]:
    """The digit of each cell, 0 for the first: that of the training image nearest to it."""
    known, names = _known()
    flat = cells.flatten(-2).reshape(-1, SIDE**2)
    return names[torch.cdist(flat, known).argmin(1)].reshape(cells.shape[:-2])


@cache
def _known() -> tuple[Float[Tensor, "n 64"], Int[Tensor, " n"]]:
    each = digits(held_out=False)
    names = torch.arange(len(each)).repeat_interleave(torch.tensor([len(images) for images in each]))
    return torch.cat(each).flatten(1) / 127.5 - 1, names


def accuracy() -> float:
    """Of the reader, on images that it does not have."""
    each = digits(held_out=True)
    right = [(read(images / 127.5 - 1) == name).float() for name, images in enumerate(each)]
    return float(torch.cat(right).mean())
