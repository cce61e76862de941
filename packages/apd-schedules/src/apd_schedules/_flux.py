"""Is a sampler of levels with its weights a likelihood bound? The flux test.

A training loss ``E sum_i weight_i (-d log_snr_i / d t_i) (eps_i - epŝ_i)² / 2`` bounds the likelihood, and is tight for
the exact denoiser, if and only if

    E sum_i weight_i d phi / d t_i = phi(1, …, 1) - phi(0, …, 0)      for every smooth phi of the levels:

the weights times the density of the levels are then the flux of a law of monotone paths from all clean to all noise.
What this says and why: docs/bound.md. Here it is tried on a battery of functions phi.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ._path_law import Levels, PathLaw

Phi = Callable[[Float[Tensor, "b m"]], Float[Tensor, " b"]]


def uneven(t: Float[Tensor, "b m"]) -> Float[Tensor, " m"]:
    """Fixed coefficients in [1/2, 3/2), all different: weights that are right on average only do not pass."""
    return 0.5 + torch.arange(t.shape[1], dtype=t.dtype, device=t.device).mul(0.618034).frac()


BATTERY: dict[str, Phi] = {
    "first": lambda t: t[:, 0],
    "uneven mean": lambda t: t @ uneven(t) / uneven(t).sum(),
    "mean of squares": lambda t: t.square().mean(1),
    "first² · second": lambda t: t[:, 0].square() * t[:, min(1, t.shape[1] - 1)],
    "mean³": lambda t: t.mean(1) ** 3,
    "mean · variance": lambda t: t.mean(1) * t.var(1, correction=0),
    "product": lambda t: t.prod(1),
    "sine of the mean": lambda t: torch.sin(3 * t.mean(1)),
    "soft largest": lambda t: torch.logsumexp(8 * t, 1) / 8,
    "soft smallest": lambda t: -torch.logsumexp(-8 * t, 1) / 8,
    "exp(-3 mean)": lambda t: torch.exp(-3 * t.mean(1)),
}
"""Functions of the levels, flattened over tokens and elements."""


@dataclass(frozen=True, slots=True)
class Flux:
    """What the flux test found.

    Args:
        expected: ``phi(1) - phi(0)`` for each function of :data:`BATTERY`, by name.
        found: the estimate of ``E sum_i weight_i d phi / d t_i``.
        standard_error: of that.
        seen: maps at which the function's slope along the weights was not zero. Below 30 nothing can be said.
    """

    expected: dict[str, float]
    found: dict[str, float]
    standard_error: dict[str, float]
    seen: dict[str, int]

    @property
    def z(self) -> dict[str, float]:
        """By how many standard errors each function misses; NaN where it was seen too rarely to tell."""
        slack = 1e-9  # a law without randomness has no standard error, and rounds
        return {
            name: (self.found[name] - self.expected[name]) / math.hypot(self.standard_error[name], slack)
            if self.seen[name] >= 30
            else math.nan
            for name in self.expected
        }

    @property
    def tells(self) -> bool:
        """Some function was seen often enough to say anything."""
        return any(seen >= 30 for seen in self.seen.values())

    @property
    def is_bound(self) -> bool:
        """No function misses by more than five standard errors; false where too few maps were drawn to tell."""
        return self.tells and not any(abs(z) > 5 for z in self.z.values())

    def __str__(self) -> str:
        lines = [f"{'function':18} {'expected':>9} {'found':>9} {'s.e.':>8} {'z':>8}"]
        for name, z in self.z.items():
            numbers = f"{self.expected[name]:9.4f} {self.found[name]:9.4f} {self.standard_error[name]:8.4f} {z:8.1f}"
            lines.append(f"{name:18} {numbers}")
        verdict = "a likelihood bound, as far as these functions see" if self.is_bound else "not a likelihood bound"
        verdict = verdict if self.tells else "too few maps to tell"
        return "\n".join([*lines, verdict])


def flux(
    sampler: PathLaw | Callable[[int, Generator], Levels | Float[Tensor, "b n e"]],
    samples: int = 200_000,
    seed: int = 0,
    chunk: int = 10_000,
) -> Flux:
    """Tries whether levels and weights make a likelihood bound, by Monte Carlo.

    Args:
        sampler: a law of paths; or (batch, generator) to levels with, in the place of velocities, the weights relative
            to the ordinary bound's: all 1 is its weight, ``-d log_snr / dt`` times half the squared eps-error. Levels
            alone, of a training sampler, have this weight.
        samples: maps drawn.
        seed: of the draw; the test is a function of it.
        chunk: maps looked at together.
    """
    generator = Generator().manual_seed(seed)

    def draw(batch: int) -> Levels:
        if not isinstance(sampler, PathLaw):
            levels = sampler(batch, generator)
            return Levels(levels, torch.ones_like(levels)) if isinstance(levels, Tensor) else levels
        offsets = sampler.draw(batch, generator)
        u = torch.rand(batch, generator=generator, dtype=torch.float64)
        return sampler.at(u, offsets)

    sums = {name: torch.zeros(2, dtype=torch.float64) for name in BATTERY}
    expected: dict[str, float] = {}
    seen = dict.fromkeys(BATTERY, 0)
    for start in range(0, samples, chunk):
        drawn = draw(min(chunk, samples - start))
        t, weight = (tensor.flatten(1).double().contiguous() for tensor in (drawn.level, drawn.velocity))
        for name, phi in BATTERY.items():
            slope = torch.func.jvp(phi, (t,), (weight,))[1]
            sums[name] += torch.stack([slope.sum(), slope.square().sum()])
            seen[name] += int(slope.count_nonzero())
            expected[name] = float(phi(torch.ones_like(t[:1])) - phi(torch.zeros_like(t[:1])))
    found = {name: float(total[0]) / samples for name, total in sums.items()}
    variance = {name: max(float(total[1]) / samples - found[name] ** 2, 0.0) for name, total in sums.items()}
    return Flux(expected, found, {name: (value / samples) ** 0.5 for name, value in variance.items()}, seen)
