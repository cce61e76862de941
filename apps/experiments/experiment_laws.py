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


def mixed(first: Law, second: Law, third: Law | None = None, shares: tuple[float, ...] = (0.6, 0.2, 0.2)) -> Law:
    parts = [first, second] if third is None else [first, second, third]
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
    "shared-50-wavefront-20-context-30": mixed(synchronous, wavefront, clean_context, (0.5, 0.2, 0.3)),
    "shared-60-async_patch-20-context-20": mixed(synchronous, async_patch, clean_context),
    "shared-90-wavefront-5-context-5": mixed(synchronous, wavefront, clean_context, (0.9, 0.05, 0.05)),
    "shared-90-truncated_gaussian-5-context-5": mixed(
        synchronous, SINGLE["truncated_gaussian"], clean_context, (0.9, 0.05, 0.05)
    ),
    "quad-60-wavefront-20-context-20": mixed(SINGLE["quad"], wavefront, clean_context),
}
DEFAULT, LONG_DEFAULT = "shared-90-wavefront-5-context-5", "long-90"
"""Which of them is the library's, and a model that is trained on it for longer."""
BASELINES = ("shared-logit-normal", "shared-uniform")
LAWS: dict[str, Law] = {name: SINGLE[name] for name in BASELINES} | MIXED | SINGLE


def of_law(law: Law, setting: Setting) -> TrainConfig:
    """A small model."""
    return replace(small(setting), levels=law)


def long(law: Law, setting: Setting, error_head: bool = False, one_way: bool = False) -> TrainConfig:
    """One that is trained for longer, seven minutes on a core: for tables that compare ways to draw. With an error head
    the network is the one that it would be without."""
    steps = setting.at(3000, 8)
    return replace(small(setting), levels=law, steps=steps, error_head=error_head, one_way=one_way)


MODELS: dict[str, Callable[[Setting], TrainConfig]] = {
    **{name: partial(of_law, law) for name, law in LAWS.items()},
    "long-synchronous": partial(long, synchronous),
    "long-50": partial(long, MIXED["shared-50-wavefront-20-context-30"], error_head=True),
    "long-90": partial(long, LAWS[DEFAULT], error_head=True),
    "long-90-one-way": partial(long, LAWS[DEFAULT], error_head=True, one_way=True),
}
LENGTHS = {
    "shared-logit-normal": ("shared-logit-normal", "long-synchronous"),
    "shared-50-wavefront-20-context-30": ("shared-50-wavefront-20-context-30", "long-50"),
    "shared-90-wavefront-5-context-5": ("shared-90-wavefront-5-context-5", "long-90"),
}
"""Levels, and models that are trained on them, from the shortest to the longest. The first is the bar."""
