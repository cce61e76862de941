"""Does longer training close the gap in synchronous quality between a mixture of levels and one level for all?"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiment_columns import FULL, QUICK, SHOWN, SHOWN_APART, explained, jobs_of, over, row_of
from experiment_jobs import Job
from experiment_kid import floors, said_floors
from experiment_laws import LENGTHS, MODELS
from experiment_measures import SIDE
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    names = [name for of in LENGTHS.values() for name in of]
    return [
        Job("floors/kid", floors),
        *jobs_of([Model(name, seed) for seed in range(seeds) for name in names], setting),
    ]


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each number over seeds, and its difference from that of one level for all in as many steps, seed by seed."""
    rows = []
    for names in zip(*LENGTHS.values(), strict=True):
        bar = over(names[0], seeds, results)
        for law, name in zip(LENGTHS, names, strict=True):
            config = MODELS[name](setting)
            told = {"steps": config.steps, "law": law, "levels": repr(config.levels(setting.grid))}
            rows.append({**told, **row_of(over(name, seeds, results), bar)})
    return {
        "bar": next(iter(LENGTHS)),
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": results["floors/kid"],
        "rows": rows,
    }


def page(record: Mapping[str, Any]) -> str:
    cells = lambda of, names: [
        [f"{row['law']}, {row['steps']}", *(number(row[of][name]) for name in names)] for row in record["rows"]
    ]
    return "\n".join(
        [
            explained(record["numbers"]),
            f"{said_floors(record['floors'])}\n",
            grid(["levels, steps of training", *SHOWN], cells("over_seeds", SHOWN)),
            f"Differences from {record['bar']} of as many steps, seed by seed:\n",
            grid(["levels, steps of training", *SHOWN_APART], cells("minus_bar", SHOWN_APART)),
        ]
    )


TABLE = Table("length", "Whether longer training closes a mixture's gap in synchronous quality", jobs, record, page)
