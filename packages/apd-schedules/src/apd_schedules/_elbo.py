"""The likelihood bound of an asynchronous diffusion model, along any path or law of paths."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from ._bound_terms import bits_per_dim, prior_nats
from ._denoiser import Denoiser
from ._estimate import Bound, Draws, Rows, control_nats, draw
from ._likelihood import DiscretizedGaussian, Likelihood
from ._noise import NoiseMap, NoiseSchedule, Path
from ._path_law import PathLaw, path_law

Proposal = Callable[[Float[Tensor, " r"]], tuple[Float[Tensor, " r"], Float[Tensor, " r"]]]
"""Uniform numbers in (0, 1) to ``u``, increasing, and one over the density of ``u``: where the points lie."""


@dataclass(frozen=True, slots=True)
class Elbo:
    """Estimates of an upper bound on ``-log p(x)``, image by image, in nats.

    Args:
        prior: what the noise end still tells of the image; exact.
        reconstruction: what the clean end does not tell of it.
        diffusion: the errors of the denoiser along the path.
        standard_error: of the sum, from the spread over the points; cautious, since points in different strata differ
            by more than chance.
        dims: elements that are bounded: all, or the unknown ones.
        evaluations: network evaluations of each image.
    """

    prior: Float[Tensor, " b"]
    reconstruction: Float[Tensor, " b"]
    diffusion: Float[Tensor, " b"]
    standard_error: Float[Tensor, " b"]
    dims: Float[Tensor, " b"]
    evaluations: int

    @property
    def nats(self) -> Float[Tensor, " b"]:
        """The bound on ``-log p(x)`` of each image."""
        return self.prior + self.reconstruction + self.diffusion

    @property
    def bits_per_dim(self) -> Float[Tensor, " b"]:
        """The bound in bits per element."""
        return bits_per_dim(self.nats, self.dims)

    def average(self) -> tuple[float, float]:
        """Bits per element averaged over the images, and the standard error of that as an estimate of the average over
        all images like these: from the spread between images, in which the spread of each estimate is contained."""
        each = self.bits_per_dim
        return each.mean().item(), each.std().item() / len(each) ** 0.5 if len(each) > 1 else math.nan


@torch.no_grad()
def elbo(
    denoise: Denoiser,
    x: Float[Tensor, "b n d"],
    schedule: NoiseSchedule,
    law: PathLaw | Path,
    *,
    generator: Generator,
    points: int = 32,
    steps: int | None = None,
    likelihood: Likelihood = DiscretizedGaussian(),
    known: Bool[Tensor, "*#b n e"] | None = None,
    context: float = 0.0,
    own_variance: bool = False,
    data_variance: float | None = None,
    proposal: Proposal | None = None,
    batch: int = 256,
    on_batch: Callable[[int, int], None] | None = None,
    **cond: Any,
) -> Elbo:
    """Estimates an upper bound on the negative log-likelihood of each image.

    ``-log p(x) <= prior + reconstruction + E ∫ sum_i ½ (-d log_snr_i / du) (eps_i - epŝ_i)² du`` along every monotone
    path from all clean to all noise, and so on average over a law of them (docs/bound.md). With the exact denoiser all
    paths give the same number; between the paths of a trained model, the spread is the model's error.

    Only a path or a law of paths is taken. Levels drawn independently, or by a controlled sampler, and weighted as in
    ordinary diffusion, give a number that can be *below* the true negative log-likelihood; :func:`flux` shows it.

    Args:
        denoise: the model, unguided: a guided one has no likelihood.
        x: clean tokens.
        schedule: log-SNR of a level. What is missed beyond its ends is in the terms, so any ends give a bound; a clean
            end that the model cannot resolve makes it loose.
        law: a path without batch axes, or a law of paths.
        generator: of the points, the paths and the noise. An image's draws do not depend on ``batch``.
        points: draws for each image, at least 2, one in each of as many equal strata of the path.
        steps: bound generation in this many equal steps of ``u``, of which ``points`` are looked at (each once, if
            equal); by default, in continuous time.
        likelihood: of the data at the clean end, :class:`DiscretizedGaussian` or :class:`ContinuousGaussian`.
        known: bounds ``-log p(x_unknown | x_known)`` instead: these tokens or elements are held at level ``context``.
            Conditional bounds want a noise end further out: what is known predicts the rest, which the prior does not.
        context: 0 is clean and shows them as they are; above, the bound is the mean over their noise.
        own_variance: generation is widened by the variance that the denoiser says it has (``Posterior.log_var``), in
            the steps and at the clean end. Needs ``steps``; in continuous time it would change nothing.
        data_variance: of the elements, about zero, for a control variate: what the denoiser of independent normal
            elements would err by, on the same noise, is subtracted from the integrand and added in closed form.
            Continuous time only; any value leaves the bound as it is, a fitting one makes the standard error smaller.
        proposal: another density of the points along the path; by default uniform. It must reach both ends.
        batch: maps that go through the network together, about.
        on_batch: called with (images done, images in all).
        cond: conditions, tensors with a row for each image.

    Raises:
        ValueError: the path does not run from all clean to all noise, the arguments do not go together, or the denoiser
            returns what is not finite.
        TypeError: ``law`` is neither a path nor a law of paths.
    """
    _check(points, steps, context, own_variance, data_variance)
    bound = Bound(denoise, schedule, _as_law(law), context)
    if known is not None:
        known = known.to(x.device).expand(len(x), *known.shape[-2:])
    clean_draws = min(points, 8)
    group = max(1, batch // points)
    parts: list[tuple[Tensor, ...]] = []
    evaluations = 0
    for start in range(0, len(x), group):
        some = slice(start, start + group)
        images, held = x[some], None if known is None else known[some]
        given = {name: value[some] for name, value in cond.items()}
        repeat = lambda tensor, times=points: tensor.repeat_interleave(times, 0)
        rows = Rows(repeat(images), None if held is None else repeat(held), {k: repeat(v) for k, v in given.items()})
        draws = draw(bound.law, images, points, generator)
        if start == 0:
            _check_law(bound, rows, draws)
        density = torch.ones_like(draws.u)
        if proposal is not None:
            u, density = proposal(draws.u)
            draws = replace(draws, u=u)
        if steps is None:
            value, calls = bound.continuous(rows, draws, data_variance)
        else:
            value, calls = bound.discrete(rows, draws, steps, own_variance)
        diffusion, diffusion_variance = _mean((value * density).unflatten(0, (-1, points)))
        pick = lambda tensor: tensor.unflatten(0, (-1, points))[:, :clean_draws].flatten(0, 1)
        few = Rows(pick(rows.x), None if held is None else pick(rows.known), {k: pick(v) for k, v in rows.cond.items()})
        few_draws = Draws(*(pick(tensor) for tensor in (draws.u, draws.offsets, draws.eps, draws.eps_clean)))
        value, clean_calls = bound.reconstruction(few, few_draws, likelihood, own_variance)
        reconstruction, variance = _mean(value.unflatten(0, (-1, clean_draws)))
        evaluations = calls * points + clean_calls * clean_draws
        noise_end = NoiseMap(schedule(torch.ones(1, 1, dtype=torch.float64, device=x.device)))
        dims = torch.ones_like(images, dtype=torch.float64)
        if held is not None:
            dims = dims.masked_fill(held, 0)
        dims = dims.sum((1, 2))
        if data_variance is not None:
            diffusion = diffusion + control_nats(images.double(), schedule, data_variance, held)
        error = (diffusion_variance + variance).sqrt()
        parts.append((prior_nats(images.double(), noise_end, held), reconstruction, diffusion, error, dims))
        if on_batch is not None:
            on_batch(min(start + group, len(x)), len(x))
    prior, reconstruction, diffusion, error, dims = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
    return Elbo(prior, reconstruction, diffusion, error, dims, evaluations)


def _mean(values: Float[Tensor, "b k"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The mean of draws in consecutive strata, and its variance from successive differences."""
    k = values.shape[1]
    return values.mean(1), values.diff(dim=1).square().sum(1) / (2 * k * (k - 1))


