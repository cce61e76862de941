"""Questions to one denoiser, put in as few calls as can be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap, Posterior

from .._checks import check_mean


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What a denoiser is asked. Two queries are the same if they are one object."""

    z: Float[Tensor, "*batch n d"]
    noise: NoiseMap
    cond: Mapping[str, Any]


def ask_together(denoise: Denoiser, queries: Sequence[Query]) -> list[Posterior]:
    """The answer to each query; all that fit each other are stacked along the first batch axis and go in one call.

    They fit if their conditions have the same names, and each condition either belongs to the batch in both, as
    tensors of one shape and dtype whose first axis has the length of the tokens' first axis, or is the same for both:
    one object, or equal numbers or strings. Other tensors are not compared, since that would wait for the device.
    """
    left, answers = list(queries), dict[int, Posterior]()
    while left:
        group = [query for query in left if _fit(left[0], query)]
        answers.update(zip(map(id, group), _call(denoise, group), strict=True))
        left = [query for query in left if id(query) not in answers]
    return [answers[id(query)] for query in queries]


def same(a: Any, b: Any) -> bool:
    """One object, or equal numbers or strings."""
    return a is b or (isinstance(a, int | float | str) and isinstance(b, int | float | str) and a == b)


def _call(denoise: Denoiser, group: Sequence[Query]) -> list[Posterior]:
    head = group[0]
    if len(group) == 1:
        return [denoise(head.z, head.noise, **head.cond)]
    join = torch.cat if head.z.ndim > 2 else torch.stack
    z = join([query.z for query in group])
    cond = {
        name: torch.cat([query.cond[name] for query in group]) if _of_batch(value, head.z) else value
        for name, value in head.cond.items()
    }
    if all(query.noise is head.noise for query in group) and _serves_all(head.noise, head.z):
        noise = head.noise
    else:
        batch = head.z.shape[:-2]
        noise = NoiseMap(join([q.noise.log_snr.expand(*batch, *q.noise.log_snr.shape[-2:]) for q in group]))
    found = denoise(z, noise, **cond)
    check_mean(found, z)
    mean = found.mean.reshape(len(group), *head.z.shape)
    log_var = [None] * len(group) if found.log_var is None else found.log_var.reshape(mean.shape[:-1])
    # The cost is said of a row, and each query has its own rows in the call.
    return [Posterior(*each, found.evaluations, found.token_evaluations) for each in zip(mean, log_var, strict=True)]


def _fit(a: Query, b: Query) -> bool:
    return a.cond.keys() == b.cond.keys() and all(_join(a.cond[name], b.cond[name], a.z) for name in a.cond)


def _join(a: Any, b: Any, z: Tensor) -> bool:
    if _of_batch(a, z) and _of_batch(b, z):
        return a.shape == b.shape and a.dtype == b.dtype
    return same(a, b)


def _of_batch(value: Any, z: Tensor) -> bool:
    return isinstance(value, Tensor) and z.ndim > 2 and value.shape[:1] == z.shape[:1]


def _serves_all(noise: NoiseMap, z: Tensor) -> bool:
    """The map has no axis for the first axis of the tokens, or length 1 there: it fits a longer one as it is."""
    return noise.log_snr.ndim < z.ndim or (z.ndim > 2 and len(noise.log_snr) == 1)
