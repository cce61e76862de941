"""Does longer training close the gap in synchronous quality between a mixture of levels and one level for all?"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiment_columns import FULL, QUICK, jobs_of, over, page_of, row_of
from experiment_jobs import Job
from experiment_kid import floors, said_floors
from experiment_laws import LENGTHS, MODELS, longer
from experiment_measures import SIDE
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    names = [name for law in LENGTHS for name in (law, longer(law))]
    return [
        Job("floors/kid", floors),
        *jobs_of([Model(name, seed) for seed in range(seeds) for name in names], setting),
    ]


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each number over seeds, and its difference from that of one level for all in as many steps, seed by seed."""
    rows = []
    for named in (str, longer):
        bar = over(named(LENGTHS[0]), seeds, results)
        for law in LENGTHS:
            config = MODELS[name := named(law)](setting)
            told = {"steps": config.steps, "law": law, "levels": repr(config.levels(setting.grid))}
            rows.append({**told, **row_of(over(name, seeds, results), bar)})
    return {
        "bar": LENGTHS[0],
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": results["floors/kid"],
        "rows": rows,
    }


def page(record: Mapping[str, Any]) -> str:
    return page_of(record, said_floors(record["floors"]), lambda row: f"{row['law']}, {row['steps']} steps")


TABLE = Table(
    "length",
    "Whether longer training closes a mixture's gap in synchronous quality",
    jobs,
    record,
    page,
    in_all=False,
)
