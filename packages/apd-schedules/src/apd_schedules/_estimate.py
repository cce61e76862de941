"""Draws of the terms of a bound: the inside of :func:`elbo`."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from ._bound_terms import diffusion_nats, discrete_diffusion_nats, reconstruction_nats
from ._denoiser import Denoiser, Posterior
from ._likelihood import Likelihood
from ._noise import NoiseMap, NoiseSchedule, corrupt
from ._path_law import PathLaw


@dataclass(frozen=True, slots=True)
class Draws:
    """What is random in the estimate for a few images: ``r`` rows, ``points`` for each image in turn.

    Args:
        u: places on the path, one in each of ``points`` equal strata.
        offsets: of the paths.
        eps: noise on the tokens at ``u``.
        eps_clean: noise at the clean end.
    """

    u: Float[Tensor, " r"]
    offsets: Float[Tensor, "r ..."]
    eps: Float[Tensor, "r n d"]
    eps_clean: Float[Tensor, "r n d"]


def draw(law: PathLaw, like: Float[Tensor, "b n d"], points: int, generator: Generator) -> Draws:
    """Image by image, so that an image's draws do not depend on how images are grouped into batches."""
    parts = []
    for image in like:
        jitter = torch.rand(points, generator=generator, dtype=torch.float64)
        u = (torch.arange(points) + jitter) / points
        eps = torch.randn(2, points, *image.shape, generator=generator)
        parts.append((u, law.draw(points, generator), *eps))
    return Draws(*(torch.cat(tensors).to(like.device) for tensors in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True)
class Rows:
    """Data and conditions of the same rows."""

    x: Float[Tensor, "r n d"]
    known: Bool[Tensor, "r n e"] | None
    cond: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """A model, a way through the noise maps, and what is held fixed on it."""

    denoise: Denoiser
    schedule: NoiseSchedule
    law: PathLaw
    context: float

    def maps(
        self, u: Float[Tensor, " r"], offsets: Float[Tensor, "r ..."], known: Bool[Tensor, "r n e"] | None
    ) -> tuple[NoiseMap, Tensor]:
        """The maps at ``u``, and their log-SNR's derivative by ``u``."""
        found = self.law.at(u, offsets)
        level, velocity = found.level, found.velocity
        if known is not None:
            level, velocity = torch.where(known, self.context, level), torch.where(known, 0.0, velocity)
        log_snr, rate, *_ = torch.func.jvp(self.schedule, (level.contiguous(),), (velocity.contiguous(),))
        return NoiseMap(log_snr), rate

    def look(self, rows: Rows, noise: NoiseMap, eps: Float[Tensor, "r n d"]) -> Posterior:
        """The posterior at the rows' noisy tokens; a clean context is seen as it is."""
        noise = noise.to(rows.x)
        z = corrupt(rows.x, noise, eps.to(rows.x)).to(rows.x.dtype)
        if rows.known is not None and self.context == 0:
            z = torch.where(rows.known, rows.x, z)
        found = self.denoise(z, noise, **rows.cond)
        if not found.mean.isfinite().all():
            row = int((~found.mean.isfinite()).flatten(1).any(1).nonzero()[0])
            mean = float(noise.flow_level.expand(len(z), -1, -1)[row].mean())
            raise ValueError(f"the denoiser's mean is not finite, at a map of mean flow level {mean:.4f}")
        return found

    def continuous(self, rows: Rows, draws: Draws, data_variance: float | None) -> tuple[Float[Tensor, " r"], int]:
        """The integrand of the continuous-time term at ``u``, less its control variate, and evaluations of a row."""
        noise, rate = self.maps(draws.u, draws.offsets, rows.known)
        found = self.look(rows, noise, draws.eps)
        value = diffusion_nats(rows.x.double(), found.mean.double(), noise, rate, rows.known)
        if data_variance is not None:
            error = _linear_error(rows.x.double(), draws.eps.double(), noise, data_variance)
            each = 0.5 * rate * error.square()
            value = value + (each if rows.known is None else each.masked_fill(rows.known, 0)).sum((1, 2))
        return value, found.evaluations

    def discrete(self, rows: Rows, draws: Draws, steps: int, own_variance: bool) -> tuple[Float[Tensor, " r"], int]:
        """``steps`` times the divergence of the step in which ``u`` lies, and evaluations of a row."""
        k = (draws.u * steps).ceil().clamp(1, steps)
        noise, _ = self.maps(k / steps, draws.offsets, rows.known)
        cleaner, _ = self.maps((k - 1) / steps, draws.offsets, rows.known)
        found = self.look(rows, noise, draws.eps)
        variance = _variance(found) if own_variance else None
        value = discrete_diffusion_nats(rows.x.double(), found.mean.double(), noise, cleaner, variance, rows.known)
        return steps * value, found.evaluations

    def reconstruction(
        self, rows: Rows, draws: Draws, likelihood: Likelihood, own_variance: bool
    ) -> tuple[Float[Tensor, " r"], int]:
        """``-log p(x | z)`` at the clean end, and evaluations of a row."""
        x, eps = rows.x.double(), draws.eps_clean.double()
        noise, _ = self.maps(torch.zeros_like(draws.u), draws.offsets, rows.known)
        if not own_variance:
            return reconstruction_nats(x, noise, eps, likelihood, rows.known), 0
        found = self.look(rows, noise, draws.eps_clean)
        each = likelihood(x, found.mean.double(), _variance(found))
        return (each if rows.known is None else each.masked_fill(rows.known, 0)).sum((1, 2)), found.evaluations


def control_nats(
    x: Float[Tensor, "b n d"], schedule: NoiseSchedule, data_variance: float, known: Bool[Tensor, "b n e"] | None
) -> Float[Tensor, " b"]:
    """What the control variate takes away on average: the continuous-time term of an image for the denoiser of
    independent ``N(0, v)`` elements, ``½ ∫ (s² + s (1 - s) x² / v) dl`` with ``s = sigmoid(l + log v)``."""
    ends = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device)) + math.log(data_variance)
    share, soft = ends.sigmoid(), F.softplus(ends)
    each = (soft - share)[0] - (soft - share)[1] + (share[0] - share[1]) * x.square() / data_variance
    return 0.5 * (each if known is None else each.masked_fill(known, 0)).sum((1, 2))


def _linear_error(x: Tensor, eps: Tensor, noise: NoiseMap, data_variance: float) -> Tensor:
    """``eps - epŝ`` of the denoiser of independent ``N(0, v)`` elements."""
    share = torch.sigmoid(noise.log_snr + math.log(data_variance))
    return share * eps - (share * (1 - share) / data_variance).sqrt() * x


def _variance(found: Posterior) -> Float[Tensor, "r n 1"]:
    if found.log_var is None:
        raise ValueError("own_variance: this denoiser does not say its variance (Posterior.log_var is None)")
    return found.log_var.double().exp()[..., None]
