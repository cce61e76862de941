"""Pictures of images: rows, columns and names beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_INK, _PAPER, _HIDDEN = (40, 40, 40), (255, 255, 255), (120, 150, 200)


def to_image(image: Float[Tensor, "c h w"]) -> Image.Image:
    """An image with values in [-1, 1], grey or RGB, as 8 bits a channel."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def visible(images: Float[Tensor, "*batch c h w"], pixels: bool) -> Float[Tensor, "*batch _ h w"]:
    """Images with one or three channels and values in [-1, 1].

    Args:
        pixels: of images; else latents, of which up to three channels are shown as colours, three standard deviations
            either way.
    """
    return images if pixels else images[..., : 3 if images.shape[-3] >= 3 else 1, :, :] / 3


def hide(image: Float[Tensor, "c h w"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """The image in RGB with a flat blue where pixels are hidden."""
    blue = torch.tensor(_HIDDEN).div(127.5).sub(1)[:, None, None]
    return torch.where(known, image.expand(3, -1, -1), blue.to(image))


def picture_grid(
    rows: Sequence[Sequence[Float[Tensor, "_c h w"]]],
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    side: int = 64,
) -> Image.Image:
    """Images in rows and columns.

    Args:
        rows: images with values in [-1, 1], all of one size.
        row_names: written to the left of the rows; fewer or none leave rows unnamed.
        column_names: written above the columns.
        side: least height of an image, in pixels; small ones are enlarged by a whole factor.
    """
    height, width = rows[0][0].shape[1:]
    factor = max(1, round(side / height))
    height, width, gap = height * factor, width * factor, 4
    letters = font()
    left = max((int(letters.getlength(name)) + 12 for name in row_names), default=0)
    top = 22 if column_names else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + columns * (width + gap) + gap, top + len(rows) * (height + gap) + gap), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for j, name in enumerate(column_names):
        middle = left + gap + j * (width + gap) + width / 2
        pen.text((max(2, middle - letters.getlength(name) / 2), top - 2), name, _INK, letters, anchor="ls")
    for i, row in enumerate(rows):
        y = top + gap + i * (height + gap)
        if i < len(row_names):
            pen.text((left - 6, y + height / 2), row_names[i], _INK, letters, anchor="rm")
        for j, image in enumerate(row):
            tile = to_image(image).convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + gap + j * (width + gap), y))
    return sheet


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu, which comes with matplotlib and knows more than Latin letters; else Pillow's own."""
    try:
        from matplotlib import get_data_path

        return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 13)
    except (ImportError, OSError):
        return ImageFont.load_default(size=14)
