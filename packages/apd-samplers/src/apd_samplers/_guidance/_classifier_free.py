"""Away from the guess without conditions."""

from collections.abc import Mapping
from typing import Any

from .._named import named
from ._branch import Branch
from ._composite import composite
from ._guided import Guidance
from ._modulated import GuidanceScale, modulated


@named
def classifier_free(scale: GuidanceScale, null: Mapping[str, Any]) -> Guidance:
    """``x̂(null) + scale (x̂(cond) - x̂(null))`` (Ho & Salimans 2022, arXiv:2207.12598).

    Said of ``x``; with equal ``z`` and map it is the same rule for eps, v, flow and score. One call of the network for
    both if they fit a batch: see :func:`composite`.

    Args:
        scale: 1 is the conditional model itself and costs one evaluation; 0 the unconditional one. A function of the
            noise map gives each token its own.
        null: the conditions that stand for none, such as ``{"label": null_label}``. They replace those of equal name.
    """
    if callable(scale):
        return modulated(classifier_free(2.0, null), lambda noise: scale(noise) - 1)
    return composite([Branch(scale), Branch(1 - scale, null)])
