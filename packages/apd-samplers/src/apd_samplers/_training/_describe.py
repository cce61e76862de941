"""What a sampler draws, seen before anything is trained on it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apd_schedules import InvertibleSchedule, Levels, Path, flux

from ._description import CLEAN, NEAR, PART, BoundTest, Coverage, Description, histogram
from ._draw import Draw, TrainingLevelSampler, weighted
from ._levels import LevelSampler
from ._weighting import Weighting
from ._weighting_levels import log_snr_rate

CHUNK = 1000
"""Maps drawn, and held, at a time."""
PLACES = 33
"""On a path, evenly spread from s = 0 to 1."""
SLACK = 1e-3
"""In nats: log-SNRs of draws are rounded to float32."""

Look = Callable[[int, Generator], tuple[Float[Tensor, "b n e"], Float[Tensor, "b n e"] | None]]
"""(batch, generator) to levels and, where they are known, weights relative to the ordinary bound's; in float64."""


@torch.no_grad()
def describe(
    sampler: LevelSampler | TrainingLevelSampler,
    *,
    path: Path | None = None,
    schedule: InvertibleSchedule | None = None,
    weighting: Weighting | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> Description:
    """Which maps a sampler draws: how clean, how uneven, how near to those of a path, and whether its loss is a bound.

    A model is asked along a curve of maps when it generates, and guesses well near maps that it was trained on:
    ``print(describe(sampler, path=path))`` tells what it will have seen.

    Args:
        sampler: of levels, or of training draws.
        path: how generation is to run, without batch axes.
        schedule: that the draws are made with; needed to read levels off training draws, and with ``weighting``.
        weighting: for a sampler of levels: would :func:`weighted` make it a likelihood bound? (Training draws bring
            their weights.)
        samples: maps drawn, a thousand at a time. To tell what is nearly a bound from one can take 100,000; what
            happens within the last hundredth of the levels, where much of the log-SNR lies, is hardly seen at all.
        seed: of the draws.

    Raises:
        ValueError: no schedule where it is needed, a weighting for draws that have weights, a path of other tokens.
    """
    if samples < 2:
        raise ValueError(f"a sampler is described by at least two maps, got samples={samples}")
    look = _look(sampler, schedule, weighting)
    generator = Generator().manual_seed(seed)
    rows, weights, distances, levels = [], [], [], 0
    for start in range(0, samples, CHUNK):
        level, weight = look(min(CHUNK, samples - start), generator)
        levels = level[0].numel()
        rows.append(_statistics(level.flatten(1)))
        if weight is not None:
            weights.append(weight.flatten(1).mean(1))
        if path is not None:
            distances.append(_distances(path, level))
    mean, spread, deviation, distinct, context, clear, noisy, bins, clean, noise = (
        torch.cat(row) for row in zip(*rows, strict=True)
    )
    return Description(
        sampler=repr(sampler),
        levels=levels,
        mean=mean,
        spread=spread,
        deviation=deviation,
        distinct=distinct,
        context=context,
        clear=clear,
        noisy=noisy,
        marginal=bins.double().mean(0) / levels,
        at_ends=(float(clean.double().mean()), float(noise.double().mean())),
        coverage=_coverage(distances, samples) if distances else None,
        bound=_test(look, float(torch.cat(weights).mean()), samples, seed) if weights else None,
    )


def _look(
    sampler: LevelSampler | TrainingLevelSampler, schedule: InvertibleSchedule | None, weighting: Weighting | None
) -> Look:
    if weighting is not None and schedule is None:
        raise ValueError("a weighting makes a bound together with a schedule: say describe(…, schedule=…) too")

    def look(batch: int, generator: Generator) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "b n e"] | None]:
        drawn = sampler(batch, generator)
        if isinstance(drawn, Draw):
            if weighting is not None:
                raise ValueError("training draws have weights of their own: leave weighting out")
            if schedule is None:
                raise ValueError(
                    "the levels of training draws are found by their schedule: say describe(…, schedule=…)"
                )
            log_snr, weight = drawn.noise.log_snr.double(), drawn.weight.double()
            if not ((log_snr >= schedule.noise - SLACK) & (log_snr <= schedule.clean + SLACK)).all():
                raise ValueError(f"the draws leave the range of {schedule!r}: give the schedule they were made with")
            level = schedule.level_of(log_snr)
            # the ends, as float32 has them
            level = torch.where(log_snr >= schedule.clean - SLACK, 0.0, level)
            level = torch.where(log_snr <= schedule.noise + SLACK, 1.0, level)
        elif weighting is None or schedule is None:
            return drawn.double(), None
        else:
            level = drawn.double()
            whole = weighted(lambda batch, generator: level, schedule, weighting)(batch, generator)
            log_snr, weight = whole.noise.log_snr, whole.weight
        ordinary = -0.5 * log_snr_rate(schedule, level)[1] * log_snr.exp()
        return level, weight / ordinary

    return look


def _statistics(level: Float[Tensor, "b m"]) -> tuple[Tensor, ...]:
    """Of every map: mean, spread, deviation, distinct levels, whether it has a clean context, is nearly clean and is
    nearly noise, its histogram, and the shares of levels that are exactly clean and exactly noise."""
    low, high = level.aminmax(dim=1)
    clean = level <= CLEAN
    rest_low = level.masked_fill(clean, torch.inf).amin(1)
    share = clean.double().mean(1)
    context = (share >= PART) & (share <= 1 - PART) & (rest_low > NEAR) & (high - rest_low <= NEAR)
    ends = high <= NEAR, low >= 1 - NEAR
    distinct = 1 + level.sort(1).values.diff(dim=1).count_nonzero(1)
    at_ends = ((level == end).double().mean(1) for end in (0, 1))
    return level.mean(1), high - low, level.std(1, correction=0), distinct, context, *ends, histogram(level), *at_ends


def _places() -> Float[Tensor, " k"]:
    return torch.linspace(0, 1, PLACES, dtype=torch.float64)


def _coverage(distances: list[tuple[Tensor, Tensor]], samples: int) -> Coverage:
    nearest, near = (torch.stack(each) for each in zip(*distances, strict=True))
    return Coverage(_places(), nearest.amin(0), near.sum(0) / samples)


def _distances(path: Path, level: Float[Tensor, "b n e"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """At every place of the path: the distance to the nearest of some maps, and how many are near."""
    way = path(_places())
    n, e = level.shape[1:]
    if way.ndim != 3 or way.shape[1] != n or (way.shape[2] != e and 1 not in (way.shape[2], e)):
        raise ValueError(
            f"a path has to have the levels of the maps drawn, ({n}, {e}) or one a token, without batch axes; at one "
            f"place it has {tuple(way.shape[1:])}"
        )
    elements = max(e, way.shape[2])
    way, level = (maps.expand(-1, -1, elements).flatten(1) for maps in (way, level))
    off = torch.cdist(way, level) / way.shape[1] ** 0.5
    return off.amin(1), (off <= NEAR).double().sum(1)


def _test(look: Look, factor: float, samples: int, seed: int) -> BoundTest:
    """The flux test on the same maps, drawn again."""

    def levels(batch: int, generator: Generator) -> Levels:
        level, weight = look(batch, generator)
        assert weight is not None
        return Levels(level, weight / factor if factor > 0 else weight)

    return BoundTest(factor, flux(levels, samples, seed, CHUNK))
