"""Noise levels as colours: one ramp in every picture, from dark, clean, to light, noise.

It is viridis (van der Walt & Smith 2015, dedicated to the public domain), which keeps its order for colour-blind eyes
and in grey; its nine evenly spread colours are joined by straight lines.
"""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ._pictures import to_image

VIRIDIS = (
    *((68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140)),
    *((40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37)),
)
"""Red, green and blue of levels 0, 1/8, … 1."""


def level_colours(levels: Float[Tensor, "..."]) -> Float[Tensor, "3 ..."]:
    """Colours with values in [-1, 1] of levels in [0, 1], 0 clean and 1 noise."""
    anchors = torch.tensor(VIRIDIS, dtype=torch.float32, device=levels.device).div(127.5).sub(1).T
    place = levels.float().clamp(0, 1) * (len(VIRIDIS) - 1)
    low = place.floor().long().clamp(max=len(VIRIDIS) - 2)
    below, above = anchors[:, low], anchors[:, low + 1]
    return below + (above - below) * (place - low)


def level_image(levels: Float[Tensor, " n"], grid: tuple[int, int], side: int = 1) -> Float[Tensor, "3 h w"]:
    """A noise map as the image lies, ``side`` pixels a token."""
    rows, columns = grid
    if levels.numel() != rows * columns:
        raise ValueError(f"a grid of {rows} by {columns} does not hold {levels.numel()} tokens")
    picture = level_colours(levels.reshape(rows, columns))
    return picture.repeat_interleave(side, -1).repeat_interleave(side, -2)


def level_picture(levels: Float[Tensor, " n"], grid: tuple[int, int], side: int = 16) -> Image.Image:
    """The same as a picture."""
    return to_image(level_image(levels, grid, side))
