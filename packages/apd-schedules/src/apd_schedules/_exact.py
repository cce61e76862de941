"""Data whose denoiser is known exactly: Gaussians and mixtures of Gaussians.

Oracles for tests, for teaching and for debugging a sampler or a bound: the posterior mean, its variance, the density
at every noise map and the conditionals are closed forms. ``x`` has ``n`` tokens of ``d`` elements; covariances are over
the ``m = n d`` elements in row-major order. Work in float64 where the answer is to be exact.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from ._denoiser import Posterior
from ._noise import NoiseMap


class GaussianMixtureDenoiser:
    """``x ~ sum_k weights_k N(means_k, covs_k)`` and its exact denoiser.

    Args:
        weights: positive, shape ``(k,)``; they are divided by their sum.
        means: ``(k, n, d)``.
        covs: ``(k, m, m)``, symmetric and positive semi-definite. All zero is a distribution on ``k`` points, which has
            denoisers and posteriors but no density.

    Raises:
        ValueError: shapes, precisions or devices that do not fit, weights that are not positive, covariances that are
            none.
    """

    def __init__(
        self, weights: Float[Tensor, " k"], means: Float[Tensor, "k n d"], covs: Float[Tensor, "k m m"]
    ) -> None:
        if means.ndim != 3:
            raise ValueError(f"means are (k, n, d), one for each component, got {tuple(means.shape)}")
        k, n, d = means.shape
        if weights.shape != (k,) or covs.shape != (k, n * d, n * d):
            raise ValueError(
                f"{k} components of {n} tokens of {d} take weights ({k},) and covs ({k}, {n * d}, {n * d}), got "
                f"{tuple(weights.shape)} and {tuple(covs.shape)}"
            )
        if (means.dtype, means.device) != (covs.dtype, covs.device):
            raise ValueError(
                f"means and covs are of one precision on one device, got {means.dtype} on {means.device} and "
                f"{covs.dtype} on {covs.device}"
            )
        if not (weights > 0).all():
            raise ValueError(f"weights must be positive, got {weights.tolist()}")
        # One factorisation serves components of one covariance, such as points.
        self._distinct = covs[:1] if torch.equal(covs, covs[:1].expand_as(covs)) else covs
        scale = covs.diagonal(dim1=-2, dim2=-1).amax().clamp(min=torch.finfo(covs.dtype).tiny)
        slack = 1e3 * torch.finfo(covs.dtype).eps * scale
        symmetric = (self._distinct - self._distinct.mT).abs().amax() <= slack
        if not symmetric or not (torch.linalg.eigvalsh(self._distinct) >= -slack).all():
            raise ValueError("covs must be symmetric and positive semi-definite")
        self.weights = (weights / weights.sum()).to(means)
        self.means = means
        self.covs = covs

    @property
    def mean(self) -> Float[Tensor, "n d"]:
        """Of ``x``."""
        return torch.einsum("k,knd->nd", self.weights, self.means)

    @property
    def cov(self) -> Float[Tensor, "m m"]:
        """Of ``x``."""
        off = (self.means - self.mean).flatten(1)
        return torch.einsum("k,kij->ij", self.weights, self.covs + off[:, :, None] * off[:, None, :])

    def __call__(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap) -> Posterior:
        """The posterior mean of every element and, per token, the log of its variance averaged over the elements."""
        batch = torch.broadcast_shapes(z.shape[:-2], noise.log_snr.shape[:-2])
        z = z.expand(*batch, *z.shape[-2:])
        log_share, mean, gain, _ = self._posterior(z, noise)
        variance = (self._distinct - gain @ self._cross(noise, z).mT).diagonal(dim1=-2, dim2=-1).clamp(min=0)
        share = log_share.softmax(-1)[..., None]
        middle = (share * mean).sum(-2)
        total = (share * (variance + (mean - middle[..., None, :]).square())).sum(-2)
        per_token = total.unflatten(-1, z.shape[-2:]).mean(-1)
        return Posterior(middle.reshape(z.shape), per_token.clamp(min=torch.finfo(z.dtype).tiny).log())

    def log_prob(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap | None = None) -> Float[Tensor, "*batch"]:
        """Log density in nats: of ``x``, or with a noise map of ``z = alpha x + sigma eps``."""
        return self._posterior(z, noise)[0].logsumexp(-1)

    def given(self, z: Float[Tensor, "n d"], noise: NoiseMap) -> "GaussianMixtureDenoiser":
        """``p(x | z)`` for one ``z``: again a mixture."""
        log_share, mean, gain, cross = self._posterior(z, noise)
        covs = (self._distinct - gain @ cross.mT).expand_as(self.covs)
        return GaussianMixtureDenoiser(_shares(log_share), mean.reshape(self.means.shape), 0.5 * (covs + covs.mT))

    def conditional(
        self, x: Float[Tensor, "n d"], known: Bool[Tensor, "n e"], context: NoiseMap | None = None
    ) -> "GaussianMixtureDenoiser":
        """``p(x_U | x_K)``: the unknown elements, in their order, as tokens of one element.

        Args:
            x: the known elements are read from it; with ``context``, they are noisy observations ``z_K``.
            known: ``(n, 1)`` for tokens, ``(n, d)`` for elements.
            context: noise map of the known elements.
        """
        seen = known.expand(x.shape).flatten()
        if seen.all():
            raise ValueError("everything is known: nothing is left to be conditioned")
        joint = self.means.flatten(1)
        alpha, variance = torch.ones_like(joint[0]), torch.zeros_like(joint[0])
        if context is not None:
            alpha = context.alpha.to(x).expand(x.shape).flatten()
            variance = context.sigma.to(x).square().expand(x.shape).flatten()
        observed = alpha[seen] * joint[:, seen]
        cross = self.covs[:, ~seen][:, :, seen] * alpha[seen]
        within = self.covs[:, seen][:, :, seen] * alpha[seen, None] * alpha[seen] + torch.diag(variance[seen])
        root = _root(within)
        log_share, solved = _log_normal(x.flatten()[seen] - observed, root)
        mean = joint[:, ~seen] + (cross @ solved[..., None])[..., 0]
        covs = self.covs[:, ~seen][:, :, ~seen] - cross @ torch.cholesky_solve(cross.mT, root)
        return GaussianMixtureDenoiser(_shares(self.weights.log() + log_share), mean[..., None], 0.5 * (covs + covs.mT))

    def sample(self, count: int, generator: Generator) -> Float[Tensor, "count n d"]:
        """Draws of ``x``, on the device of the means.

        Args:
            generator: on any device; one on the CPU gives the same draws everywhere.
        """
        at = generator.device
        component = torch.multinomial(self.weights.to(at), count, replacement=True, generator=generator)
        size = self._distinct.shape[-1]
        eps = torch.randn(count, size, generator=generator, dtype=self.means.dtype, device=at).to(self.means.device)
        component = component.to(self.means.device)
        values, vectors = torch.linalg.eigh(self._distinct)  # semi-definite: Cholesky would refuse
        root = vectors * values.clamp(min=0).sqrt()[:, None, :]
        if len(root) == 1:
            off = eps @ root[0].T
        else:  # one after another: a root for each draw may be more than the memory holds
            off = torch.empty_like(eps)
            for k, of in enumerate(root):
                off[component == k] = eps[component == k] @ of.T
        return self.means[component] + off.reshape(count, *self.means.shape[1:])

    def _cross(self, noise: NoiseMap, like: Tensor) -> Float[Tensor, "*batch k m m"]:
        """``Cov(x, z)`` of each component."""
        alpha = noise.alpha.to(like)
        return self._distinct * _elements(alpha, like)[..., None, None, :]

    def _posterior(
        self, z: Float[Tensor, "*batch n d"], noise: NoiseMap | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each component: log of weight times density of z, mean of x given z, gain, and ``Cov(x, z)``."""
        if z.shape[-2:] != self.means.shape[1:]:
            raise ValueError(f"expected tokens of shape (…, {[*self.means.shape[1:]]}), got {tuple(z.shape)}")
        means = self.means.flatten(1)
        if noise is None:
            root, centre, cross = _root(self._distinct), means, self._distinct
        else:
            alpha = _elements(noise.alpha.to(z), z)[..., None, :]
            variance = _elements(noise.sigma.to(z).square(), z)[..., None, :]
            cross = self._cross(noise, z)
            root = torch.linalg.cholesky(alpha[..., :, None] * cross + torch.diag_embed(variance))
            centre = alpha * means
        log_density, solved = _log_normal(z.flatten(-2)[..., None, :] - centre, root)
        gain = torch.cholesky_solve(cross.mT, root).mT
        mean = means + (cross @ solved[..., None])[..., 0]
        return self.weights.log() + log_density, mean, gain, cross


