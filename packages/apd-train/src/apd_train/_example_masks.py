"""Ways to hide a part of an image, for pictures of completions."""

import torch
from jaxtyping import Bool
from torch import Tensor

from apd_models import Patchify

from ._random import generator


def example_masks(patchify: Patchify) -> dict[str, Bool[Tensor, "h w"]]:
    """Known pixels, by name: one side, the centre, scattered tokens, all along the borders of tokens.

    A mask that would hide all or nothing of a small grid is left out.
    """
    rows, columns = patchify.grid
    row = torch.arange(rows)[:, None].expand(rows, columns)
    column = torch.arange(columns)[None].expand(rows, columns)
    inside = (
        (row >= rows // 4) & (row < rows - rows // 4) & (column >= columns // 4) & (column < columns - columns // 4)
    )
    scattered = torch.rand(rows, columns, generator=generator(0, "scattered mask")) < 0.4
    masks = {
        "left side": column < (columns + 1) // 2,
        "right side": column >= columns // 2,
        "upper part": row < (rows + 1) // 2,
        "lower part": row >= rows // 2,
        "all but the centre": ~inside,
        "the centre": inside,
        "two tokens in five": scattered,
        "every other token": (row + column) % 2 == 0,
    }
    pixels = lambda mask: mask.repeat_interleave(patchify.patch, 0).repeat_interleave(patchify.patch, 1)
    return {name: pixels(mask) for name, mask in masks.items() if mask.any() and not mask.all()}
