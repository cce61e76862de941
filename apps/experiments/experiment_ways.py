"""Ways to draw in which tokens take steps of their own, and the models that they are tried on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiment_laws import LONG_DEFAULT, LONG_ONE_WAY
from experiment_models import Model

from apd_generate import Recipe

DENSE, ONE_WAY = Model(LONG_DEFAULT), Model(LONG_ONE_WAY)


@dataclass(frozen=True, slots=True)
class Way:
    """How to draw, with as many evaluations as are asked for.

    Args:
    recipe: all but the steps.
    leave_out: see :func:`experiment_drawing.drawn`.
    each: evaluations of a step.
    """

    recipe: Mapping[str, Any]
    leave_out: bool = True
    each: int = 1

    def given(self, evaluations: int) -> Mapping[str, Any]:
        recipe = Recipe(steps=evaluations // self.each, guidance=1.0, eta=1.0, **self.recipe)
        return {"recipe": recipe.to_dict(), "leave_out": self.leave_out}


def guided(uncertainty: str, patience: float, lagged: bool = False) -> Way:
    told = {"uncertainty": uncertainty, "patience": patience, "lagged": lagged}
    return Way({"scheduler": "uncertainty-guided", **told})


TOGETHER = "synchronous"
WAYS: Mapping[str, Way] = {
    TOGETHER: Way({}, leave_out=False),
    "predicted, patience 0": guided("predicted", 0.0),
    "predicted, patience 0.5": guided("predicted", 0.5),
    "predicted, patience 1": guided("predicted", 1.0),
    "predicted, patience 1, lagged": guided("predicted", 1.0, lagged=True),
    "changing, patience 0.5": guided("changing", 0.5),
    "changing, patience 1": guided("changing", 1.0),
    "changing, patience 1, lagged": guided("changing", 1.0, lagged=True),
    "random, patience 1": guided("random", 1.0),
    "dual loop": Way({"scheduler": "dual-loop", "inner": 4, "uncertainty": "predicted"}),
    "look ahead": Way({"look_ahead": True, "uncertainty": "predicted"}, each=2),
    "round robin": Way({"scheduler": "round-robin"}),
}
OF_ONE_WAY = (
    *(TOGETHER, "predicted, patience 1", "predicted, patience 1, lagged"),
    *("changing, patience 1, lagged", "dual loop", "round robin"),
)
WHICH: Mapping[str, tuple[Model, Sequence[str]]] = {
    "all": (DENSE, [*WAYS]),
    "one-way": (ONE_WAY, OF_ONE_WAY),
}
"""Which model, and the ways to draw from it."""
