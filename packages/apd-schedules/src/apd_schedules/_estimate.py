"""Draws of the terms of a bound: the inside of :func:`elbo`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from ._bound_terms import diffusion_nats, discrete_diffusion_nats, reconstruction_nats, total
from ._denoiser import Denoiser, Posterior
from ._likelihood import Likelihood
from ._noise import NoiseMap, NoiseSchedule, corrupt
from ._path_law import Levels, PathLaw


@dataclass(frozen=True, slots=True)
class Draws:
    """What is random in the estimate: ``r`` rows, a number of them for each image in turn.

    Args:
        u: places on the path, one in each of as many equal strata.
        offsets: of the paths.
        eps: noise on the tokens.
    """

    u: Float[Tensor, " r"]
    offsets: Float[Tensor, "r ..."]
    eps: Float[Tensor, "r n d"]


def draw(
    law: PathLaw, like: Float[Tensor, "b n d"], points: int, clean_points: int, generator: Generator
) -> tuple[Draws, Draws]:
    """Draws at ``points`` places of the path and, of the first few paths of each image, at its clean end.

    Every image has two streams of its own, for noise and for paths: its draws do not depend on the batch that it is in,
    and two laws are looked at with the same noise.
    """
    way: list[tuple[Tensor, ...]] = []
    end: list[tuple[Tensor, ...]] = []
    for image in like:
        seeds = torch.randint(2**63 - 1, (2,), generator=generator).tolist()
        noise, paths = (Generator().manual_seed(seed) for seed in seeds)
        at: dict[str, Any] = {"generator": noise, "device": "cpu"}  # whatever PyTorch's defaults are
        jitter = torch.rand(points, dtype=torch.float64, **at)
        u, offsets = (torch.arange(points, device="cpu") + jitter) / points, law.draw(points, paths)
        way.append((u, offsets, torch.randn(points, *image.shape, dtype=torch.float32, **at)))
        eps = torch.randn(clean_points, *image.shape, dtype=torch.float32, **at)
        end.append((u[:clean_points] * 0, offsets[:clean_points], eps))
    first, second = (
        Draws(*(torch.cat(tensors).to(like.device) for tensors in zip(*parts, strict=True))) for parts in (way, end)
    )
    return first, second


@dataclass(frozen=True, slots=True)
class Rows:
    """Data and conditions, a row for each draw."""

    x: Float[Tensor, "r n d"]
    known: Bool[Tensor, "r n e"] | None
    cond: Mapping[str, Any]

    def repeat(self, times: int) -> "Rows":
        """Each row that many times in a row."""
        again = lambda value: value.repeat_interleave(times, 0) if isinstance(value, Tensor) else value
        return Rows(again(self.x), again(self.known), {name: again(value) for name, value in self.cond.items()})

    def cut(self, some: slice) -> "Rows":
        """Some of the rows."""
        part = lambda value: value[some] if isinstance(value, Tensor) else value
        return Rows(part(self.x), part(self.known), {name: part(value) for name, value in self.cond.items()})


@dataclass(frozen=True, slots=True)
class Bound:
    """A model, a way through the noise maps, what is held fixed on it, and how many maps the network takes at once."""

    denoise: Denoiser
    schedule: NoiseSchedule
    law: PathLaw
    context: float = 0.0
    batch: int = 256

    def levels(self, u: Float[Tensor, " r"], draws: Draws, known: Bool[Tensor, "r n e"] | None) -> Levels:
        """Of the law at ``u``, with what is known held at the level of the context."""
        found = self.law.at(u, draws.offsets)
        if known is None:
            return found
        return Levels(torch.where(known, self.context, found.level), torch.where(known, 0.0, found.velocity))

    def look(self, rows: Rows, noise: NoiseMap, eps: Float[Tensor, "r n d"]) -> Posterior:
        """The posterior, in float64, at the rows' noisy tokens; a clean context is seen as it is."""
        means, log_vars, evaluations = [], [], 0
        for start in range(0, len(rows.x), self.batch):
            some = slice(start, start + self.batch)
            part, part_noise = rows.cut(some), NoiseMap(noise.log_snr[some]).to(rows.x)
            z = corrupt(part.x, part_noise, eps[some].to(part.x)).to(part.x.dtype)
            if part.known is not None and self.context == 0:
                z = torch.where(part.known, part.x, z)
            found = self.denoise(z, part_noise, **part.cond)
            check_posterior(found, z, part_noise)
            means.append(found.mean.double())
            log_vars.append(found.log_var)
            evaluations = found.evaluations
        log_var = None if log_vars[0] is None else torch.cat(log_vars).double()
        return Posterior(torch.cat(means), log_var, evaluations)

    def continuous(self, rows: Rows, draws: Draws, data_variance: float | None) -> tuple[Float[Tensor, " r"], int]:
        """The integrand of the continuous-time term at ``u``, less its control variate, and evaluations of a row."""
        found = self.levels(draws.u, draws, rows.known)
        way = (found.level.contiguous(), found.velocity.contiguous())
        log_snr, rate, *_ = torch.func.jvp(self.schedule, way[:1], way[1:])
        noise = NoiseMap(log_snr)
        posterior, x = self.look(rows, noise, draws.eps), rows.x.double()
        value = diffusion_nats(x, posterior.mean, noise, rate, rows.known)
        if data_variance is not None:
            error = _linear_error(x, draws.eps.double(), noise, data_variance)
            value = value + total(0.5 * rate * error.square(), rows.known)
        return value, posterior.evaluations

    def discrete(self, rows: Rows, draws: Draws, steps: int, own_variance: bool) -> tuple[Float[Tensor, " r"], int]:
        """``steps`` times the divergence of the step in which ``u`` lies, and evaluations of a row."""
        k = (draws.u * steps).ceil().clamp(1, steps)
        noise, cleaner = (
            NoiseMap(self.schedule(self.levels(place / steps, draws, rows.known).level)) for place in (k, k - 1)
        )
        found = self.look(rows, noise, draws.eps)
        variance = _variance(found) if own_variance else None
        value = discrete_diffusion_nats(rows.x.double(), found.mean, noise, cleaner, variance, rows.known)
        return steps * value, found.evaluations

    def reconstruction(
        self, rows: Rows, draws: Draws, likelihood: Likelihood, own_variance: bool
    ) -> tuple[Float[Tensor, " r"], int]:
        """``-log p(x | z)`` at the clean end, and evaluations of a row."""
        x, eps = rows.x.double(), draws.eps.double()
        noise = NoiseMap(self.schedule(self.levels(torch.zeros_like(draws.u), draws, rows.known).level))
        if not own_variance:
            return reconstruction_nats(x, noise, eps, likelihood, rows.known), 0
        found = self.look(rows, noise, draws.eps)
        return total(likelihood(x, found.mean, _variance(found)), rows.known), found.evaluations


