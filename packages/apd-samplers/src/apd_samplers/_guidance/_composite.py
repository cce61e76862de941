"""The general rule: guesses in several contexts, extrapolated."""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from apd_schedules import Denoiser, Posterior

from .._named import named
from ._branch import Branch
from ._guided import Answer, Calls, Guidance, Guided
from ._query import Query


@named
def composite(branches: Sequence[Branch]) -> Guidance:
    """``x̂ = Σ_k w_k x̂(context k)`` with ``Σ_k w_k = 1``.

    Contexts differ in conditions (classifier-free guidance), in how noisy some tokens are (input guidance; history
    guidance of Song et al. 2025, arXiv:2502.06764) or in the model that is asked (autoguidance). Said of ``x``; where a
    token's level is the same in all contexts it is the same rule for eps, v, flow and score. Where it is not, nothing
    is combined: the first branch's mean passes through.

    Branches in the same context are evaluated once, those of weight 0 not at all. The others go through the network in
    one call, as a batch of as many times the size, and each counts as an evaluation. Nested guidance is still one call.
    A condition belongs to the batch if it is a tensor whose first axis is as long as the batch's first; it is stacked
    with the tokens. Any other must be one object, or equal numbers or strings, in all branches; a branch where it is
    not, and with tokens without batch axes any branch whose conditions differ, has a call of its own.

    The denoiser must not hold tensors of the batch itself. Give it such conditions by name, as arguments or bound with
    ``functools.partial``, or put the wrapper that holds them outside the guidance.

    ``log_var`` is the first branch's. It is the error of that guess; the combination is no posterior mean, and the
    weighted sum of variances is the error of nothing and may be negative. Put the conditional model first.

    Args:
        branches: the first of weight not 0 is the one that passes through and lends its ``log_var``.

    Raises:
        ValueError: no branches, or weights that are not finite or do not sum to 1.
    """
    kept = _merged(branches)

    def guide(denoise: Denoiser) -> Denoiser:
        def plan(query: Query, calls: Calls) -> Answer:
            queries = [branch.query(query) for branch in kept]
            answers = [
                calls.ask(denoise if branch.denoise is None else branch.denoise, asked)
                for branch, asked in zip(kept, queries, strict=True)
            ]
            if len(kept) == 1:
                return answers[0]
            moved = [asked.noise for asked in queries if asked.noise is not query.noise]

            def answer() -> Posterior:
                first, *others = (each() for each in answers)
                mean = first.mean
                for branch, other in zip(kept[1:], others, strict=True):
                    mean = mean + branch.weight * (other.mean - first.mean)
                if moved:
                    equal = (noise.log_snr == query.noise.log_snr for noise in moved)
                    mean = torch.where(functools.reduce(torch.logical_and, equal), mean, first.mean)
                return Posterior(mean, first.log_var)

            return answer

        return Guided(plan)

    return guide


def _merged(branches: Sequence[Branch]) -> list[Branch]:
    """One branch a context, none of weight 0."""
    weights = [branch.weight for branch in branches]
    # To the rounding of float32, which weights may come from.
    if not all(map(math.isfinite, weights)) or abs(math.fsum(weights) - 1) > 1e-6 * sum(map(abs, weights)):
        raise ValueError(f"branches need finite weights that sum to 1, got {weights}")
    merged: list[Branch] = []
    for branch in branches:
        place = next((k for k, other in enumerate(merged) if other.like(branch)), None)
        if place is None:
            merged.append(branch)
        else:
            merged[place] = replace(merged[place], weight=merged[place].weight + branch.weight)
    return [branch for branch in merged if branch.weight != 0]
