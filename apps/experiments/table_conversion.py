"""How many steps make a synchronous model asynchronous? Fine-tuning by the default levels, against training by them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, cycle
from typing import Any

import torch
from experiment_columns import FULL, QUICK, jobs_of, name_of as measuring, summed
from experiment_completions import hidden, mean_of, measured
from experiment_jobs import Job
from experiment_kid import floors, said_floors
from experiment_laws import DEFAULT, LAWS, LONG_DEFAULT, synchronous
from experiment_measures import SIDE, real
from experiment_models import Model, small
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number

from apd_generate import MASK_FAMILIES
from apd_train import TrainConfig

SYNCHRONOUS, SCRATCH = Model("long-synchronous"), LONG_DEFAULT
BUDGETS = (50, 100, 200, 400, 800)
RATE, OTHER = 4e-3, 2e-3
"""Peak learning rates, a half and a quarter of that of training. The first has the whole curve, and several seeds where
that is cheap. Of four rates it was the best in 400 steps at all three kinds of levels; in 100 the second was."""
SEVERAL, TRIED = 200, (100, 400)
"""The most steps of which there are several seeds; the steps that the second rate is tried with."""
FURTHER = 400
"""Steps of the run that goes on synchronously."""
COLUMNS = (
    *("KID", "raster KID", "filled", "extrema", "bits/dim synchronous", "bits/dim raster"),
    *("loss shared", "loss fronts", "loss context"),
)
FROM_SCRATCH = "from scratch"
KEPT = ("KID", "loss shared")
"""What the synchronous model was good at."""
EXPLAINED = """\
The first row is where fine-tuning starts, the last one what it is to reach: the same network trained by the default
levels from the beginning, for as many steps as the first. Each row between is a run of its own, with its own cosine,
and has its steps besides those of the first; *further* goes on with equal levels of all tokens: what steps alone do.
*Filled* is the feature distance of completions to the true image, a mean over four families of masks; *extrema* is the
one that hides most. Losses are of held-out images at shared levels, fronts, and clean context. Errors are over images,
and over the seeds of a row where it has several; differences from scratch have the spread of those models too. How
much one run of fine-tuning differs from another is not in the rows of one seed. All start from one model. The rates
were chosen by the losses of 400 steps on the same held-out images.
"""


def name_of(budget: int, rate: float) -> str:
    return f"tuned-{budget}-{rate:g}"


def tuned(budget: int, rate: float, setting: Setting) -> TrainConfig:
    """By the default levels; of the steps, the first tenth is warm-up."""
    steps = setting.at(budget, max(1, budget // 50))
    return replace(small(setting), levels=LAWS[DEFAULT], steps=steps, learning_rate=rate)


def further(setting: Setting) -> TrainConfig:
    """By the levels that the model knows."""
    return replace(tuned(FURTHER, RATE, setting), levels=synchronous)


POINTS = [(budget, RATE) for budget in BUDGETS] + [(budget, OTHER) for budget in TRIED]
MODELS: dict[str, Callable[[Setting], TrainConfig]] = {
    **{name_of(*at): partial(tuned, *at) for at in POINTS},
    "further": further,
}
STARTS = dict.fromkeys(MODELS, SYNCHRONOUS)


def runs(seeds: int) -> dict[str, list[Model]]:
    """Each row of the table, with a model for each of its seeds."""
    several = lambda budget, rate: range(seeds if budget <= SEVERAL and rate == RATE else 1)
    rows = {name_of(*at): [Model(name_of(*at), seed, __name__) for seed in several(*at)] for at in POINTS}
    scratch = [Model(SCRATCH, seed) for seed in range(seeds)]
    return {"synchronous": [SYNCHRONOUS], **rows, "further": [Model("further", module=__name__)], FROM_SCRATCH: scratch}


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    filled = setting.at(FULL, QUICK)["filled"]
    of_models = jobs_of([*chain.from_iterable(runs(seeds).values())], setting)
    return [Job("floors/kid", floors), Job("floors/filled", of_no_model, {"filled": filled}), *of_models]


def of_no_model(setting: Setting, filled: int) -> Mapping[str, Any]:
    """Distances of completions by the mean image."""
    by_mean: dict[str, Any] = {}
    for family in MASK_FAMILIES:
        behind = hidden(setting, family, filled)
        images = torch.where(behind.known[:, None], behind.truth, real(setting).mean)
        by_mean[family] = measured(images[None], behind, setting)["distance"]
    return by_mean


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each column over seeds, and its differences from both long models, image by image."""
    of = {row: [results[measuring(model)] for model in models] for row, models in runs(seeds).items()}
    (start,), scratch = of["synchronous"], of[FROM_SCRATCH]
    rows = []
    for (row, each), models in zip(of.items(), runs(seeds).values(), strict=True):
        config = models[0].config(setting)
        rows.append(
            {
                "row": row,
                "steps": config.steps,
                "learning_rate": config.learning_rate,
                "seeds": len(each),
                "levels": repr(config.levels(setting.grid)),
                "columns": summed(COLUMNS, each),
                "minus_scratch": summed(COLUMNS, [one for one, _ in zip(cycle(each), scratch)], scratch),
                "minus_start": summed(COLUMNS, each, [start] * len(each)),
            }
        )
    none = results["floors/filled"]
    families = [sum(values) / len(values) for values in zip(*none.values(), strict=True)]
    return {
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": {
            **results["floors/kid"],
            "mean_image_filled": mean_of(families),
            "mean_image_extrema": mean_of(none["extrema"]),
        },
        "rows": rows,
        "further": summed(KEPT, of[name_of(FURTHER, RATE)], of["further"]),
        "equal_from": {name: equal_from(rows, name, "minus_scratch") for name in COLUMNS},
        "as_good_as_start_from": {name: equal_from(rows, name, "minus_start") for name in KEPT},
    }


