"""The terms of the likelihood bound, each for given draws, in nats per image.

With ``x`` of shape ``(*batch, n, d)``, a noise map at every point of a monotone path from all clean to all noise, and
``x̂`` the mean that a denoiser guesses from ``z = alpha x + sigma eps``::

    -log p(x) <= prior + reconstruction + diffusion

(docs/bound.md; Kingma et al. 2021, arXiv:2107.00630, for one level). ``known`` elements are context: they count in no
term, and the sum bounds ``-log p(x_unknown | x_known)``.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ._likelihood import Likelihood
from ._noise import NoiseMap

Known = Bool[Tensor, "*#batch n e"] | None


def prior_nats(x: Float[Tensor, "*batch n d"], noise: NoiseMap, known: Known = None) -> Float[Tensor, "*batch"]:
    """``KL(q(z | x) || N(0, I))`` at the noise end of the path: ``½ sum (alpha² x² - alpha² - log sigma²)``."""
    share = noise.log_snr.sigmoid()
    return 0.5 * total(share * x.square() - share + F.softplus(noise.log_snr), known)


def reconstruction_nats(
    x: Float[Tensor, "*batch n d"],
    noise: NoiseMap,
    eps: Float[Tensor, "*batch n d"],
    likelihood: Likelihood,
    known: Known = None,
) -> Float[Tensor, "*batch"]:
    """``-log p(x | z)`` at the clean end, where the guess of x is ``z / alpha = x + (sigma / alpha) eps`` with the
    variance ``exp(-log_snr)``: no network is asked."""
    variance = torch.exp(-noise.log_snr)
    return total(likelihood(x, x + variance.sqrt() * eps, variance), known)


def diffusion_nats(
    x: Float[Tensor, "*batch n d"],
    mean: Float[Tensor, "*batch n d"],
    noise: NoiseMap,
    log_snr_rate: Float[Tensor, "*#batch n e"],
    known: Known = None,
) -> Float[Tensor, "*batch"]:
    """``-½ sum (d SNR / du) (x - x̂)²``: the integrand over ``u`` of the continuous-time term.

    Args:
        mean: ``x̂``.
        noise: the maps at ``u``.
        log_snr_rate: their derivative by ``u``, not positive.
    """
    return -0.5 * total(log_snr_rate * noise.log_snr.exp() * (x - mean).square(), known)


def discrete_diffusion_nats(
    x: Float[Tensor, "*batch n d"],
    mean: Float[Tensor, "*batch n d"],
    noise: NoiseMap,
    cleaner: NoiseMap,
    variance: Float[Tensor, "*#batch n e"] | None = None,
    known: Known = None,
) -> Float[Tensor, "*batch"]:
    """One step of generation: ``KL(q(z_cleaner | z, x) || p(z_cleaner | z)) = ½ sum (SNR_cleaner - SNR) (x - x̂)²``.

    Elements that the step does not move add exactly nothing.

    Args:
        mean: ``x̂`` at ``noise``.
        noise, cleaner: the maps before and after the step.
        variance: of ``x̂``, if the generating step is widened by it: then the term is the divergence of two normal laws
            of different variances.
    """
    gain = -torch.expm1(noise.log_snr - cleaner.log_snr)  # c = 1 - SNR / SNR_cleaner, 0 where nothing moves
    error = (x - mean).square()
    if variance is None:
        return 0.5 * total(cleaner.log_snr.exp() * gain * error, known)
    # In units of the step's own variance, sigma² c: the widening is alpha² c / sigma² = SNR_cleaner c times that of x̂.
    unit = cleaner.log_snr.exp() * gain
    wide = 1 + unit * variance
    return 0.5 * total(torch.log1p(unit * variance) + (unit * (error - variance)) / wide, known)


def bits_per_dim(nats: Float[Tensor, "*s"], dims: int | Float[Tensor, "*#s"]) -> Float[Tensor, "*s"]:
    """Nats per image as bits per element."""
    return nats / (dims * math.log(2))


def step_back(
    z: Float[Tensor, "*batch n d"],
    x: Float[Tensor, "*batch n d"],
    noise: NoiseMap,
    cleaner: NoiseMap,
    eps: Float[Tensor, "*batch n d"],
) -> Float[Tensor, "*batch n d"]:
    """A draw of ``q(z_cleaner | z, x)``: normal with mean ``(alpha_c SNR / (alpha SNR_c)) z + alpha_c c x`` and
    variance ``sigma_c² c``, where ``c = 1 - SNR / SNR_c``. An element that does not move comes back as it was.

    With the guess ``x̂`` for ``x`` it is ancestral sampling.
    """
    gain = -torch.expm1(noise.log_snr - cleaner.log_snr)
    kept = cleaner.alpha / noise.alpha * torch.exp(noise.log_snr - cleaner.log_snr)
    return kept * z + cleaner.alpha * gain * x + cleaner.sigma * gain.clamp(min=0).sqrt() * eps


def total(terms: Float[Tensor, "*batch n d"], known: Known) -> Float[Tensor, "*batch"]:
    """The sum over the elements that are not known."""
    if known is not None:
        terms = terms.masked_fill(known, 0)
    return terms.sum((-2, -1))
