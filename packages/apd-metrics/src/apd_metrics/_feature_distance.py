"""Distance of two images in a network's feature maps, and how far candidates for one image lie from each other."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ._pairs import pair_mean_square

TINY = 1e-10
"""Added to lengths, so that a pixel without features is no division by zero."""


def feature_distance(
    first: Sequence[Float[Tensor, "b _ _ _"]], second: Sequence[Float[Tensor, "b _ _ _"]]
) -> Float[Tensor, " b"]:
    """Sum over stages of the mean over space of ``|u - v|²``, where u and v are the features of a pixel at unit length.

    The distance of Zhang et al. 2018 (arXiv:1801.03924) without its learned weights of channels, so its numbers are not
    those of LPIPS. Each stage adds 0 to 4; 2 where the features of the two images have nothing in common.

    Args:
        first, second: feature maps of the images, a tensor ``(b, c, h, w)`` a stage: ``Features.maps``.

    Raises:
        ValueError: no stages, or stages of other shapes in the two.
    """
    _check(first)
    shapes, others = ([tuple(stage.shape) for stage in stages] for stages in (first, second))
    if shapes != others:
        raise ValueError(f"both images need maps of the same stages and sizes, got {shapes} and {others}")
    stages = zip(first, second, strict=True)
    return torch.stack([(_unit(u) - _unit(v)).square().sum(1).mean((1, 2)) for u, v in stages]).sum(0)


def feature_diversity(candidates: Sequence[Float[Tensor, "k _ _ _"]]) -> Float[Tensor, ""]:
    """Mean :func:`feature_distance` over all pairs of different candidates for one image.

    Args:
        candidates: feature maps, a tensor ``(k, c, h, w)`` a stage.

    Raises:
        ValueError: no stages, or fewer than two candidates.
    """
    _check(candidates)
    return torch.stack([pair_mean_square(_unit(stage)).sum(0).mean() for stage in candidates]).sum()


def _unit(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    maps = maps.double()
    return maps / (maps.norm(dim=1, keepdim=True) + TINY)


def _check(stages: Sequence[Float[Tensor, "b _ _ _"]]) -> None:
    if not stages:
        raise ValueError("no feature maps: ask the extractor for its maps")
