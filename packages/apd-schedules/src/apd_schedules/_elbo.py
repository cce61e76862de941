"""The likelihood bound of an asynchronous diffusion model, along any path or law of paths."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from ._bound_terms import bits_per_dim, prior_nats, total
from ._denoiser import Denoiser
from ._estimate import Bound, Draws, Rows, control_nats, draw
from ._flux import flux
from ._likelihood import DiscretizedGaussian, Likelihood
from ._noise import NoiseMap, NoiseSchedule, Path
from ._path_combinators import ROUNDING
from ._path_law import PathLaw, path_law

Proposal = Callable[[Float[Tensor, " r"]], Float[Tensor, " r"]]
"""A smooth increasing map of [0, 1] onto itself, from uniform numbers to ``u``: where on the path the points lie."""


@dataclass(frozen=True, slots=True)
class Elbo:
    """Estimates of an upper bound on ``-log p(x)``, image by image, in nats.

    Args:
        prior: what the noise end still tells of the image; exact.
        reconstruction: what the clean end does not tell of it.
        diffusion: the errors of the denoiser along the path.
        standard_error: of the sum as an estimate for this image, from the spread between neighbouring points; cautious,
            since these differ by more than chance.
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
    cond: Mapping[str, Any] = MappingProxyType({}),
    batch: int = 256,
    on_batch: Callable[[int, int], None] | None = None,
) -> Elbo:
    """Estimates an upper bound on the negative log-likelihood of each image.

    ``-log p(x) <= prior + reconstruction + E ∫ sum_i ½ (-d log_snr_i / du) (eps_i - epŝ_i)² du`` along every monotone
    path from all clean to all noise, and so on average over a law of them (docs/bound.md). With the exact denoiser all
    paths give the same number; between the paths of a trained model, the spread is the model's error.

    Only a path or a law of paths is taken. Levels drawn independently, or by a controlled sampler, and weighted as in
    ordinary diffusion, give a number that can be *below* the true negative log-likelihood; :func:`flux` shows it.

    Args:
        denoise: the model. Guided, it is another model, with a bound of its own, usually a worse one.
        x: clean tokens, of a floating dtype, in which the network sees them.
        schedule: log-SNR of a level. What is missed beyond its ends is in the terms, so any ends give a bound; a clean
            end that the model cannot resolve makes it loose. One whose noise is lost in the rounding of ``x`` would
            show the data themselves, and is refused.
        law: a path without batch axes, or a law of paths.
        generator: on the CPU; of the points, the paths and the noise. An image's draws do not depend on ``batch``, and
            two laws are looked at with the same noise.
        points: draws for each image, at least 2, one in each of as many equal strata of the path.
        steps: bound generation in this many equal steps of ``u``, of which ``points`` are looked at (each once, if
            equal); by default, in continuous time.
        likelihood: of the data at the clean end, :class:`DiscretizedGaussian` or :class:`ContinuousGaussian`.
        known: ``(n, e)``, or ``(b, n, e)`` for each image its own: bounds ``-log p(x_unknown | x_known)`` instead.
            These tokens or elements are held at level ``context``. Conditional bounds want a noise end further out:
            what is known predicts the rest, which the prior does not.
        context: 0 is clean and shows them as they are; above, the bound is the mean over their noise.
        own_variance: generation is widened by the variance that the denoiser says it has (``Posterior.log_var``): at
            the clean end, and in each of the ``steps``, if there are.
        data_variance: of the elements, about zero, for a control variate: what the denoiser of independent normal
            elements would err by, on the same noise, is subtracted from the integrand and added in closed form.
            Continuous time only; any value leaves the bound as it is, a fitting one makes the standard error smaller.
        proposal: puts the points elsewhere than evenly, for less variance; the bound stays what it is.
        cond: conditions; tensors have a row for each image.
        batch: maps that go through the network together.
        on_batch: called with (images done, images in all).

    Raises:
        ValueError: the path does not run from all clean to all noise, goes back, has velocities that are not its own,
            the arguments do not go together, the clean end is finer than the precision of ``x``, or the denoiser
            returns what is not finite or not of the tokens.
        TypeError: ``law`` is neither a path nor a law of paths.
    """
    _check(x, schedule, points, steps, context, data_variance, cond, batch)
    bound = Bound(denoise, schedule, _as_law(law), context, batch)
    known = check_known(known, x)
    noise_end = NoiseMap(schedule(torch.ones(1, 1, dtype=torch.float64, device=x.device)))
    clean_points, group = min(points, 8), max(1, batch // points)
    whole = Rows(x, known, cond)
    parts: list[tuple[Tensor, ...]] = []
    evaluations = 0
    for start in range(0, len(x), group):
        images = whole.cut(slice(start, start + group))
        draws, at_end = draw(bound.law, images.x, points, clean_points, generator)
        rows = images.repeat(points)
        if start == 0:
            _check_law(bound, rows, draws)
        draws, density = _proposed(draws, proposal)
        if steps is None:
            value, calls = bound.continuous(rows, draws, data_variance)
        else:
            value, calls = bound.discrete(rows, draws, steps, own_variance)
        diffusion, variance = _mean((value * density).unflatten(0, (-1, points)))
        if data_variance is not None:
            diffusion = diffusion + control_nats(images.x.double(), schedule, data_variance, images.known)
        value, clean_calls = bound.reconstruction(images.repeat(clean_points), at_end, likelihood, own_variance)
        reconstruction, clean_variance = _mean(value.unflatten(0, (-1, clean_points)))
        evaluations = calls * points + clean_calls * clean_points
        prior = prior_nats(images.x.double(), noise_end, images.known)
        dims = total(torch.ones_like(images.x, dtype=torch.float64), images.known)
        parts.append((prior, reconstruction, diffusion, (variance + clean_variance).sqrt(), dims))
        if on_batch is not None:
            on_batch(min(start + group, len(x)), len(x))
    prior, reconstruction, diffusion, error, dims = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
    return Elbo(prior, reconstruction, diffusion, error, dims, evaluations)


def _mean(values: Float[Tensor, "b k"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The mean of draws in consecutive strata, and its variance from differences of neighbours, in pairs.

    Each pair's squared difference is on average the sum of its two variances, and more where the strata differ. An odd
    last draw is paired with the one before it once more.
    """
    k = values.shape[1]
    paired = values if k % 2 == 0 else torch.cat([values, values[:, -2:-1]], 1)
    one, other = paired.unflatten(1, (-1, 2)).unbind(2)
    return values.mean(1), (one - other).square().sum(1) / k**2


def _proposed(draws: Draws, proposal: Proposal | None) -> tuple[Draws, Float[Tensor, " r"]]:
    """The draws at other places, and ``du / dv`` to weight them with."""
    if proposal is None:
        return draws, torch.ones_like(draws.u)
    ends = proposal(torch.tensor([0.0, 1.0], dtype=torch.float64, device=draws.u.device))
    u, slope, *_ = torch.func.jvp(proposal, (draws.u,), (torch.ones_like(draws.u),))
    if not ((ends - torch.tensor([0.0, 1.0]).to(ends)).abs() <= ROUNDING).all() or not (slope >= 0).all():
        raise ValueError(
            f"a proposal is an increasing map of [0, 1] onto itself; this one has ends {ends.tolist()} and slopes from "
            f"{float(slope.min()):.3g} to {float(slope.max()):.3g}"
        )
    return replace(draws, u=u.clamp(0, 1)), slope


def _as_law(law: PathLaw | Path) -> PathLaw:
    if isinstance(law, PathLaw):
        return law
    cause = None
    try:
        levels = law(torch.tensor([0.0, 1.0], dtype=torch.float64))
        if levels.ndim >= 3 and levels.shape[0] == 2:
            return path_law(law)
    except (TypeError, RuntimeError, IndexError, AttributeError) as error:
        cause = error
    within = "its law, sampler.law," if isinstance(getattr(law, "law", None), PathLaw) else "a law such as quad_law,"
    raise TypeError(
        "a bound is taken along a path or a law of paths (PathLaw), not over a sampler of levels: its maps have no "
        "velocities, and with the weights of ordinary diffusion the result can be below the true negative "
        f"log-likelihood. Use {within} or see what flux says of the sampler"
    ) from cause


def _check_law(bound: Bound, rows: Rows, draws: Draws) -> None:
    law, (_, n, d) = bound.law, rows.x.shape
    level = law.at(draws.u, draws.offsets).level
    if level.shape[1] != n or level.shape[2] not in (1, d):
        raise ValueError(
            f"levels of {level.shape[1]} tokens with {level.shape[2]} each do not fit data of {n} tokens of "
            f"{d} elements"
        )
    law.check(draws.u, draws.offsets, True if rows.known is None else ~rows.known)
    if law.averaged and not (found := flux(law, max(2000, 400_000 // level[0].numel()))).is_bound:
        raise ValueError(f"the law's averaged velocities are not those of a bound: {found.z}")


def check_known(known: Bool[Tensor, "..."] | None, x: Float[Tensor, "b n d"]) -> Bool[Tensor, "b n e"] | None:
    """What is known, with a row for each image; or ValueError."""
    if known is None:
        return None
    b, n, d = x.shape
    shape = tuple(known.shape)
    fits = known.ndim in (2, 3) and shape[-2] == n and shape[-1] in (1, d) and (known.ndim == 2 or shape[0] in (1, b))
    if not fits or known.dtype != torch.bool:
        raise ValueError(
            f"known is a bool tensor of shape ({n}, 1), ({n}, {d}) or one such for each of the {b} images, got "
            f"{known.dtype} of shape {shape}"
        )
    known = known.to(x.device).expand(b, *shape[-2:])
    if known.flatten(1).all(1).any():
        raise ValueError("everything of an image is known: there is nothing left to bound")
    return known


def _check(
    x: Tensor,
    schedule: NoiseSchedule,
    points: int,
    steps: int | None,
    context: float,
    data_variance: float | None,
    cond: Mapping[str, Any],
    batch: int,
) -> None:
    check_data(x, schedule, cond)
    if batch < 1:
        raise ValueError(f"at least one map goes through the network at once, got batch={batch}")
    if points < 2:
        raise ValueError(f"a bound with a standard error takes at least 2 points, got {points}")
    if steps is not None and steps < 1:
        raise ValueError(f"generation takes at least one step, got {steps}")
    if not 0 <= context < 1:
        raise ValueError(f"context is the level of what is known, in [0, 1), got {context}")
    if data_variance is not None and (steps is not None or not 0 < data_variance < math.inf):
        raise ValueError(f"data_variance is positive and for continuous time, got {data_variance} with steps={steps}")


def check_data(x: Tensor, schedule: NoiseSchedule, cond: Mapping[str, Any]) -> None:
    """Raises ValueError for no images, images that are not tokens of a floating dtype, or of one that rounds the noise
    at the clean end away, and conditions of another number."""
    if x.ndim != 3:
        raise ValueError(f"a bound is of images as tokens, (b, n, d), such as Patchify makes, got {tuple(x.shape)}")
    if not x.is_floating_point() or not len(x):
        raise ValueError(f"a bound is of at least one image of floating dtype, got {len(x)} of {x.dtype}")
    clean = float(schedule(torch.zeros((), dtype=torch.float64, device=x.device)))
    finest = -2 * math.log(torch.finfo(x.dtype).eps / 8)  # there noise begins to vanish, and errors with it
    if clean > finest:
        raise ValueError(
            f"the clean end, at a log-SNR of {clean:.4g}, is finer than {x.dtype} resolves: take data of more "
            f"precision, or a clean end of {finest:.3g} at most"
        )
    for name, value in cond.items():
        if isinstance(value, Tensor) and (value.ndim == 0 or len(value) != len(x)):
            raise ValueError(f"condition {name!r} has a row for each of the {len(x)} images, got {tuple(value.shape)}")