def control_nats(
    x: Float[Tensor, "b n d"], schedule: NoiseSchedule, data_variance: float, known: Bool[Tensor, "b n e"] | None
) -> Float[Tensor, " b"]:
    """What the control variate takes away on average: the continuous-time term of an image for the denoiser of
    independent ``N(0, v)`` elements, ``½ ∫ (s² + s (1 - s) x² / v) dl`` with ``s = sigmoid(l + log v)``."""
    ends = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device)) + math.log(data_variance)
    share, soft = ends.sigmoid(), F.softplus(ends)
    each = (soft - share)[0] - (soft - share)[1] + (share[0] - share[1]) * x.square() / data_variance
    return 0.5 * total(each, known)


def check_posterior(found: Posterior, z: Float[Tensor, "r n d"], noise: NoiseMap) -> None:
    """Raises ValueError if the denoiser's answer is not of the tokens ``z``, or, saying at what map, not finite."""
    if found.mean.shape != z.shape:
        raise ValueError(
            f"the denoiser returned a mean of shape {tuple(found.mean.shape)} for tokens of shape {tuple(z.shape)}"
        )
    wrong = {"mean": ~found.mean.isfinite()}
    if found.log_var is not None:
        if found.log_var.shape != z.shape[:-1]:
            raise ValueError(
                f"the denoiser returned log_var of shape {tuple(found.log_var.shape)}, one number a token is "
                f"{tuple(z.shape[:-1])}"
            )
        wrong["log_var"] = ~(found.log_var < torch.inf)  # -inf: nothing is uncertain
    for name, bad in wrong.items():
        if bad.any():
            level = float(noise.flow_level.expand(len(z), -1, -1)[bad.flatten(1).any(1)][0].mean())
            raise ValueError(f"the denoiser's {name} is not finite, at a map of mean flow level {level:.4f}")


def _linear_error(x: Tensor, eps: Tensor, noise: NoiseMap, data_variance: float) -> Tensor:
    """``eps - epŝ`` of the denoiser of independent ``N(0, v)`` elements."""
    share = torch.sigmoid(noise.log_snr + math.log(data_variance))
    return share * eps - (share * (1 - share) / data_variance).sqrt() * x


def _variance(found: Posterior) -> Float[Tensor, "r n 1"]:
    if found.log_var is None:
        raise ValueError("own_variance: this denoiser does not say its variance (Posterior.log_var is None)")
    return found.log_var.double().exp()[..., None]