def _as_law(law: PathLaw | Path) -> PathLaw:
    if isinstance(law, PathLaw):
        return law
    try:
        levels = law(torch.tensor([0.0, 1.0], dtype=torch.float64))
        is_path = levels.ndim >= 3 and levels.shape[0] == 2
    except Exception:
        is_path = False
    if not is_path:
        raise TypeError(
            "a bound is taken along a path or a law of paths (PathLaw), not over a sampler of levels: its maps have no "
            "velocities, and with the weights of ordinary diffusion the result can be below the true negative "
            "log-likelihood. Use a law such as quad_law, or see what flux says of the sampler"
        )
    return path_law(law)


def _check_law(bound: Bound, rows: Rows, draws: Draws) -> None:
    level = bound.law.at(draws.u, draws.offsets).level
    if level.shape[1] != rows.x.shape[1] or level.shape[2] not in (1, rows.x.shape[2]):
        raise ValueError(
            f"levels of {level.shape[1]} tokens with {level.shape[2]} each do not fit data of {rows.x.shape[1]} "
            f"tokens of {rows.x.shape[2]} elements"
        )
    bound.law.check(draws.u, draws.offsets, True if rows.known is None else ~rows.known)


def _check(points: int, steps: int | None, context: float, own_variance: bool, data_variance: float | None) -> None:
    if points < 2:
        raise ValueError(f"a bound with a standard error takes at least 2 points, got {points}")
    if steps is not None and steps < 1:
        raise ValueError(f"generation takes at least one step, got {steps}")
    if not 0 <= context < 1:
        raise ValueError(f"context is the level of what is known, in [0, 1), got {context}")
    if own_variance and steps is None:
        raise ValueError("own_variance widens the steps of generation: say how many there are, steps=")
    if data_variance is not None and (steps is not None or not data_variance > 0):
        raise ValueError(f"data_variance is positive and for continuous time, got {data_variance} with steps={steps}")