class GaussianDenoiser:
    """``x ~ N(mean, cov)`` and its exact denoiser, which is affine in ``z``.

    Args:
        cov: ``(m, m)``, symmetric and positive semi-definite.
        mean: ``(n, d)``; by default zero, with ``m`` tokens of one element.
    """

    def __init__(self, cov: Float[Tensor, "m m"], mean: Float[Tensor, "n d"] | None = None) -> None:
        self.mean = cov.new_zeros(len(cov), 1) if mean is None else mean
        self.cov = cov
        self._mixture = GaussianMixtureDenoiser(cov.new_ones(1), self.mean[None], cov[None])

    def __call__(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap) -> Posterior:
        """The posterior mean of every element and, per token, the log of its variance averaged over the elements."""
        return self._mixture(z, noise)

    def log_prob(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap | None = None) -> Float[Tensor, "*batch"]:
        """Log density in nats: of ``x``, or with a noise map of ``z = alpha x + sigma eps``."""
        return self._mixture.log_prob(z, noise)

    def given(self, z: Float[Tensor, "n d"], noise: NoiseMap) -> "GaussianDenoiser":
        """``p(x | z)`` for one ``z``."""
        return _only(self._mixture.given(z, noise))

    def conditional(
        self, x: Float[Tensor, "n d"], known: Bool[Tensor, "n e"], context: NoiseMap | None = None
    ) -> "GaussianDenoiser":
        """``p(x_U | x_K)``, see :meth:`GaussianMixtureDenoiser.conditional`."""
        return _only(self._mixture.conditional(x, known, context))

    def sample(self, count: int, generator: Generator) -> Float[Tensor, "count n d"]:
        """Draws of ``x``, see :meth:`GaussianMixtureDenoiser.sample`."""
        return self._mixture.sample(count, generator)


