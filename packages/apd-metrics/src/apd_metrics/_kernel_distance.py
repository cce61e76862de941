"""Kernel distance of two sets of features (KID, where they are Inception's)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ._estimate import Estimate
from ._samples import exact_pair, row_blocks


@dataclass(frozen=True, slots=True)
class SubsetDistance:
    """Kernel distances of random subsets.

    Args:
        mean: over the subsets.
        deviation: standard deviation over the subsets, with their number in its denominator. It tells how far a subset
            of that size strays and does not fall with more images: it is not the standard error of ``mean``.
    """

    mean: float
    deviation: float


def kernel_distance(generated: Float[Tensor, "n d"], reference: Float[Tensor, "m e"]) -> Estimate:
    """Squared maximum mean discrepancy, unbiased, over all pairs, with the kernel ``k(x, y) = (x·y / d + 1)³``.

    ``mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y)``, means over pairs of different images: Bińkowski et al.
    2018, arXiv:1801.01401. It is zero on average for equal laws, whatever n and m are, and may be negative. Time grows
    with (n + m)², memory does not.

    Its standard error is that of the two-sample U-statistic (Hoeffding 1948), with the second-order terms, which are
    all there is where the laws are equal. The components of the variance are estimated without bias; those of first
    order are never taken below zero, so the error is somewhat too large where the laws are nearly equal.

    Raises:
        ValueError: a set of fewer than four images, of other dimensions than the other, or with numbers not finite.
    """
    parts = _components(*exact_pair(generated, reference, 4, "the kernel distance"))
    return Estimate(parts.value, math.sqrt(max(0.0, parts.variance())))


def kernel_distance_of_subsets(
    generated: Float[Tensor, "n d"],
    reference: Float[Tensor, "m e"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    generator: Generator,
) -> SubsetDistance:
    """Kernel distances of ``subsets`` pairs of random subsets, as papers quote KID (Bińkowski et al. 2018).

    Subsets are drawn without replacement, of the reference first; each distance is that of :func:`kernel_distance`,
    except that pairs ``(x_i, y_j)`` of all i and j are averaged over a subset.

    Raises:
        ValueError: fewer subsets than one, subsets of fewer images than two, or of more than a set has.
    """
    smaller = min(len(generated), len(reference))
    if subsets < 1 or not 2 <= subset_size <= smaller:
        raise ValueError(
            f"subsets are 1 or more, of 2 to {smaller} images (of the smaller set), got {subsets} of {subset_size}"
        )
    x, y = exact_pair(generated, reference, 2, "the kernel distance")
    found = []
    for _ in range(subsets):
        of_y = y[torch.randperm(len(y), generator=generator)[:subset_size]]
        of_x = x[torch.randperm(len(x), generator=generator)[:subset_size]]
        found.append(_pair_mean(of_x) + _pair_mean(of_y) - 2 * float(_kernel(of_x, of_y).mean()))
    distances = torch.tensor(found, dtype=torch.float64)
    return SubsetDistance(float(distances.mean()), float(distances.std(correction=0)))


@dataclass(frozen=True, slots=True)
class _Components:
    """An unbiased distance and unbiased components of its variance, in Hoeffding's decomposition.

    ``first_*`` are the variances of ``E k(x, X') - E k(x, Y)`` over ``x``, and of the like over ``y``; ``within_*`` and
    ``between`` those of what is left of ``k`` when its row and column means are taken off.
    """

    n: int
    m: int
    value: float
    first_x: float
    first_y: float
    within_x: float
    within_y: float
    between: float

    def variance(self) -> float:
        n, m = self.n, self.m
        first = 4 * max(0.0, self.first_x) / n + 4 * max(0.0, self.first_y) / m
        return first + self.second_order()

    def second_order(self) -> float:
        n, m = self.n, self.m
        return 2 * self.within_x / (n * (n - 1)) + 2 * self.within_y / (m * (m - 1)) + 4 * self.between / (n * m)


def _components(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> _Components:
    n, m = len(x), len(y)
    mean_x, effect_x, within_x = _within(x)
    mean_y, effect_y, within_y = _within(y)
    rows, columns, between = _between(x, y)
    # The effects are known up to noise, which has to come off their variances.
    first_x = float((effect_x - rows).var()) - within_x / (n - 2) - between / m
    first_y = float((effect_y - columns).var()) - within_y / (m - 2) - between / n
    value = mean_x + mean_y - 2 * float(rows.mean())
    return _Components(n, m, value, first_x, first_y, within_x, within_y, between)


def _within(x: Float[Tensor, "n d"]) -> tuple[float, Float[Tensor, " n"], float]:
    """Mean of k over pairs of different images, the effect of each image on it, and the variance left."""
    n = len(x)
    sums, squares = torch.empty(n, dtype=x.dtype), 0.0
    for block in row_blocks(n, n):
        k = _kernel(x[block], x)
        k[torch.arange(len(k)), torch.arange(n)[block]] = 0
        sums[block] = k.sum(1)
        squares += float(k.square().sum())
    total = float(sums.sum()) / 2  # over pairs, each once
    left = squares / 2 - float(sums.square().sum()) / (n - 2) + 2 * total**2 / ((n - 1) * (n - 2))
    return 2 * total / (n * (n - 1)), sums / (n - 2), max(0.0, left) / (n * (n - 3) / 2)


def _between(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"], float]:
    """Row means and column means of k, and the variance left."""
    n, m = len(x), len(y)
    rows, columns, squares = torch.empty(n, dtype=x.dtype), torch.zeros(m, dtype=x.dtype), 0.0
    for block in row_blocks(n, m):
        k = _kernel(x[block], y)
        rows[block] = k.mean(1)
        columns += k.sum(0) / n
        squares += float(k.square().sum())
    left = (
        squares - m * float(rows.square().sum()) - n * float(columns.square().sum()) + n * m * float(rows.mean()) ** 2
    )
    return rows, columns, max(0.0, left) / ((n - 1) * (m - 1))


def _pair_mean(x: Float[Tensor, "n d"]) -> float:
    k = _kernel(x, x)
    return float(k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))


def _kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return (x @ y.T / x.shape[1] + 1) ** 3
