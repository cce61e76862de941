"""What a description of a sampler holds, and how it reads in a terminal."""

from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apd_schedules import Flux

BINS = 20
"""Of the histograms, of equal width over [0, 1]."""
NEAR = 0.1
"""How far apart levels may be that are nearly equal, a map from nearly clean or nearly noise, a path from a map."""
CLEAN = 0.02
"""Levels up to here are called clean where a clean context is looked for."""
PART = 0.1
"""The least share of a map's tokens that makes a part of it."""
RARE = 0.01
"""Kinds of maps are called rare below this share of all."""
COVERED = 1e-4
"""The share of maps near a place of a path from which on it is covered. To tell, draw several times ten thousand."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How near the maps drawn come to those that a generation visits.

    Args:
        s: places on the path, from clean to noise.
        distance: there, from the path's map to the nearest of those drawn: the root mean square over tokens. It falls
            with the number of maps drawn.
        near: share of the maps drawn that are at most 0.1 away (:data:`NEAR`). A few of many tokens may be wholly off.
    """

    s: Float[Tensor, " k"]
    distance: Float[Tensor, " k"]
    near: Float[Tensor, " k"]

    @property
    def share(self) -> float:
        """Of the places, those that one map in ten thousand or more is near to (:data:`COVERED`)."""
        return _mean(self.near >= COVERED)


@dataclass(frozen=True, slots=True)
class BoundTest:
    """Whether levels and weights make a likelihood bound, up to a constant factor.

    Args:
        factor: by how much the loss is larger than the bound would be, from the mean weight.
        flux: the test of the weights divided by the factor.
    """

    factor: float
    flux: Flux

    @property
    def is_bound(self) -> bool:
        """Nothing speaks against it, in as many maps as were drawn; a few thousand find only what is far from one."""
        return self.factor > 0 and self.flux.is_bound


