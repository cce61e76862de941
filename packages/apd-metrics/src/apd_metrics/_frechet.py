"""Fréchet distance of two sets of features (FID, where they are Inception's)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ._samples import exact, row_blocks


@dataclass(frozen=True, slots=True)
class Moments:
    """What the Fréchet distance keeps of a set of features.

    Args:
        mean: in float64.
        covariance: with n - 1 in its denominator.
        n: number of images; ``None`` where a file of statistics does not say.
    """

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    n: int | None


@dataclass(frozen=True, slots=True)
class FrechetDistance:
    """A Fréchet distance and what it has to be read with.

    Args:
        value: the distance (squared, as always in this metric).
        standard_error: ``None`` where the features of the generated images are not given.
        n_generated, n_reference: images; ``None`` where that is not known.
        d: dimensions of the features.
    """

    value: float
    standard_error: float | None
    n_generated: int | None
    n_reference: int | None
    d: int

    @property
    def rank_deficient(self) -> bool:
        """Whether a set has no more images than dimensions: its covariance is singular, and the distance far too large.

        Such distances can be compared with each other at the same number of images, and with nothing else.
        """
        return any(n is not None and n <= self.d for n in (self.n_generated, self.n_reference))


def moments(features: Float[Tensor, "n d"]) -> Moments:
    """Mean and covariance in float64.

    Raises:
        ValueError: fewer than two images, or numbers that are not finite.
    """
    features = exact(features, 2, "a covariance")
    mean = features.mean(0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1), len(features))


def frechet_distance(
    generated: Float[Tensor, "n d"] | Moments, reference: Float[Tensor, "m e"] | Moments
) -> FrechetDistance:
    """Squared 2-Wasserstein distance of Gaussians with the moments of the two sets: Heusel et al. 2017,
    arXiv:1706.08500.

    ``|mu - mu'|² + tr S + tr S' - 2 tr sqrt(S^½ S' S^½)``. The last trace is the sum of the singular values of
    ``S^½ S'^½``: real and non-negative whatever the ranks, and in float64 good to some 14 digits, since no eigenvalue
    that is rounding has its square root taken. It is biased upwards, by about 1/n: compare at equal n only.

    The standard error is the infinitesimal jackknife's: the variance of the derivative of the distance with respect to
    each image's weight, over n. It counts the drawing of a set only where its features are given, not its moments.
    Where the laws are equal it is too large by up to sqrt(2).

    Raises:
        ValueError: fewer than two images, other dimensions in the two sets, or numbers that are not finite.
    """
    first, second = (of if isinstance(of, Moments) else moments(of) for of in (generated, reference))
    d = len(first.mean)
    if d != len(second.mean):
        raise ValueError(f"both sets must be of one extractor, got {d} and {len(second.mean)} dimensions")
    shift = first.mean - second.mean
    root, other = _Root.of(first.covariance), _Root.of(second.covariance)
    left, common, right = torch.linalg.svd(root.matrix @ other.matrix)
    value = shift.square().sum() + first.covariance.trace() + second.covariance.trace() - 2 * common.sum()
    error = None
    if not isinstance(generated, Moments):
        spread = _influence(generated, first, shift, root, left, common)
        if not isinstance(reference, Moments):
            spread = spread + _influence(reference, second, -shift, other, right.T, common)
        error = math.sqrt(float(spread))
    return FrechetDistance(max(0.0, float(value)), error, first.n, second.n, d)


@dataclass(frozen=True, slots=True)
class _Root:
    """A covariance's square root and that one's pseudo-inverse. Eigenvalues within rounding of zero are zero."""

    matrix: Float[Tensor, "d d"]
    inverse: Float[Tensor, "d d"]

    @staticmethod
    def of(covariance: Float[Tensor, "d d"]) -> "_Root":
        values, vectors = torch.linalg.eigh(covariance)
        least = len(values) * torch.finfo(values.dtype).eps * values.abs().amax()
        there = values > least
        roots = torch.where(there, values, 0).sqrt()
        return _Root((vectors * roots) @ vectors.T, (vectors * torch.where(there, 1 / roots, 0)) @ vectors.T)


def _influence(
    features: Float[Tensor, "n d"],
    own: Moments,
    shift: Float[Tensor, " d"],
    root: _Root,
    vectors: Float[Tensor, "d d"],
    common: Float[Tensor, " d"],
) -> Float[Tensor, ""]:
    """Variance of the distance due to the drawing of one set, from each image's derivative.

    ``2 x·shift + xᵀ (1 - T) x``, x less the mean, where ``T = S^-½ (S^½ S' S^½)^½ S^-½`` is the map that transports one
    Gaussian to the other.
    """
    whiten = root.inverse @ (vectors * common.sqrt())
    slopes = []
    for block in row_blocks(*features.shape):
        x = features[block].to("cpu", torch.float64) - own.mean
        slopes.append(2 * x @ shift + x.square().sum(1) - (x @ whiten).square().sum(1))
    return torch.cat(slopes).var() / len(features)
