"""Which law of training levels? All of them, the same network, steps and seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiment_columns import APART, COLUMNS, FULL, QUICK, jobs_of, over, summed
from experiment_jobs import Job
from experiment_laws import LAWS
from experiment_measures import SIDE
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number

BAR = "shared-logit-normal"


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    return jobs_of([Model(name, seed) for seed in range(seeds) for name in LAWS], setting)


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each number over seeds, and its difference from the bar's, seed by seed."""
    bar = over(BAR, seeds, results)
    rows = []
    for name in LAWS:
        each = over(name, seeds, results)
        told = {"law": name, "levels": repr(LAWS[name](setting.grid)), "each": each}
        rows.append({**told, "over_seeds": summed(each), "minus_bar": summed(each, bar)})
    return {
        "bar": BAR,
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "rows": rows,
    }


def page(record: Mapping[str, Any]) -> str:
    cells = lambda of, names: [[row["law"], *(number(row[of][name]) for name in names)] for row in record["rows"]]
    return "\n".join(
        [
            grid(["levels of training", *COLUMNS], cells("over_seeds", COLUMNS.values())),
            f"Differences from {record['bar']}, seed by seed:\n",
            grid(["levels of training", *APART], cells("minus_bar", APART.values())),
        ]
    )


TABLE = Table(
    "levels", "Which levels to train on: synchronous quality, raster order, completions, likelihood", jobs, record, page
)
