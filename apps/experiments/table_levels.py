"""Which law of training levels? All of them, the same network, steps and seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiment_columns import FULL, QUICK, jobs_of, over, page_of, row_of
from experiment_jobs import Job
from experiment_kid import floors, said_floors
from experiment_laws import DEFAULT, LAWS
from experiment_measures import SIDE
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table

BAR = "shared-logit-normal"


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    models = [Model(name, seed) for seed in range(seeds) for name in LAWS]
    return [Job("floors/kid", floors), *jobs_of(models, setting)]


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each number over seeds, and its difference from the bar's, seed by seed."""
    bar = over(BAR, seeds, results)
    rows = [
        {"law": name, "levels": repr(LAWS[name](setting.grid)), **row_of(over(name, seeds, results), bar)}
        for name in LAWS
    ]
    return {
        "bar": BAR,
        "default": DEFAULT,
        "steps": Model(BAR).config(setting).steps,
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": results["floors/kid"],
        "rows": rows,
    }


def page(record: Mapping[str, Any]) -> str:
    called = lambda row: f"{row['law']}, the default" if row["law"] == record["default"] else row["law"]
    return page_of(record, f"{record['steps']} steps of training. {said_floors(record['floors'])}", called)


TABLE = Table(
    "levels", "Which levels to train on: synchronous quality, raster order, completions, likelihood", jobs, record, page
)
