"""All metrics of a set of generated images, each beside what real images reach against real ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Generator, Tensor

from ._estimate import Estimate
from ._frechet import FrechetDistance, Moments, frechet_distance
from ._kernel_distance import kernel_distance
from ._neighbours import density_coverage, precision_recall
from ._samples import split
from ._score import TITLES, Score, metric_name

FEWEST = 24
"""Real images that are split for a floor: twelve a side are what density and coverage need."""


def quality(
    generated: Float[Tensor, "n d"],
    reference: Float[Tensor, "m e"] | Moments,
    *,
    extractor: str,
    generator: Generator,
    metrics: Sequence[str] = tuple(TITLES),
    taken_with: Mapping[str, Any] | None = None,
    floors: bool = True,
) -> tuple[Score, ...]:
    """The metrics asked for, in that order, with standard errors and floors.

    A floor is the metric of n real images, or of half of them where there are not 2n, against the remaining ones, split
    at random. ``taken_with`` says how many they were (``floor_generated``, ``floor_reference``): distances that are
    biased (all but the kernel distance) can be held against a floor of about the same numbers only.

    Args:
        generated: features of the generated images.
        reference: features of real images. Of moments alone there is the Fréchet distance and no floor.
        extractor: name of what took the features.
        generator: of the split.
        metrics: some of ``kid``, ``fd``, ``precision``, ``recall``, ``density``, ``coverage``.
        taken_with: what else the numbers depend on; it is kept in each :class:`Score`.
        floors: without them it takes half as long.

    Raises:
        ValueError: another metric; one that moments cannot tell; sets that a metric refuses.
    """
    names = [metric_name(metric, extractor, len(generated)) for metric in metrics]
    told: dict[str, Any] = {"extractor": extractor}
    least: Mapping[str, Estimate | FrechetDistance] = {}
    if isinstance(reference, Moments):
        if others := [metric for metric in metrics if metric != "fd"]:
            raise ValueError(f"of moments alone there is only fd: {', '.join(others)} needs the reference's features")
        told["reference_images"] = reference.n
    else:
        told["reference_images"] = len(reference)
        if floors and len(reference) >= FEWEST:
            some, others = split(reference, min(len(generated), len(reference) // 2), generator=generator)
            least = _measure(some, others, metrics)
            told |= {"floor_generated": len(some), "floor_reference": len(others)}
    found = _measure(generated, reference, metrics)
    return tuple(
        Score(
            name=name,
            value=found[metric].value,
            standard_error=found[metric].standard_error,
            floor=Estimate(least[metric].value, least[metric].standard_error) if least else None,
            n=len(generated),
            note=_note(found[metric]),
            taken_with={**(taken_with or {}), **told},
        )
        for metric, name in zip(metrics, names, strict=True)
    )


def _measure(
    generated: Float[Tensor, "n d"], reference: Float[Tensor, "m e"] | Moments, metrics: Sequence[str]
) -> dict[str, Estimate | FrechetDistance]:
    found: dict[str, Estimate | FrechetDistance] = {}
    if "fd" in metrics:
        found["fd"] = frechet_distance(generated, reference)
    if isinstance(reference, Moments):
        return found
    if "kid" in metrics:
        found["kid"] = kernel_distance(generated, reference)
    if {"precision", "recall"} & set(metrics):
        shares = precision_recall(generated, reference)
        found |= {"precision": shares.precision, "recall": shares.recall}
    if {"density", "coverage"} & set(metrics):
        near = density_coverage(generated, reference)
        found |= {"density": near.density, "coverage": near.coverage}
    return found


def _note(found: Estimate | FrechetDistance) -> str:
    if isinstance(found, Estimate) or not found.rank_deficient:
        return ""
    return f"no more images than the {found.d} dimensions: comparable at equal numbers of images only"
