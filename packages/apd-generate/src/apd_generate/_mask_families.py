"""Four ways to hide a part of an image, to measure completions by."""

import math
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool
from torch import Generator, Tensor

MaskFamily = Literal["extrema", "square", "thin", "wide"]
MASK_FAMILIES: tuple[MaskFamily, ...] = get_args(MaskFamily)


def draw_mask(family: str, height: int, width: int, generator: Generator) -> Bool[Tensor, "h w"]:
    """Pixels that are known; some are, and some are not.

    The names are those of Papa et al. 2026 (arXiv:2606.07079), which defines none of them. What is drawn is what the
    literature that it compares with means by them:

    - ``square``: the centred rectangle of half the height and half the width is hidden.
    - ``extrema``: all but that is hidden, as in the extreme masks of Chung et al. 2022 (arXiv:2206.00941).
    - ``thin``, ``wide``: brush strokes, for ``wide`` in three of thirteen cases boxes instead, in the narrow and wide
      settings that Suvorov et al. 2021 (arXiv:2109.07161) published for 256 pixels, all lengths scaled with the shorter
      side. As there, a mask that hides more than half of the image is drawn anew. A stroke is at least a pixel wide.

    Args:
        family: one of :data:`MASK_FAMILIES`.

    Raises:
        ValueError: no such family, or an image that is too small: below 2 pixels in all, or, for strokes, 8 a side.
    """
    if family not in MASK_FAMILIES:
        raise ValueError(f"masks are {', '.join(MASK_FAMILIES)}, got {family!r}")
    if height * width < 2 or (family in ("thin", "wide") and min(height, width) < 8):
        raise ValueError(f"an image of {height}×{width} pixels is too small for a mask of the family {family}")
    if family in ("extrema", "square"):
        hidden = np.zeros((height, width), bool)
        high, broad = max(1, height // 2), max(1, width // 2)
        top, left = (height - high) // 2, (width - broad) // 2
        hidden[top : top + high, left : left + broad] = True
        return torch.from_numpy(hidden if family == "extrema" else ~hidden)
    while True:
        hidden = _thin(height, width, generator) if family == "thin" else _wide(height, width, generator)
        if hidden.mean() <= 0.5:
            return torch.from_numpy(~hidden)


def _thin(height: int, width: int, generator: Generator) -> Bool[np.ndarray, "h w"]:
    return _strokes(height, width, generator, count=(4, 50), length=(10, 50), breadth=(5, 15))


def _wide(height: int, width: int, generator: Generator) -> Bool[np.ndarray, "h w"]:
    kind, count, *places = _uniform(14, generator)
    if kind < 10 / 13:
        return _strokes(height, width, generator, count=(1, 5), length=(10, 210), breadth=(5, 105))
    hidden, scale = np.zeros((height, width), bool), min(height, width) / 256
    margin = round(10 * scale)
    for box in range(1 + int(3 * count)):
        of_height, of_width, of_top, of_left = places[4 * box : 4 * box + 4]
        high, broad = (max(1, round((30 + 120 * share) * scale)) for share in (of_height, of_width))
        top = margin + int(of_top * (height - 2 * margin - high + 1))
        left = margin + int(of_left * (width - 2 * margin - broad + 1))
        hidden[top : top + high, left : left + broad] = True
    return hidden


def _strokes(
    height: int,
    width: int,
    generator: Generator,
    count: tuple[int, int],
    length: tuple[int, int],
    breadth: tuple[int, int],
) -> Bool[np.ndarray, "h w"]:
    """Strokes of one to five straight parts, each turned by about 0, 1, 2 or 3 radians from the vertical, every second
    stroke the other way.

    Args:
        count: of strokes, from and to.
        length, breadth: of the parts, from and to, at 256 pixels.
    """
    hidden, scale = np.zeros((height, width), bool), min(height, width) / 256
    strokes = count[0] + int(_uniform(1, generator)[0] * (count[1] - count[0] + 1))
    for index in range(strokes):
        of_x, of_y, parts, *turns = _uniform(18, generator)
        x, y = float(int(of_x * width)), float(int(of_y * height))
        for part in range(1 + int(5 * parts)):
            of_angle, of_length, of_breadth = turns[3 * part : 3 * part + 3]
            angle = (0.01 + int(4 * of_angle)) * (-1 if index % 2 == 0 else 1)
            far = (length[0] + of_length * (length[1] - length[0])) * scale
            radius = max(1.0, (breadth[0] + of_breadth * (breadth[1] - breadth[0])) * scale) / 2
            to_x = min(max(x + far * math.sin(angle), 0.0), width - 1.0)
            to_y = min(max(y + far * math.cos(angle), 0.0), height - 1.0)
            _hide_line(hidden, (x, y), (to_x, to_y), radius)
            x, y = to_x, to_y
    return hidden


def _hide_line(
    hidden: Bool[np.ndarray, "h w"], start: tuple[float, float], end: tuple[float, float], radius: float
) -> None:
    """Pixels whose centre is within ``radius`` of the line."""
    height, width = hidden.shape
    (x0, y0), (x1, y1) = start, end
    left, right = max(0, math.floor(min(x0, x1) - radius)), min(width, math.ceil(max(x0, x1) + radius) + 1)
    top, bottom = max(0, math.floor(min(y0, y1) - radius)), min(height, math.ceil(max(y0, y1) + radius) + 1)
    x, y = np.arange(left, right) - x0, np.arange(top, bottom)[:, None] - y0
    dx, dy = x1 - x0, y1 - y0
    along = ((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12)).clip(0, 1)
    hidden[top:bottom, left:right] |= (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius * radius


def _uniform(count: int, generator: Generator) -> list[float]:
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()
