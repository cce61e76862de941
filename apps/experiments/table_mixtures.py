"""Which mixture is to be the default? Those that came near, trained for longer, drawn by few steps and by many."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experiment_columns import COLUMNS, FULL, QUICK, jobs_of, over, page_of, row_of, summed
from experiment_jobs import Job
from experiment_kid import floors, over_models, said_floors
from experiment_laws import DEFAULT, MIXTURES, MODELS, longer
from experiment_measures import SIDE, said
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number
from table_solvers import GUIDANCE, by_recipe

from apd_generate import Recipe

ANCESTRAL = {"guidance": 1.0, "eta": 1.0}
WAYS: Mapping[str, Recipe] = {
    "32 steps": Recipe(steps=32, **ANCESTRAL),
    "64 steps": Recipe(steps=64, **ANCESTRAL),
    "50 guided steps": Recipe(steps=50, guidance=GUIDANCE, eta=1.0),
    "raster, 192 steps": Recipe(steps=192, order="raster", cells=4, **ANCESTRAL),
}
"""Beside the 24 deterministic steps of the columns: ancestral ones, and more of them."""
COUNT, QUICK_COUNT = 200, 16
"""Images drawn in each way."""
EXPLAINED = f"""\
KID of {{count}} images drawn in ancestral steps, and the difference from the bar; *guided* is classifier-free guidance
with scale {GUIDANCE:g}, by which images are drawn by default; the rest has none:
"""


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    models = [Model(longer(law), seed) for seed in range(seeds) for law in MIXTURES]
    recipes = {name: recipe.to_dict() for name, recipe in WAYS.items()}
    given = {"recipes": recipes, "count": setting.at(COUNT, QUICK_COUNT)}
    drawing = [
        Job(_name(model), by_recipe, {"model": asdict(model), **given}, (model.job(setting).name,)) for model in models
    ]
    return [Job("floors/kid", floors), *jobs_of(models, setting), *drawing]


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each number over seeds, and its difference from the bar's, seed by seed."""
    law_of_bar = next(iter(MIXTURES))
    bar, rows = longer(law_of_bar), []
    columns_of_bar, columns_of_default = (over(each, seeds, results) for each in (bar, longer(DEFAULT)))
    for law, levels in MIXTURES.items():
        columns = over(name := longer(law), seeds, results)
        rows.append(
            {
                "law": law,
                "levels": repr(levels(setting.grid)),
                **row_of(columns, columns_of_bar),
                "minus_default": summed(COLUMNS, columns, columns_of_default),
                "drawn": {way: by_way(name, bar, way, seeds, results) for way in WAYS},
            }
        )
    return {
        "bar": law_of_bar,
        "default": DEFAULT,
        "steps": MODELS[bar](setting).steps,
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "ways": {name: recipe.to_dict() for name, recipe in WAYS.items()},
        "count": setting.at(COUNT, QUICK_COUNT),
        "floors": results["floors/kid"],
        "rows": rows,
    }


def by_way(name: str, bar: str, way: str, seeds: int, results: Results) -> Mapping[str, Any]:
    """What a model draws in a way: over training seeds, of each, and how far from the bar's and the default's."""
    of = lambda model: [results[_name(Model(model, seed))][way]["kid"] for seed in range(seeds)]
    mine, others, default = of(name), of(bar), of(longer(DEFAULT))
    return {
        "kid": said(over_models(mine)),
        "minus_bar": said(over_models(mine, others)),
        "minus_default": said(over_models(mine, default)),
        "of_seeds": [one["value"] for one in mine],
    }


def page(record: Mapping[str, Any]) -> str:
    called = lambda row: f"{row['law']}, the default" if row["law"] == record["default"] else row["law"]
    above = f"{record['steps']} steps of training. {said_floors(record['floors'])}"
    names = [head for way in record["ways"] for head in (way, "minus the bar")]
    rows = [
        [called(row), *(number(told[key]) for told in row["drawn"].values() for key in ("kid", "minus_bar"))]
        for row in record["rows"]
    ]
    ways = grid(["levels of training", *names], rows)
    return "\n".join([page_of(record, above, called), EXPLAINED.format(count=record["count"]), ways])


def _name(model: Model) -> str:
    return f"mixtures/{model.name}-{model.seed}"


TABLE = Table(
    "mixtures",
    "Which mixture of levels is to be the default: those that came near, trained for longer, by few steps and by many",
    jobs,
    record,
    page,
    in_all=False,
)
