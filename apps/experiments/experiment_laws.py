"""Laws of training levels, and a small model for each."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from experiment_models import small
from experiment_setting import Setting

from apd_samplers import (
    LevelSampler,
    async_patch,
    clean_context,
    elbo_walk,
    independent,
    logit_normal,
    mean_beta,
    mixture,
    patchwise,
    perlin,
    quad,
    shared,
    truncated_gaussian,
    wavefront,
)
from apd_train import TrainConfig

Grid = tuple[int, int]
Law = Callable[[Grid], LevelSampler]


def tokens(grid: Grid) -> int:
    return grid[0] * grid[1]


def synchronous(grid: Grid) -> LevelSampler:
    """One logit-normal level for all tokens: the stronger of the baselines, and what the others are held against."""
    return shared(tokens(grid), logit_normal())


def shifted(grid: Grid, by: float = 0.5) -> LevelSampler:
    """:func:`synchronous`, nearer to clean images by so many logits."""
    return shared(tokens(grid), logit_normal(-by))


def mixed(*parts: Law, shares: tuple[float, ...] = (0.6, 0.2, 0.2)) -> Law:
    return lambda grid: mixture([(share, part(grid)) for share, part in zip(shares, parts, strict=True)])


SINGLE: dict[str, Law] = {
    "shared-logit-normal": synchronous,
    "shared-uniform": lambda grid: shared(tokens(grid)),
    "async_patch": async_patch,
    "independent": lambda grid: independent(tokens(grid)),
    "patchwise": patchwise,
    "perlin": perlin,
    "mean_beta": lambda grid: mean_beta(tokens(grid)),
    "truncated_gaussian": lambda grid: truncated_gaussian(tokens(grid)),
    "elbo_walk": lambda grid: elbo_walk(tokens(grid)),
    "quad": lambda grid: quad(tokens(grid)),
    "wavefront": wavefront,
    "clean_context": clean_context,
}
MIXED: dict[str, Law] = {
    "shared-50-wavefront-20-context-30": mixed(synchronous, wavefront, clean_context, shares=(0.5, 0.2, 0.3)),
    "shared-60-async_patch-20-context-20": mixed(synchronous, async_patch, clean_context),
    "shared-90-wavefront-5-context-5": mixed(synchronous, wavefront, clean_context, shares=(0.9, 0.05, 0.05)),
    "slightly-shifted-49-truncated_gaussian-49-context-2": mixed(
        partial(shifted, by=0.25), SINGLE["truncated_gaussian"], clean_context, shares=(0.49, 0.49, 0.02)
    ),
    "quad-60-wavefront-20-context-20": mixed(SINGLE["quad"], wavefront, clean_context),
}
DEFAULT = "slightly-shifted-49-truncated_gaussian-49-context-2"
"""Which of them is the library's."""
BASELINES = ("shared-logit-normal", "shared-uniform")
LAWS: dict[str, Law] = {name: SINGLE[name] for name in BASELINES} | MIXED | SINGLE


def of_law(law: Law, setting: Setting) -> TrainConfig:
    """A small model."""
    return replace(small(setting), levels=law)


def long(law: Law, setting: Setting, error_head: bool = False, one_way: bool = False) -> TrainConfig:
    """One that is trained for longer, seven minutes on a core: for tables that draw in many ways. With an error head
    the network is the one that it would be without."""
    steps = setting.at(3000, 8)
    return replace(small(setting), levels=law, steps=steps, error_head=error_head, one_way=one_way)


MIXTURES: dict[str, Law] = {
    BASELINES[0]: synchronous,
    "shared-logit-normal-shifted": shifted,
    "truncated_gaussian": SINGLE["truncated_gaussian"],
    "shared-90-wavefront-5-context-5": LAWS["shared-90-wavefront-5-context-5"],
    "shared-50-truncated_gaussian-50": mixed(synchronous, SINGLE["truncated_gaussian"], shares=(0.5, 0.5)),
    "slightly-shifted-50-truncated_gaussian-50": mixed(
        partial(shifted, by=0.25), SINGLE["truncated_gaussian"], shares=(0.5, 0.5)
    ),
    "slightly-shifted-49-truncated_gaussian-49-context-2": LAWS["slightly-shifted-49-truncated_gaussian-49-context-2"],
    "shifted-50-truncated_gaussian-50": mixed(shifted, SINGLE["truncated_gaussian"], shares=(0.5, 0.5)),
    "shifted-70-truncated_gaussian-30": mixed(shifted, SINGLE["truncated_gaussian"], shares=(0.7, 0.3)),
}
"""What the table of mixtures compares, the bar first."""
LENGTHS = (BASELINES[0], "shared-50-wavefront-20-context-30", DEFAULT)
"""What is trained for longer too in the table of lengths. The first is the bar."""


def longer(law: str) -> str:
    """The name of a model that is trained on it for longer."""
    return "long-synchronous" if law == BASELINES[0] else f"long-{law}"


LONG_DEFAULT, LONG_ONE_WAY = longer(DEFAULT), f"{longer(DEFAULT)}-one-way"
MODELS: dict[str, Callable[[Setting], TrainConfig]] = {
    **{name: partial(of_law, law) for name, law in LAWS.items()},
    **{
        longer(name): partial(long, law, error_head=True)
        for name, law in ({name: LAWS[name] for name in LENGTHS} | MIXTURES).items()
    },
    longer(BASELINES[0]): partial(long, synchronous),
    LONG_ONE_WAY: partial(long, LAWS[DEFAULT], error_head=True, one_way=True),
}
