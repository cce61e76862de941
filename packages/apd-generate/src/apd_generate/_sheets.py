"""Pictures of completions: what was shown, what was made of it, and where that differs."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from apd_models import Patchify

from ._masks import TokenMask, as_pixels
from ._pictures import font, hide, picture_grid, to_image

_HEAT = ((240, 240, 240), (253, 200, 110), (226, 85, 60), (70, 10, 50))
"""Evenly spread from 0 to 1."""
_VEIL = 0.45


def shown(pixels: Float[Tensor, "c h w"], levels: Float[Tensor, "h w"], mask: TokenMask) -> Float[Tensor, "3 h w"]:
    """What a model is shown: hidden pixels in flat blue, those of a soft mask mixed with it, known ones of patches that
    are not known whole under a veil of it."""
    cover = torch.where(mask.known & ~mask.clean, _VEIL, levels)
    return torch.lerp(pixels.expand(3, -1, -1), hide(pixels, torch.zeros_like(mask.known)), cover)


def spread(images: Float[Tensor, "k c h w"], patchify: Patchify) -> Float[Tensor, " n"]:
    """Variance between completions in each patch: unbiased, averaged over its values; 0 where all are known.

    Raises:
        ValueError: fewer than two.
    """
    if len(images) < 2:
        raise ValueError(f"a variance is of two completions or more, got {len(images)}")
    return patchify.to_tokens(images).var(0).mean(-1)


def spread_picture(images: Float[Tensor, "k c h w"], patchify: Patchify, side: int = 256) -> Image.Image:
    """The standard deviation between completions in each patch, the square root of :func:`spread`, as a heat map with
    its scale beneath.

    Args:
        side: least height of the map, in pixels.
    """
    deviation = spread(images, patchify).sqrt()
    most, factor = float(deviation.max()), max(1, round(side / patchify.height))
    heat = to_image(_heat(deviation / max(most, 1e-12), patchify))
    heat = heat.resize((heat.width * factor, heat.height * factor), Image.Resampling.NEAREST)
    letters, gap = font(), 6
    caption = f"standard deviation of {len(images)} completions, values in [-1, 1]"
    width = max(heat.width, int(letters.getlength(caption))) + 2 * gap
    picture = Image.new("RGB", (width, heat.height + 52), "white")
    picture.paste(heat, ((width - heat.width) // 2, gap))
    pen, top = ImageDraw.Draw(picture), heat.height + 2 * gap
    pen.text((width / 2, top), caption, "black", letters, anchor="ma")
    bar = torch.linspace(0, 1, 101).reshape(1, -1)
    scale = to_image(_colours(bar)).resize((101, 10), Image.Resampling.NEAREST)
    left = (width - scale.width) // 2
    picture.paste(scale, (left, top + 22))
    pen.text((left - gap, top + 27), "0", "black", letters, anchor="rm")
    pen.text((left + scale.width + gap, top + 27), f"{most:.2g}", "black", letters, anchor="lm")
    return picture


def contact_sheet(
    preview: Float[Tensor, "3 h w"],
    images: Float[Tensor, "k c h w"],
    seeds: Sequence[int],
    patchify: Patchify | None = None,
    columns: int = 8,
) -> Image.Image:
    """What was shown; of several completions their mean and, by patches, how far they differ; and all of them.

    Args:
        preview: from :func:`shown`.
        patchify: of the model; without it, the heat map of differences is left out.
    """
    first, names = [preview], ["shown"]
    if len(images) > 1:
        first.append(images[0] + (images - images[0]).mean(0))
        names.append("mean")
        if patchify is not None:
            deviation = spread(images, patchify).sqrt()
            first.append(_heat(deviation / deviation.max().clamp(min=1e-12), patchify))
            names.append("deviation")
    rows, row_names = [first], [", ".join(names)]
    for start in range(0, len(images), columns):
        rows.append([*images[start : start + columns]])
        some = seeds[start : start + columns]
        row_names.append(f"seed {some[0]}" if len(some) == 1 else f"seeds {some[0]} … {some[-1]}")
    return picture_grid(rows, row_names)


def _heat(values: Float[Tensor, " n"], patchify: Patchify) -> Float[Tensor, "3 h w"]:
    return _colours(as_pixels(values[:, None], patchify))


def _colours(values: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    anchors = torch.tensor(_HEAT).div(127.5).sub(1)
    at = values.clamp(0, 1) * (len(anchors) - 1)
    below = at.floor().clamp(max=len(anchors) - 2).long()
    return torch.lerp(anchors[below], anchors[below + 1], (at - below)[..., None]).permute(2, 0, 1)
