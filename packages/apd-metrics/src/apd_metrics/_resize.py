"""From images of any size and range to the pixels that a feature extractor reads.

How images are resized is part of a metric's identity: the resize without a low-pass filter that the original FID uses
and an antialiased one differ by more than many models do (Parmar et al. 2022, arXiv:2104.11222).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

FAR_OUT = 16.0
"""What no decoder gives of images in [-1, 1]."""


def to_8_bits(images: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """The whole numbers 0…255 that an image file would hold, as float32; grey becomes three equal channels.

    Real images have been through 8 bits and generated ones have not: without this step a metric would also tell the
    two apart by what rounding does.

    Args:
        images: floats in [-1, 1], clamped and rounded to ``(x + 1) 127.5``, or whole numbers, which stay as they are.

    Raises:
        ValueError: there are neither 1 nor 3 channels, or numbers that are not finite or have another range.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images have 1 or 3 channels, got {images.shape[1]}")
    if images.is_floating_point():
        if not images.isfinite().all():
            raise ValueError("images have numbers that are not finite")
        if images.numel() and (largest := float(images.abs().amax())) > FAR_OUT:
            raise ValueError(
                f"floats are in [-1, 1] or near it, got {largest:g}: clamp them, or x / 127.5 - 1 of bytes"
            )
        images = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    elif images.dtype != torch.uint8 and (
        images.dtype == torch.bool or (images.numel() and not 0 <= images.amin() <= images.amax() <= 255)
    ):
        raise ValueError(f"whole numbers are 0 to 255, got {images.dtype} from {images.amin()} to {images.amax()}")
    return images.float().expand(-1, 3, -1, -1)


def bicubic_antialiased(pixels: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c {side} {side}"]:
    """Keys' cubic, stretched by the factor of reduction; it can pass 0 and 255, and is neither clamped nor rounded."""
    return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)


def bilinear_tf1(pixels: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c {side} {side}"]:
    """TensorFlow 1's bilinear resize, of which the FID is defined: corners of pixels are aligned and not centres, and
    nothing is filtered, so that of an image reduced fourfold most pixels are not looked at."""
    for dim in (3, 2):
        length = pixels.shape[dim]
        at = torch.arange(side, device=pixels.device, dtype=torch.float32) * (length / side)
        low = at.long()
        share = (at - low).view(-1, *(1,) * (3 - dim))
        first, second = (pixels.index_select(dim, index) for index in (low, (low + 1).clamp(max=length - 1)))
        pixels = first + (second - first) * share
    return pixels
