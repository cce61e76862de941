"""How should steps be taken? Solvers, noise in the steps, and guidance, by network evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiment_drawing import drawn
from experiment_jobs import Job
from experiment_kid import floors, over_models, pulled, said_floors
from experiment_laws import LONG_DEFAULT
from experiment_measures import SIDE, classes, said
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number

from apd_generate import Recipe

BAR = "long-synchronous"
EVALUATIONS = (8, 16, 32, 64)
"""Of the network for an image drawn all at once."""
GUIDED = (16, 32, 64, 100)
"""The last is how images are drawn by default, 50 steps of two."""
OF_ORDER = (48, 96, 192)
"""Of one drawn in raster order, 16 cells."""
FULL = {"all at once": 200, "guided": 200, "raster": 100}
QUICK = dict.fromkeys(FULL, 16)
"""Images drawn."""
GUIDANCE = 2.0
STEADY = "ddim, eta 0"
"""What the other ways are compared with."""
EXPLAINED = f"""\
KID is of {{drawn[all at once]}} images, of {{drawn[raster]}} in raster order, over training seeds. *Evaluations* are of
the network, for each image: a step of heun takes two, so does a guided one. *ddim* with eta 0 is deterministic, with
eta 1 ancestral. *Guided* is classifier-free guidance with scale {GUIDANCE:g}; the rest has none. *Minus eta 0* is the
difference from deterministic steps of as many evaluations, *minus the bar* that from the model that is trained on one
level for all and draws the same way; both are of the same seeds of training and of drawing.
"""


@dataclass(frozen=True, slots=True)
class Way:
    """Args:
    recipe: all but the steps.
    models: that draw so.
    each: evaluations of a step.
    """

    recipe: Mapping[str, Any]
    models: Sequence[str] = (BAR, LONG_DEFAULT)
    each: int = 1

    def at(self, evaluations: int) -> Recipe:
        return Recipe(steps=evaluations // self.each, **self.recipe)


PLAIN = {"guidance": 1.0}
NOISY = {f"ddim, eta {eta:g}": {"eta": eta} for eta in (0.0, 1.0)}
OTHERS = {"heun": 2, "dpm-solver++": 1, "adams": 1}
"""Solvers, and evaluations of a step."""
TASKS: Mapping[str, tuple[Sequence[int], Mapping[str, Way]]] = {
    "all at once": (
        EVALUATIONS,
        {name: Way({**PLAIN, **told}) for name, told in NOISY.items()}
        | {name: Way({**PLAIN, "solver": name}, (LONG_DEFAULT,), each) for name, each in OTHERS.items()},
    ),
    "guided": (
        GUIDED,
        {name: Way({"guidance": GUIDANCE, **NOISY[name]}, each=2) for name in (STEADY, "ddim, eta 1")},
    ),
    "raster": (
        OF_ORDER,
        {name: Way({**PLAIN, "order": "raster", "cells": 4, **NOISY[name]}) for name in (STEADY, "ddim, eta 1")},
    ),
}
"""What is drawn: with how many evaluations, and in which ways."""


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    training, drawing = [], []
    for seed in range(seeds):
        of = {name: Model(name, seed) for name in (BAR, LONG_DEFAULT)}
        training += [model.job(setting) for model in of.values()]
        for task, (evaluations, ways) in TASKS.items():
            some = setting.at(evaluations, evaluations[:2])
            for name, way in ways.items():
                recipes = {str(each): way.at(each).to_dict() for each in some}
                for model in way.models:
                    given = {"model": asdict(of[model]), "recipes": recipes, "count": setting.at(FULL, QUICK)[task]}
                    drawing.append(
                        Job(_name(model, seed, task, name), by_recipe, given, (of[model].job(setting).name,))
                    )
    return [Job("floors/kid", floors), *training, *drawing]


def by_recipe(
    setting: Setting, model: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]], count: int
) -> Mapping[str, Any]:
    """Kernel distances of images that a model draws, by what a recipe is called."""
    pretrained, seeds, found = Model(**model).load(setting), range(count), {}
    for name, recipe in recipes.items():
        made = drawn(pretrained, Recipe.from_dict(recipe), seeds, classes(seeds, setting))
        found[name] = {"kid": pulled(made.images, setting), "evaluations": made.evaluations}
    return found


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    rows = [
        row_of(task, name, model, asked, seeds, results)
        for task, (evaluations, ways) in TASKS.items()
        for name, way in ways.items()
        for model in way.models
        for asked in setting.at(evaluations, evaluations[:2])
    ]
    return {
        "bar": BAR,
        "default": LONG_DEFAULT,
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": results["floors/kid"],
        "rows": rows,
    }


def row_of(task: str, name: str, model: str, asked: int, seeds: int, results: Results) -> Mapping[str, Any]:
    """Of a way, over training seeds; its differences from deterministic steps and from the bar, where there are any."""
    way = TASKS[task][1][name]

    def kids(model: str, name: str) -> list[Mapping[str, Any]]:
        return [results[_name(model, seed, task, name)][str(asked)]["kid"] for seed in range(seeds)]

    each, beside_bar = kids(model, name), model != BAR and BAR in way.models
    return {
        "task": task,
        "way": name,
        "model": model,
        "evaluations": results[_name(model, 0, task, name)][str(asked)]["evaluations"],
        "recipe": way.at(asked).to_dict(),
        "kid": said(over_models(each)),
        "kid_of_seeds": [one["value"] for one in each],
        "minus_steady": None if name == STEADY else said(over_models(each, kids(model, STEADY))),
        "minus_bar": said(over_models(each, kids(BAR, name))) if beside_bar else None,
    }


def page(record: Mapping[str, Any]) -> str:
    called = {record["bar"]: "one level for all", record["default"]: "the default levels"}
    lines = [EXPLAINED.format(drawn=record["numbers"]), f"{said_floors(record['floors'])}\n"]
    for task in TASKS:
        rows = [row for row in record["rows"] if row["task"] == task]
        lines += [
            f"{task[0].upper()}{task[1:]}:\n",
            grid(
                ["trained on, way", "evaluations", "KID", "minus eta 0", "minus the bar"],
                [
                    [
                        f"{called[row['model']]}, {row['way']}",
                        str(row["evaluations"]),
                        *(number(row[name]) for name in ("kid", "minus_steady", "minus_bar")),
                    ]
                    for row in rows
                ],
            ),
        ]
    return "\n".join(lines)


def _name(model: str, seed: int, task: str, way: str) -> str:
    """Of a job, as in a path."""
    return f"solvers/{model}-{seed}-{task}-{way}".replace(", ", "-").replace(" ", "-")


TABLE = Table("solvers", "Solvers, noise in the steps and guidance: quality by evaluations", jobs, record, page)
