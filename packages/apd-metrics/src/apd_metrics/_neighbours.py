"""Precision and recall, density and coverage: metrics of balls that reach to the k-th nearest neighbour."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Generator, Tensor

from ._estimate import Estimate
from ._samples import exact_pair, row_blocks

SPLITS = 10
"""Into halves, for a standard error, which is itself uncertain by about a quarter."""

SAME = 1e-11
"""Squared distances that differ by less, in units of the features' squared norms, are equal: they are rounding."""


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Precision (how many generated images look real) and recall (how much of what is real is generated)."""

    precision: Estimate
    recall: Estimate


@dataclass(frozen=True, slots=True)
class DensityCoverage:
    """Density (how often generated images lie near real ones) and coverage (how many real images have one near)."""

    density: Estimate
    coverage: Estimate


def precision_recall(
    generated: Float[Tensor, "n d"], reference: Float[Tensor, "m e"], *, k: int = 3
) -> PrecisionRecall:
    """Improved precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991.

    Precision is the share of generated images in at least one ball about a real image that reaches to its k-th nearest
    real neighbour; recall is the same with the sets exchanged. Balls are closed. Both depend on n and m, and equal laws
    do not reach 1: read them beside what real images reach against real ones.

    Standard errors are from halves of both sets: half of the mean of ``(a - b)² / 2``, over ten splits, where a and b
    are the metrics of the two halves. That is the variance at half of the images, without bias, halved. (Deleting one
    image at a time would give several times too much, since every image shapes the balls of others.)

    Raises:
        ValueError: k below 1, fewer than 2k + 2 images, other dimensions in the two sets, or numbers not finite.
    """
    x, y = _checked(generated, reference, k, "precision and recall")
    of_x, of_y = _halves(len(x)), _halves(len(y))
    precision, recall = _balls(y, x, of_y, of_x, k).hits > 0, _balls(x, y, of_x, of_y, k).hits > 0
    return PrecisionRecall(_mean(precision, of_x), _mean(recall, of_y))


def density_coverage(
    generated: Float[Tensor, "n d"], reference: Float[Tensor, "m e"], *, k: int = 5
) -> DensityCoverage:
    """Density and coverage: Naeem et al. 2020, arXiv:2002.09797.

    Of balls about real images that reach to their k-th nearest real neighbour, density is the number that a generated
    image lies in, over k, on average; for equal laws it is 1 on average, and it may be above. Coverage is the share of
    balls with a generated image in them; for equal laws and sizes it is about ``1 - 2^-k``. Balls are closed.

    Standard errors and what is refused as in :func:`precision_recall`.
    """
    x, y = _checked(generated, reference, k, "density and coverage")
    of_x, of_y = _halves(len(x)), _halves(len(y))
    balls = _balls(y, x, of_y, of_x, k)
    return DensityCoverage(_mean(balls.hits.double() / k, of_x), _mean(balls.filled > 0, of_y))


@dataclass(frozen=True, slots=True)
class _Balls:
    """Balls that a query lies in, and queries in a ball, a row for each part of the sets.

    What a row says of images that are not in the part means nothing.
    """

    hits: Int[Tensor, "parts m"]
    filled: Int[Tensor, "parts n"]


def _balls(
    centres: Float[Tensor, "n d"],
    queries: Float[Tensor, "m d"],
    of_centres: Bool[Tensor, "parts n"],
    of_queries: Bool[Tensor, "parts m"],
    k: int,
) -> _Balls:
    hits, filled = torch.zeros_like(of_queries, dtype=torch.int64), torch.zeros_like(of_centres, dtype=torch.int64)
    n = len(centres)
    for block in row_blocks(n, max(n, len(queries))):
        own = _squared_distances(centres[block], centres)
        own[torch.arange(len(own)), torch.arange(n)[block]] = torch.inf  # a neighbour is another image
        slack = SAME * centres[block].square().sum(1)
        away = _squared_distances(centres[block], queries)
        for part, (some, asked) in enumerate(zip(of_centres, of_queries, strict=True)):
            radii = own.masked_fill(~some, torch.inf).topk(k, largest=False).values[:, -1] + slack
            inside = (away <= radii[:, None]) & asked
            filled[part, block] = inside.sum(1)
            hits[part] += inside[some[block]].sum(0)
    return _Balls(hits, filled)


def _squared_distances(x: Float[Tensor, "b d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "b n"]:
    return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T


def _halves(n: int) -> Bool[Tensor, "parts n"]:
    """All images, then the two halves of each split. The splits are drawn, always the same ones."""
    generator = Generator().manual_seed(0)
    first = torch.stack([torch.randperm(n, generator=generator) < n // 2 for _ in range(SPLITS)])
    return torch.cat((torch.ones(1, n, dtype=torch.bool), first, ~first))


def _mean(values: Shaped[Tensor, "parts n"], kept: Bool[Tensor, "parts n"]) -> Estimate:
    """Over all images, with the standard error that the halves tell."""
    means = torch.where(kept, values, 0).double().sum(1) / kept.sum(1)
    first, second = means[1:].chunk(2)
    return Estimate(float(means[0]), math.sqrt(float((first - second).square().mean()) / 4))


def _checked(
    generated: Float[Tensor, "n d"], reference: Float[Tensor, "m e"], k: int, what: str
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    if k < 1:
        raise ValueError(f"the k-th nearest neighbour has k of 1 or more, got {k}")
    return exact_pair(generated, reference, 2 * k + 2, what)
