"""Image files as content, of which some are not what they say."""

import io
import zlib

import numpy as np
from PIL import Image


def png_of(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(content, "PNG")
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its data do not have."""
    content = bytearray(png_of(np.zeros((1, 1, 1), np.uint8)))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)
