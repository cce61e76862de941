"""How long must a mixture of levels be trained until synchronous quality costs nothing?"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiment_columns import APART, COLUMNS, FULL, QUICK, jobs_of, over, summed
from experiment_jobs import Job
from experiment_laws import LENGTHS, MODELS
from experiment_measures import SIDE
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    names = [name for of in LENGTHS.values() for name in of]
    return jobs_of([Model(name, seed) for seed in range(seeds) for name in names], setting)


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each number over seeds, and its difference from that of one level for all in as many steps, seed by seed."""
    rows = []
    lengths = [*zip(*LENGTHS.values(), strict=True)]
    for names in lengths:
        bar = over(names[0], seeds, results)
        for law, name in zip(LENGTHS, names, strict=True):
            config, each = MODELS[name](setting), over(name, seeds, results)
            told = {"steps": config.steps, "law": law, "levels": repr(config.levels(setting.grid)), "each": each}
            rows.append({**told, "over_seeds": summed(each), "minus_bar": summed(each, bar)})
    return {
        "bar": next(iter(LENGTHS)),
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "rows": rows,
    }


def page(record: Mapping[str, Any]) -> str:
    cells = lambda of, names: [
        [str(row["steps"]), row["law"], *(number(row[of][name]) for name in names)] for row in record["rows"]
    ]
    return "\n".join(
        [
            grid(["steps", "levels of training", *COLUMNS], cells("over_seeds", COLUMNS.values())),
            f"Differences from {record['bar']} of as many steps, seed by seed:\n",
            grid(["steps", "levels of training", *APART], cells("minus_bar", APART.values())),
        ]
    )


TABLE = Table(
    "length",
    "How many steps until a mixture of levels costs no synchronous quality, by its share of equal levels",
    jobs,
    record,
    page,
)
