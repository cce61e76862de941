"""One of the contexts that guidance compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from apd_schedules import Denoiser

from ._query import Query, same
from ._renoised_region import RenoisedRegion


@dataclass(frozen=True, slots=True)
class Branch:
    """A context in which the denoiser is asked, and what its guess counts.

    Args:
        weight: any finite number; those of a :func:`composite` sum to 1.
        cond: conditions that replace those of equal name, such as ``{"label": null_label}``.
        renoise: brings some tokens to a noisier level, which takes from the context what they told.
        denoise: another model that is asked instead.
    """

    weight: float
    cond: Mapping[str, Any] = field(default_factory=dict)
    renoise: RenoisedRegion | None = None
    denoise: Denoiser | None = None

    def query(self, asked: Query) -> Query:
        """In this context; the query itself where the context is the same."""
        if not self.cond and self.renoise is None:
            return asked
        z, noise = (asked.z, asked.noise) if self.renoise is None else self.renoise(asked.z, asked.noise)
        return Query(z, noise, {**asked.cond, **self.cond})

    def like(self, other: "Branch") -> bool:
        """The contexts are the same. Tensors are compared by value, which waits for the device."""
        return (
            self.denoise is other.denoise
            and self.cond.keys() == other.cond.keys()
            and all(_equal(value, other.cond[name]) for name, value in self.cond.items())
            and _same_renoise(self.renoise, other.renoise)
        )


def _same_renoise(a: RenoisedRegion | None, b: RenoisedRegion | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.level == b.level and a.schedule == b.schedule and a.noise is b.noise and _equal(a.region, b.region)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.dtype == b.dtype and a.device == b.device and torch.equal(a, b))
    return same(a, b)
