"""A number that can be quoted: with its name, its error, its floor and what it was taken with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ._estimate import Estimate

TITLES = {
    "kid": "KID",
    "fd": "FD",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
}
"""Names of the metrics of sets, as they are printed."""

INCEPTION = "inception"
"""The extractor with which papers quote FID and KID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A metric of a set of generated images.

    Args:
        name: such as ``"KID-efficientnet-lite0-224@500"``; see :func:`metric_name`.
        value: of the metric.
        standard_error: over samples of the same size; ``None`` where it is not known.
        floor: the same metric of real images against real ones: what a perfect model would reach. ``None`` where there
            are no real images to split.
        n: generated images.
        note: what has to be read with the number; empty if nothing has.
        taken_with: extractor, hash of its weights, resize, seeds, hash of the reference: all that the number depends
            on, as JSON has it.
    """

    name: str
    value: float
    standard_error: float | None = None
    floor: Estimate | None = None
    n: int
    note: str = ""
    taken_with: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"taken_with": dict(self.taken_with)}

    def __str__(self) -> str:
        floor = "" if self.floor is None else f" (real against real {self.floor})"
        note = f"; {self.note}" if self.note else ""
        return f"{self.name} {Estimate(self.value, self.standard_error)}{floor}{note}"


def metric_name(metric: str, extractor: str, n: int) -> str:
    """What a metric of n images is called: ``"FD-efficientnet-lite0-224@500"``, and ``"FID@50000"`` of Inception.

    FID is the Fréchet distance of Inception's features and of no others; plain KID likewise the kernel distance. All
    other numbers carry their extractor's name.

    Args:
        metric: one of ``kid``, ``fd``, ``precision``, ``recall``, ``density``, ``coverage``.
        extractor: its name.
        n: generated images.

    Raises:
        ValueError: another metric.
    """
    if metric not in TITLES:
        raise ValueError(f"a metric of features is one of {', '.join(TITLES)}, got {metric!r}")
    if extractor == INCEPTION and metric in ("fd", "kid"):
        return f"{'FID' if metric == 'fd' else 'KID'}@{n}"
    return f"{TITLES[metric]}-{extractor}@{n}"
