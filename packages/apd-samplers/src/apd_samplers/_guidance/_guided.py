"""Guided denoisers say what they want to know before anything is asked, so that all of it goes in one call.

A guided denoiser is a plan: from a query to the questions that it puts to other denoisers, and to how it makes its
answer of theirs. Those others may be guided too. The plans of all are laid first, each for the batch as it is, so
masks, noise sources and conditions have its shape at any depth; only what is left for networks is stacked.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap, Posterior

from .._checks import check_map
from .._cost import token_evaluations
from ._query import Query, ask_together

Guidance = Callable[[Denoiser], Denoiser]

Answer = Callable[[], Posterior]
"""There once the calls are made."""


class Calls:
    """One evaluation of a guided denoiser: what is asked, and what was answered.

    The same query to the same denoiser is one question, whoever asks. Sameness is that of objects: no number is
    looked at.
    """

    def __init__(self) -> None:
        # By the ids of denoiser and query; the references in the values keep the ids taken.
        self._answers: dict[tuple[int, int], tuple[Denoiser, Query, Answer]] = {}
        self._networks: dict[int, tuple[Denoiser, list[Query]]] = {}
        self._found: dict[tuple[int, int], Posterior] = {}

    def ask(self, denoise: Denoiser, query: Query) -> Answer:
        """The answer to come. Conditions bound by name with ``functools.partial`` count as the query's own."""
        key = id(denoise), id(query)
        if key not in self._answers:
            if isinstance(denoise, Guided):
                answer = functools.cache(denoise.plan(query, self))
            elif isinstance(denoise, functools.partial) and not denoise.args:
                bound = Query(query.z, query.noise, {**denoise.keywords, **query.cond})
                answer = self.ask(denoise.func, bound)
            else:
                self._networks.setdefault(id(denoise), (denoise, []))[1].append(query)
                answer = lambda: self._found[key]
            self._answers[key] = denoise, query, answer
        return self._answers[key][-1]

    def make(self) -> tuple[int, int]:
        """Asks the networks. Returns what it cost in evaluations, of the network and of tokens."""
        for denoise, queries in self._networks.values():
            found = ask_together(denoise, queries)
            self._found.update({(id(denoise), id(query)): one for query, one in zip(queries, found, strict=True)})
        answers = self._found.values()
        return sum(posterior.evaluations for posterior in answers), sum(map(token_evaluations, answers))


@dataclass(frozen=True, slots=True, eq=False)
class Guided:
    """A denoiser made of others.

    Args:
        plan: asks what it needs of the calls and returns the answer to the query, as a function that is called once
            the calls are made. What that answer says of its cost is not used: the calls count.
    """

    plan: Callable[[Query, Calls], Answer]

    def __call__(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap, /, **cond: Any) -> Posterior:
        check_map(noise, z)
        calls = Calls()
        answer = calls.ask(self, Query(z, noise, cond))
        evaluations, of_tokens = calls.make()
        return replace(answer(), evaluations=evaluations, token_evaluations=of_tokens)
