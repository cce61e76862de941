"""How close a completion is to the truth, pixel by pixel, and that known pixels are what they were."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5
"""Of SSIM's Gaussian window, in pixels."""

C1, C2 = 0.01**2, 0.03**2
"""What keeps SSIM's quotients finite, for values in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Exactness:
    """How known pixels came back.

    Args:
        largest: absolute difference of a known value, 0 where all are equal.
        differing: known pixels with a channel that differs at all (a NaN does).
        known: known pixels.
    """

    largest: Float[Tensor, " b"]
    differing: Int[Tensor, " b"]
    known: Int[Tensor, " b"]


def exactness(
    images: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"]
) -> Exactness:
    """Compares known pixels, for equality and by their largest difference, in the precision that they come in.

    Raises:
        ValueError: images of two shapes or not of floats, or a mask not of booleans or of another shape.
    """
    _check_pair(images, truth)
    _check_mask("known", known, images)
    unequal = (images != truth) & known[:, None]
    gaps = torch.where(unequal, (images - truth).abs(), 0)
    return Exactness(gaps.amax((1, 2, 3)), unequal.any(1).sum((1, 2)), known.sum((1, 2)))


def psnr(
    images: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"], hole: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in decibels, ``10 log10(2² / mean squared error)``, infinite where all is equal.

    Args:
        images, truth: in [-1, 1], a span of 2; nothing is clipped or rounded.
        hole: the pixels that count; all by default.

    Raises:
        ValueError: an image without a pixel that counts, images of two shapes or not of floats, or a hole not of
            booleans or of another shape.
    """
    _check_pair(images, truth)
    if hole is not None:
        _check_mask("hole", hole, images)
    error = (images.double() - truth.double()).square().mean(1)
    return 10 * torch.log10(4 / _mean_over(hole, error))


def ssim(
    images: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"], hole: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, " b"]:
    """Structural similarity, at most 1: Wang et al. 2004, averaged over channels and over the pixels of the hole.

    Gaussian window of 11 × 11 and standard deviation 1.5, K of .01 and .03; images are continued by reflection, so that
    every pixel has a window. A window at the edge of the hole sees known pixels too. The comparison of lightness has no
    meaning for negative values: images are brought from [-1, 1] to [0, 1] first.

    Args:
        images, truth, hole: as in :func:`psnr`.

    Raises:
        ValueError: as in :func:`psnr`, or a side shorter than 6 pixels.
    """
    _check_pair(images, truth)
    if hole is not None:
        _check_mask("hole", hole, images)
    half = WINDOW // 2
    if min(images.shape[-2:]) <= half:
        raise ValueError(f"SSIM takes images of {half + 1} × {half + 1} pixels or more, got {tuple(images.shape[-2:])}")
    x, y = ((of.double() + 1) / 2 for of in (images, truth))
    mean_x, mean_y, square_x, square_y, product = (_blur(of) for of in (x, y, x * x, y * y, x * y))
    var_x, var_y = (square_x - mean_x**2).clamp_min(0), (square_y - mean_y**2).clamp_min(0)
    light = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * (product - mean_x * mean_y) + C2) / (var_x + var_y + C2)
    return _mean_over(hole, (light * structure).mean(1))


def pixel_diversity(candidates: Float[Tensor, "k c h w"], hole: Bool[Tensor, "h w"] | None = None) -> Float[Tensor, ""]:
    """Root mean square difference of two different candidates for one image, over pairs, channels and the hole.

    It is sqrt(2) times the standard deviation of a pixel over candidates.

    Raises:
        ValueError: fewer than two candidates, or not of floats; a hole that is empty, not of booleans or of another
            shape.
    """
    _check_pair(candidates, candidates)
    if hole is not None:
        _check_mask("hole", hole[None], candidates[:1])
    apart = pair_mean_square(candidates).mean(0)[None]
    return _mean_over(None if hole is None else hole[None], apart)[0].sqrt()


def pair_mean_square(candidates: Float[Tensor, "k c h w"]) -> Float[Tensor, "c h w"]:
    """Mean over pairs of different candidates of their squared difference: twice the variance."""
    if len(candidates) < 2:
        raise ValueError(f"diversity is between two candidates or more, got {len(candidates)}")
    return 2 * candidates.double().var(0)


def _check_pair(images: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"]) -> None:
    if images.ndim != 4 or images.shape != truth.shape:
        raise ValueError(f"images are compared (b, c, h, w), got {tuple(images.shape)} and {tuple(truth.shape)}")
    if not (images.is_floating_point() and truth.is_floating_point()):
        raise ValueError(f"values are floats in [-1, 1], got {images.dtype} and {truth.dtype}: x / 127.5 - 1 of bytes")


def _check_mask(name: str, mask: Bool[Tensor, "b h w"], images: Float[Tensor, "b c h w"]) -> None:
    expected = (images.shape[0], *images.shape[2:])
    if mask.dtype != torch.bool or mask.shape != expected:
        raise ValueError(f"{name} is of booleans, {expected}, got {tuple(mask.shape)} of {mask.dtype}")


def _mean_over(hole: Bool[Tensor, "b h w"] | None, values: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    if hole is None:
        return values.mean((1, 2))
    counts = hole.sum((1, 2))
    if not bool((counts > 0).all()):
        raise ValueError(f"a hole must have a pixel at least: that of image {int(counts.argmin())} is empty")
    return torch.where(hole, values, 0).sum((1, 2)) / counts


def _blur(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    half = WINDOW // 2
    away = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    window = torch.exp(-((away / SIGMA) ** 2) / 2)
    window = (window / window.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    rows = F.conv2d(padded, window, groups=images.shape[1])
    return F.conv2d(rows, window.mT, groups=images.shape[1])