@dataclass(frozen=True, slots=True)
class Description:
    """The maps that a sampler draws, a row of numbers each. ``print`` it, or :meth:`plot` it.

    Levels are counted over tokens and elements alike.

    Args:
        sampler: as it prints.
        levels: of one map.
        mean: mean level of each map.
        spread: its largest level less its smallest.
        deviation: standard deviation of its levels.
        distinct: how many different levels it has.
        context: it looks like inpainting: at least a tenth of the levels are clean (0.02 or below), at least a tenth
            are not, and these are above 0.1 and within 0.1 of each other.
        clear, noisy: no level is above 0.1; none is below 0.9.
        marginal: share of all levels in each of 20 bins of equal width over [0, 1].
        at_ends: share of all levels that are exactly 0, and exactly 1.
        coverage: of the path, where one was given.
        bound: where the weights are known.
    """

    sampler: str
    levels: int
    mean: Float[Tensor, " m"]
    spread: Float[Tensor, " m"]
    deviation: Float[Tensor, " m"]
    distinct: Int[Tensor, " m"]
    context: Bool[Tensor, " m"]
    clear: Bool[Tensor, " m"]
    noisy: Bool[Tensor, " m"]
    marginal: Float[Tensor, " bins"]
    at_ends: tuple[float, float]
    coverage: Coverage | None = None
    bound: BoundTest | None = None

    @property
    def mean_histogram(self) -> Float[Tensor, " bins"]:
        """Share of the maps whose mean level lies in each of 20 bins of equal width over [0, 1]."""
        return histogram(self.mean[None])[0].double() / len(self.mean)

    @property
    def nearly_uniform(self) -> float:
        """Share of maps with a spread of at most 0.1."""
        return _mean(self.spread <= NEAR)

    @property
    def uniform_between(self) -> float:
        """The same among the maps that are neither nearly clean nor nearly noise; those tend to be uniform."""
        return _mean(self.spread[~self.clear & ~self.noisy] <= NEAR)

    @property
    def nearly_clean(self) -> float:
        """Share of maps with no level above 0.1."""
        return _mean(self.clear)

    @property
    def nearly_noise(self) -> float:
        """Share of maps with no level below 0.9."""
        return _mean(self.noisy)

    @property
    def clean_context(self) -> float:
        """Share of maps that look like inpainting."""
        return _mean(self.context)

    def plot(self, file: str | File | None = None) -> Any:
        """A matplotlib figure of the mean levels, the levels, the spreads and the coverage, saved if a file is named.

        Raises:
            ImportError: without matplotlib, which comes with ``apd-samplers[plots]``.
        """
        from .._figures import description_figure

        covered = None if self.coverage is None else (self.coverage.s, self.coverage.distance, NEAR)
        return description_figure(
            self.sampler, self.mean_histogram, self.marginal, self.mean, self.spread, covered, file
        )

    def __str__(self) -> str:
        low, middle, high = (f"{float(q):.2f}" for q in self.spread.quantile(self.spread.new_tensor([0.05, 0.5, 0.95])))
        rows = [
            ("mean level", f"{_mean(self.mean):.3f} ± {_std(self.mean):.3f}", "0.500 ± 0.289 if evenly spread"),
            ("spread, max - min", f"{_mean(self.spread):.3f}", f"5, 50, 95 % of maps below {low}, {middle}, {high}"),
            ("standard deviation", f"{_mean(self.deviation):.3f}", "of the levels of a map, on average"),
            ("distinct levels", f"{_mean(self.distinct):.1f}", f"of {self.levels} in a map, on average"),
            ("clean, noise", ", ".join(map(_percent, self.at_ends)), "levels that are exactly 0, exactly 1"),
            _kind("nearly clean maps", self.nearly_clean, "the end of every generation"),
            _kind("nearly noise maps", self.nearly_noise, "the beginning of every generation"),
            _kind("nearly uniform maps", self.nearly_uniform, "synchronous generation", self.uniform_between),
            _kind("clean contexts", self.clean_context, "one level beside clean tokens: synchronous inpainting"),
        ]
        if self.coverage is not None:
            least = int(self.coverage.near.argmin())
            near, s = float(self.coverage.near[least]), float(self.coverage.s[least])
            rows.append(
                (
                    "path covered",
                    _percent(self.coverage.share),
                    f"least at s = {s:.2f}: {100 * near:.2g} % of maps near",
                )
            )
        if self.bound is not None:
            rows.append(
                ("likelihood bound", "yes" if self.bound.is_bound else "no", _verdict(self.bound, len(self.mean)))
            )
        widths = [max(len(row[k]) for row in rows) for k in (0, 1)]
        lines = [f"{name:{widths[0]}}  {value:>{widths[1]}}  {note}" for name, value, note in rows]
        return "\n".join([self.sampler, f"{len(self.mean):,} maps of {self.levels} levels (0 clean, 1 noise)", *lines])


def histogram(level: Float[Tensor, "b m"]) -> Int[Tensor, "b bins"]:
    """Of every row, how many levels lie in each bin; 1 belongs to the last."""
    bin_of = (level * BINS).long().clamp(0, BINS - 1)
    return torch.zeros(len(level), BINS, dtype=torch.long).scatter_add(1, bin_of, torch.ones_like(bin_of))


def _kind(name: str, share: float, use: str, between: float | None = None) -> tuple[str, str, str]:
    """A kind of map, what visits such maps, and whether they are rare."""
    judged = share if between is None or between != between else between
    note = f"rare! {use}" if judged < RARE else use
    if between is None or between != between:
        return name, _percent(share), note
    return name, _percent(share), f"{note}; {_percent(between)} of those in between"


def _verdict(bound: BoundTest, maps: int) -> str:
    if not bound.factor > 0:
        return f"the mean weight is {bound.factor:.3g}"
    if not bound.flux.tells:
        return "too few maps to tell"
    if bound.is_bound:
        return f"up to a factor of {bound.factor:.3g}, as far as {maps:,} maps tell"
    name, z = max(bound.flux.z.items(), key=lambda item: abs(item[1]) if item[1] == item[1] else 0.0)
    return f"'{name}' misses by {'over ' if abs(z) > 1000 else ''}{min(abs(z), 1000):.0f} standard errors"


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _std(values: Tensor) -> float:
    return float(values.double().std(correction=0))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