def gaussian_texture(
    grid: tuple[int, int], length: float = 2.0, grain: float = 0.01, dtype: torch.dtype = torch.float64
) -> GaussianDenoiser:
    """A stationary texture of unit variance, one element a token: near tokens alike, far ones independent.

    ``Cov(x_i, x_j) = (1 - grain) exp(-|i - j|² / (2 length²))`` off the diagonal, with distances in tokens.

    Args:
        length: of the correlation, in tokens.
        grain: share of the variance that is independent from token to token; keeps the covariance invertible.
    """
    if not length > 0 or not 0 < grain <= 1:
        raise ValueError(f"a texture needs length > 0 and grain in (0, 1], got length={length}, grain={grain}")
    rows, columns = (torch.arange(size, dtype=dtype) for size in grid)
    place = torch.cartesian_prod(rows, columns)
    near = torch.exp(-torch.cdist(place, place).square() / (2 * length**2))
    return GaussianDenoiser((1 - grain) * near + grain * torch.eye(len(place), dtype=dtype))


def _shares(log_share: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    """Weights that are positive, however small they are."""
    return log_share.softmax(-1).clamp(min=torch.finfo(log_share.dtype).tiny)


def _root(covs: Float[Tensor, "*k m m"]) -> Float[Tensor, "*k m m"]:
    root, failed = torch.linalg.cholesky_ex(covs)
    if failed.any():
        raise ValueError("these data have no density: a covariance is singular; look at them through a noise map")
    return root


def _only(mixture: GaussianMixtureDenoiser) -> GaussianDenoiser:
    return GaussianDenoiser(mixture.covs[0], mixture.means[0])


def _elements(factor: Float[Tensor, "*batch n e"], like: Tensor) -> Float[Tensor, "*batch m"]:
    """A factor per token or element, for each element."""
    return factor.expand(*factor.shape[:-1], like.shape[-1]).flatten(-2)


def _log_normal(off: Float[Tensor, "*batch k m"], root: Float[Tensor, "*#batch #k m m"]) -> tuple[Tensor, Tensor]:
    """Log density of ``N(0, root rootᵀ)`` at ``off``, and ``(root rootᵀ)⁻¹ off``; one root may serve all ``k``."""
    if root.shape[-3] == 1:
        solved = torch.cholesky_solve(off.mT, root[..., 0, :, :]).mT
    else:
        solved = torch.cholesky_solve(off[..., None], root)[..., 0]
    half_log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (off * solved).sum(-1) - half_log_det - 0.5 * off.shape[-1] * math.log(2 * math.pi), solved