def equal_from(rows: Sequence[Mapping[str, Any]], name: str, minus: str) -> int | None:
    """Steps of the first rate from which on, for all larger budgets too, a column is not shown to be worse, by two
    errors; None if there are none such. All columns are better when smaller."""
    found = None
    for row in [row for row in rows if row["row"] in [name_of(budget, RATE) for budget in BUDGETS]]:
        apart_by = row[minus][name]
        worse = apart_by["value"] > 2 * apart_by["standard_error"]
        found = None if worse else row["steps"] if found is None else found
    return found


def gap_closed(row: Mapping[str, Any], start: Mapping[str, Any], name: str) -> float | None:
    """Share of the way from the synchronous model to the one from scratch; None where it is not the worse one by three
    errors."""
    way, error = (start["minus_scratch"][name][of] for of in ("value", "standard_error"))
    return 1 - row["minus_scratch"][name]["value"] / way if way > 3 * error else None


def page(record: Mapping[str, Any]) -> str:
    rows = record["rows"]
    start, scratch = rows[0], rows[-1]
    between = rows[1:-1]
    floor = record["floors"]
    heads = ["", "steps", "rate", "seeds"]
    lead = lambda row: [row["row"].split("-")[0], str(row["steps"]), f"{row['learning_rate']:g}", str(row["seeds"])]
    table = lambda some, minus, names: grid(
        [*heads, *names], [[*lead(row), *(number(row[minus][name]) for name in names)] for row in some]
    )
    percent = lambda share: "" if share is None else f"{share:.0%}"
    from_on = lambda steps: "not within these" if steps is None else str(steps)
    return "\n".join(
        [
            EXPLAINED,
            table(rows, "columns", COLUMNS),
            f"{said_floors(floor)} Completions by the mean image are at {number(floor['mean_image_filled'])} from the "
            f"true ones, of extrema at {number(floor['mean_image_extrema'])}.\n",
            "Differences from models that were trained from scratch, of the same images:\n",
            table([start, *between], "minus_scratch", COLUMNS),
            "Share of the way from the synchronous model to that one; empty where it has none, by three errors:\n",
            grid(
                [*heads, *COLUMNS],
                [[*lead(row), *(percent(gap_closed(row, start, name)) for name in COLUMNS)] for row in between],
            ),
            "What becomes of synchronous quality: differences from the synchronous model:\n",
            table([*between, scratch], "minus_start", KEPT),
            f"After {FURTHER} steps, by the default levels less by equal ones: "
            + ", ".join(f"{name} {number(record['further'][name])}" for name in KEPT)
            + ".\n",
            f"Steps at the rate {RATE:g} from which on a column is not shown to be worse, by two errors, than …\n",
            grid(
                ["", *COLUMNS],
                [
                    ["from scratch", *(from_on(record["equal_from"][name]) for name in COLUMNS)],
                    [
                        "the synchronous model",
                        *(from_on(record["as_good_as_start_from"][name]) if name in KEPT else "" for name in COLUMNS),
                    ],
                ],
            ),
        ]
    )


TABLE = Table(
    "conversion",
    "How many steps of fine-tuning make a synchronous model asynchronous, and what it loses",
    jobs,
    record,
    page,
)
