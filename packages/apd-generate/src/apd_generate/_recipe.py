"""How images are drawn, as data that can be written down and read back."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_type_hints

from apd_models import DiT

from ._kinds import from_json, mismatch

SchedulerName = Literal[
    "synchronous",
    "sequential",
    "staggered",
    "sliding-window",
    "round-robin",
    "uncertainty-guided",
    "most-certain-first",
    "dual-loop",
]
OrderName = Literal["raster", "random", "checkerboard", "coarse-to-fine", "spiral", "hilbert", "drawn"]
SolverName = Literal["ddim", "euler", "heun", "dpm-solver++", "adams"]
NoiseScheduleName = Literal["rectified-flow", "cosine", "linear", "vp-beta", "edm"]
UncertaintyName = Literal["predicted", "changing", "random"]
Method = Literal["native", "replacement", "repaint"]

ORDERED = ("sequential", "staggered", "sliding-window")
BY_UNCERTAINTY = ("uncertainty-guided", "most-certain-first", "dual-loop")


class RecipeError(ValueError):
    """A recipe that cannot be followed. The message is one line and says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How images are drawn: all but the model, the seeds, the classes and what is known of the images.

    What is left out, ``None``, is filled in by :meth:`resolved`. A field that has no meaning for the chosen scheduler,
    solver or method must be left out.
    """

    scheduler: SchedulerName | None = None
    """Which noise maps lead from noise to image. synchronous: all tokens together. sequential: one turn of the order
    after the other. staggered: turns overlap, which draws better images than sequential of the same cells.
    sliding-window: a window of turns slides over the image. round-robin: interleaved groups move in turn.
    uncertainty-guided: certain tokens take long steps, uncertain ones short ones. most-certain-first: the model chooses
    the order. dual-loop: certain tokens go ahead and the others follow. By default sequential if an order is given,
    else synchronous."""
    order: OrderName | None = None
    """Of sequential, staggered and sliding-window: which tokens come first. drawn: an order of your own. By default
    raster."""
    drawn: tuple[tuple[float, ...], ...] | None = None
    """Your own order: a number for each token, rows of columns; the smallest comes first."""
    steps: int | None = None
    """Steps of the whole way. By default 50; 100 for staggered, sliding-window and round-robin; 8 a turn for sequential
    and most-certain-first, whose turns are all of as many steps, one at least; 250 for the method repaint, which goes
    back and takes several times as many."""
    cells: int | None = None
    """Of the orders raster and random: cells a side that the image is cut into. By default 4; every token for staggered
    and sliding-window."""
    groups: int | None = None
    """Turns that the orders spiral, hilbert and drawn, and most-certain-first, are merged into, by default 16; groups
    of round-robin, by default 4."""
    order_seed: int | None = None
    """Of the random order; by default 0."""
    width: float | None = None
    """Of staggered: share of the way that each token takes, in (0, 1]; by default 0.5."""
    active: float | None = None
    """Of sliding-window: turns in the window, at least 1; by default a quarter of all."""
    overlap: float | None = None
    """Of most-certain-first: share of a group's way that the next one shares, in [0, 1); by default 0."""
    share: float | None = None
    """Of dual-loop and look-ahead: part of the tokens that are certain; by default 0.4."""
    inner: int | None = None
    """Of dual-loop: small steps in each large one; by default 5."""
    patience: float | None = None
    """Of uncertainty-guided: from 0, all tokens move from the first step, to 1, certain ones wait as long as they can;
    by default 0.5."""
    lagged: bool = False
    """Of uncertainty-guided: choose who moves by what was last seen of each token, and compute only these tokens. For
    models with one-way attention no number changes by what is left out; others see tokens at rest as they were when
    they last looked, which is an approximation."""
    uncertainty: UncertaintyName | None = None
    """What schedulers that go by uncertainty read. predicted: the model's error head. changing: how the guess changes
    from step to step. random: a control that says nothing. By default changing; of dual-loop and look-ahead predicted,
    if the model has an error head."""
    restarts: int = 0
    """Rounds at the end in which some tokens go back to noise and are made again among the others."""
    restart_share: float | None = None
    """Part of the tokens in each round; by default 0.25."""
    restart_steps: int | None = None
    """Steps of each round; by default 20."""
    look_ahead: bool = False
    """Guess uncertain tokens with the certain ones a step ahead: twice the evaluations, for models with an error
    head."""
    solver: SolverName = "ddim"
    """How tokens move from one map to the next. ddim and euler: first order. heun: second, two evaluations a step.
    dpm-solver++: second. adams: up to fourth."""
    eta: float | None = None
    """Of ddim: 0 is deterministic, 1 ancestral sampling; by default 1, with churn 0."""
    adams_order: int | None = None
    """Of adams: 1 to 4; by default 2."""
    churn: float = 0.0
    """Noise put on top of the solver's steps: 0 is none."""
    guidance: float | None = None
    """Scale of classifier-free guidance; 1 is none and takes half the evaluations. By default 2 with classes."""
    guidance_interval: tuple[float, float] | None = None
    """Noise levels (0 clean, 1 noise) within which the class guides; everywhere by default."""
    autoguidance: float | None = None
    """Scale of guidance by a weaker model, which has to be given; 1 is none."""
    input_guidance: float = 0.0
    """How much more the known pixels count: 0 is the model itself, 0.5 to 1 follow them a little more closely, 5 and
    more make images worse (docs/results.md, guidance). Takes twice the evaluations. Only where something is known."""
    context_level: float | None = None
    """Of input guidance: the noise level that known tokens are put to in the guess that is guided away from; by
    default 1, which takes them away."""
    method: Method = "native"
    """How known pixels are kept. native: they are clean and the rest is made given them. replacement and repaint: the
    usual baselines for models with one level for all tokens, which put them back at every step."""
    jump: int | None = None
    """Of repaint: steps up at a time; by default 10."""
    resamples: int | None = None
    """Of repaint: how often each stretch is gone down; by default 10."""
    noise_schedule: NoiseScheduleName = "rectified-flow"
    """Which log-SNR belongs to which level: how the steps are spread."""
    shift: float = 0.0
    """Nats by which the schedule's log-SNR is shifted, its ends kept: negative spends more steps at high noise."""

    def __post_init__(self) -> None:
        _check_kinds({item.name: getattr(self, item.name) for item in fields(self)})
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else () if value is None else (value,):
                if not (least <= number <= most and math.isfinite(number)):
                    raise RecipeError(f"{name} must be {_between(least, most)}, got {_number(number)}")
        for name in ("width", "share", "restart_share"):
            if getattr(self, name) == 0:
                raise RecipeError(f"{name} is a part of something, above 0, got 0")
        if self.overlap == 1:
            raise RecipeError("overlap must be below 1: at 1 no turn would come after another")
        if self.guidance_interval is not None and self.guidance_interval[0] > self.guidance_interval[1]:
            low, high = self.guidance_interval
            raise RecipeError(f"guidance_interval goes from low to high, got {low:g} to {high:g}")
        if self.drawn is not None:
            if not self.drawn or len({len(row) for row in self.drawn}) != 1 or not self.drawn[0]:
                raise RecipeError("a drawn order has rows of equal length, a number for each token")
            if not all(math.isfinite(value) for row in self.drawn for value in row):
                raise RecipeError("a drawn order has a finite number for each token")

    def resolved(self, model: DiT) -> "Recipe":
        """With every default filled in, as it is followed and written down.

        Raises:
            RecipeError: a field that has no meaning here, or that this model cannot follow.
        """
        from ._defaults import defaults  # it reads recipes

        return defaults(self, model)

    def without_class(self) -> "Recipe":
        """As it is followed where no class is told: nothing is guided by one."""
        return replace(self, guidance=None, guidance_interval=None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without what is left out."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: _plain(value) for name, value in found.items() if value is not None}

    @staticmethod
    def from_dict(record: Any) -> "Recipe":
        """A recipe from what :meth:`to_dict` made.

        Raises:
            RecipeError: a field that there is not, or a value that is not of its kind.
        """
        if not isinstance(record, dict):
            raise RecipeError(f"a recipe is an object of named fields, got {type(record).__name__}")
        kinds = get_type_hints(Recipe)
        for name in record:
            if name not in kinds:
                raise RecipeError(f"a recipe has no field {str(name)[:40]!r}")
        values = {name: from_json(value, kinds[name]) for name, value in record.items()}
        _check_kinds(values)
        return Recipe(**values)


RANGES: dict[str, tuple[int | float, int | float]] = {
    **dict.fromkeys(("steps", "cells", "groups", "inner", "restart_steps", "jump", "resamples"), (1, 100_000)),
    **dict.fromkeys(("width", "overlap", "share", "patience", "restart_share", "eta", "context_level"), (0, 1)),
    "guidance_interval": (0, 1),
    "active": (1, math.inf),
    "adams_order": (1, 4),
    "restarts": (0, 1000),
    "order_seed": (0, 2**63 - 1),
    **dict.fromkeys(("guidance", "autoguidance"), (-1000, 1000)),
    "input_guidance": (-1, 1000),
    "churn": (0, 1000),
    "shift": (-20, 20),
}
"""From the least value of a field to its greatest."""


def _check_kinds(values: dict[str, Any]) -> None:
    kinds = get_type_hints(Recipe)
    for name, value in values.items():
        wrong = mismatch(value, kinds[name])
        if wrong is not None:
            raise RecipeError(f"{name} must be {wrong}, got {value!r:.60}")


def _number(number: int | float) -> str:
    """However large."""
    if isinstance(number, int) and abs(number) >= 10**20:
        return "far more" if number > 0 else "far less"
    return f"{number:g}"


def _between(least: int | float, most: int | float) -> str:
    if most == math.inf:
        return f"at least {least}"
    return f"from {least} to {most:,}"


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
