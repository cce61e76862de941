"""Sets of features: what all distances between them ask of them, and how they are cut."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

BLOCK = 2**23
"""Numbers of an n × m table that are held at a time; 64 MiB in float64."""


def exact(features: Float[Tensor, "n d"], least: int, what: str) -> Float[Tensor, "n d"]:
    """Features in float64 on the CPU, ``least`` images of them or more, all finite."""
    if len(features) < least:
        raise ValueError(f"{what} needs the features of {least} images or more, got {len(features)}")
    features = features.detach().to("cpu", torch.float64)
    if not bool(features.isfinite().all()):
        raise ValueError(f"features must be finite numbers: {_where(features)} has one that is not")
    return features


def exact_pair(
    generated: Float[Tensor, "n d"], reference: Float[Tensor, "m e"], least: int, what: str
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Both sets as :func:`exact` has them, of the same extractor's dimensions."""
    if generated.shape[1] != reference.shape[1]:
        raise ValueError(
            f"both sets of features must be of one extractor, got {generated.shape[1]} and {reference.shape[1]} "
            "dimensions"
        )
    return exact(generated, least, what), exact(reference, least, what)


def row_blocks(rows: int, columns: int) -> list[slice]:
    """Rows of a table in blocks of at most ``BLOCK`` numbers, one row or more each."""
    step = max(1, BLOCK // max(1, columns))
    return [slice(first, first + step) for first in range(0, rows, step)]


def split(
    features: Float[Tensor, "n d"], size: int | None = None, *, generator: Generator
) -> tuple[Float[Tensor, "size d"], Float[Tensor, "rest d"]]:
    """``size`` images drawn at random, and the others. By default two halves, the first one smaller where n is odd.

    A metric between the two is its real-against-real floor: what a perfect model would reach with samples of that size.

    Args:
        generator: on the CPU; a seed of it gives the same parts on every machine.

    Raises:
        ValueError: one of the parts would be empty.
    """
    size = len(features) // 2 if size is None else size
    if not 0 < size < len(features):
        raise ValueError(f"{len(features)} images cannot be split into {size} and the others: neither may be empty")
    order = torch.randperm(len(features), generator=generator).to(features.device)
    return features[order[:size]], features[order[size:]]


def _where(features: Float[Tensor, "n d"]) -> str:
    return f"image {int((~features.isfinite()).any(1).int().argmax())}"
