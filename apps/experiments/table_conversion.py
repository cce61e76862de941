"""How many steps make a synchronous model asynchronous? Fine-tuning by the default levels, against training by them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from experiment_columns import bits_per_dim, losses
from experiment_completions import complete, hidden, mean_of, measured
from experiment_jobs import Job
from experiment_kid import apart, floors, pulled, shown_of
from experiment_laws import synchronous
from experiment_measures import SIDE, drawn, over_seeds, real, said
from experiment_models import Model, small
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number

from apd_generate import MASK_FAMILIES, Recipe
from apd_metrics import Estimate
from apd_train import TrainConfig

SYNCHRONOUS, SCRATCH = Model("long-synchronous"), Model("long-default")
BUDGETS = (50, 100, 200, 400, 800)
RATE, OTHER = 4e-3, 2e-3
"""Peak learning rates, a half and a quarter of that of training. The first has the whole curve, and several seeds where
that is cheap. Of four rates it was the best in 400 steps at all three kinds of levels; in 100 the second was."""
SEVERAL, TRIED = 200, (100, 400)
"""The most steps of which there are several seeds; the steps that the second rate is tried with."""
FURTHER = 400
"""Steps of the run that goes on synchronously."""
PAIRED = ("KID", "raster KID", "filled", "extrema")
"""Columns with a value for each image. The others are means over held-out images of the same noise; they come without
an error."""
COLUMNS = (*PAIRED, "bits/dim synchronous", "bits/dim raster", "loss shared", "loss fronts", "loss context")
FULL = {
    "drawn": 400,  # images drawn all at once,
    "steps": 24,
    "ordered": 200,  # in raster order, 16 cells,
    "ordered_steps": 96,
    "filled": 100,  # completed behind masks of each family,
    "filled_steps": 24,
    "bounded": 64,  # and whose likelihood is bounded,
    "points": 24,  # at so many maps each
    "looks": 4,  # at each held-out image, for losses
}
QUICK = dict.fromkeys(FULL, 4) | {"drawn": 32, "ordered": 32, "ordered_steps": 16, "filled": 8, "looks": 1}
"""No guidance anywhere."""
KEPT = ("KID", "bits/dim synchronous", "loss shared")
"""What the synchronous model was good at."""
EXPLAINED = """\
The first row is where fine-tuning starts, the last one what it is to reach: the same network trained by the default
levels from the beginning, for as many steps as the first. Each row between is a run of its own, with its own cosine,
and has its steps besides those of the first; *further* goes on with equal levels of all tokens: what steps alone do.
*Filled* is the feature distance of completions to the true image, a mean over four families of masks; *extrema* is the
one that hides most. Losses are of held-out images at shared levels, fronts, and clean context. Errors are over images
and, where there are several, over seeds of the fine-tuning; both long models were trained once.
"""


def name_of(budget: int, rate: float) -> str:
    return f"tuned-{budget}-{rate:g}"


def tuned(budget: int, rate: float, setting: Setting) -> TrainConfig:
    """By the default levels; of the steps, the first tenth is warm-up."""
    steps = setting.at(budget, max(1, budget // 50))
    return replace(small(setting), steps=steps, learning_rate=rate)


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
    own = lambda name: [Model(name, module=__name__)]
    return {"synchronous": [SYNCHRONOUS], **rows, "further": own("further"), "from scratch": [SCRATCH]}


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    numbers = setting.at(FULL, QUICK)
    found = [SYNCHRONOUS.job(setting), Job("conversion/floors", of_no_model, {"filled": numbers["filled"]})]
    for model in chain.from_iterable(runs(seeds).values()):
        training = model.job(setting)
        found += [training] if model != SYNCHRONOUS else []
        found.append(Job(_measuring(model), measure, {"model": asdict(model), **numbers}, (training.name,)))
    return found


def _measuring(model: Model) -> str:
    return f"conversion/{model.name}-{model.seed}"


def measure(setting: Setting, model: Mapping[str, Any], **numbers: int) -> Mapping[str, Any]:
    """All columns of a model, image by image where they are paired."""
    pretrained = Model(**model).load(setting)
    together = Recipe(steps=numbers["steps"], guidance=1.0)
    in_order = Recipe(order="raster", cells=min(4, setting.grid[0]), steps=numbers["ordered_steps"], guidance=1.0)
    fill = Recipe(steps=numbers["filled_steps"], guidance=1.0)
    filled = {}
    for family in MASK_FAMILIES:
        behind = hidden(setting, family, numbers["filled"])
        images, _ = complete(pretrained, fill, behind, 1)
        filled[family] = measured(images, behind, setting)["distance"]
    return {
        "kid": pulled(drawn(pretrained, together, numbers["drawn"]), setting),
        "raster_kid": pulled(drawn(pretrained, in_order, numbers["ordered"]), setting),
        "filled": filled,
        "bits_per_dim": bits_per_dim(pretrained, setting, numbers["bounded"], numbers["points"]),
        "loss": losses(pretrained, setting, numbers["looks"]),
    }


def of_no_model(setting: Setting, filled: int) -> Mapping[str, Any]:
    """KID of real images and of the mean image; completions by the mean image."""
    by_mean = {}
    for family in MASK_FAMILIES:
        behind = hidden(setting, family, filled)
        images = torch.where(behind.known[:, None], behind.truth, real(setting).mean)
        by_mean[family] = measured(images[None], behind, setting)["distance"]
    return {"kid": floors(setting), "filled": by_mean}


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Each column over seeds, and its differences from both long models, image by image."""
    of = {row: [results[_measuring(model)] for model in models] for row, models in runs(seeds).items()}
    (scratch,), (start,) = of["from scratch"], of["synchronous"]
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
                "columns": {name: pooled([column(one, name) for one in each]) for name in COLUMNS},
                "minus_scratch": {name: pooled([difference(one, scratch, name) for one in each]) for name in COLUMNS},
                "minus_start": {name: pooled([difference(one, start, name) for one in each]) for name in COLUMNS},
            }
        )
    none = results["conversion/floors"]
    return {
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": {
            **none["kid"],
            "mean_image_filled": mean_of(filled(none)),
            "mean_image_extrema": mean_of(none["filled"]["extrema"]),
        },
        "rows": rows,
        "equal_from": {name: equal_from(rows, name, "minus_scratch") for name in COLUMNS},
        "as_good_as_start_from": {name: equal_from(rows, name, "minus_start") for name in KEPT},
    }


def filled(result: Mapping[str, Any]) -> list[float]:
    """Mean over the families, image by image."""
    return [sum(values) / len(values) for values in zip(*result["filled"].values(), strict=True)]


def column(result: Mapping[str, Any], name: str) -> Estimate:
    """Of one model."""
    estimate = lambda told: Estimate(told["value"], told["standard_error"])
    match name.split():
        case ["KID"]:
            return estimate(shown_of(result["kid"]))
        case ["raster", "KID"]:
            return estimate(shown_of(result["raster_kid"]))
        case ["filled"]:
            return estimate(mean_of(filled(result)))
        case ["extrema"]:
            return estimate(mean_of(result["filled"]["extrema"]))
        case ["bits/dim", path]:
            return Estimate(result["bits_per_dim"][path])
        case ["loss", kind]:
            return Estimate(result["loss"][kind])
    raise ValueError(f"there is no column {name}, only {', '.join(COLUMNS)}")


def difference(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> Estimate:
    """Of two models in a column, of the same images."""
    if name.endswith("KID"):
        key = "raster_kid" if name.startswith("raster") else "kid"
        return apart(one[key], other[key])
    if name in PAIRED:
        values = [filled(each) if name == "filled" else each["filled"][name] for each in (one, other)]
        told = mean_of([a - b for a, b in zip(*values, strict=True)])
        return Estimate(told["value"], told["standard_error"])
    return Estimate(column(one, name).value - column(other, name).value)


def pooled(each: Sequence[Estimate]) -> Mapping[str, Any]:
    """Mean over seeds. They draw the same images, so that error does not shrink with them; that over seeds is added."""
    over = over_seeds([one.value for one in each])
    of_images = [one.standard_error for one in each if one.standard_error is not None]
    parts = [sum(of_images) / len(of_images)] if of_images else []
    parts += [] if over.standard_error is None else [over.standard_error]
    return said(Estimate(over.value, math.hypot(*parts) if parts else None))


def equal_from(rows: Sequence[Mapping[str, Any]], name: str, minus: str) -> int | None:
    """Steps of the first rate from which on, for all larger budgets too, a column is not worse by two errors; None if
    there are none such. All columns are better when smaller."""
    found = None
    for row in [row for row in rows if row["row"] in [name_of(budget, RATE) for budget in BUDGETS]]:
        apart_by = row[minus][name]
        worse = apart_by["value"] > 2 * (apart_by["standard_error"] or 0.0)
        found = None if worse else row["steps"] if found is None else found
    return found


def gap_closed(row: Mapping[str, Any], start: Mapping[str, Any], name: str) -> float | None:
    """Share of the way from the synchronous model to the one from scratch; None where it is not the worse one by three
    errors."""
    way, error = start["minus_scratch"][name]["value"], start["minus_scratch"][name]["standard_error"] or 0.0
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
            f"Of {floor['held_out']['images']} real images, held out, the KID is {number(floor['held_out'])}, of the "
            f"mean image {number(floor['mean_image'])}. Completions by the mean image are at "
            f"{number(floor['mean_image_filled'])} from the true ones, of extrema at "
            f"{number(floor['mean_image_extrema'])}.\n",
            "Differences from the model that was trained from scratch, of the same images and seeds:\n",
            table([start, *between], "minus_scratch", COLUMNS),
            "Share of the way from the synchronous model to that one; empty where it has none, by three errors:\n",
            grid(
                [*heads, *COLUMNS],
                [[*lead(row), *(percent(gap_closed(row, start, name)) for name in COLUMNS)] for row in between],
            ),
            "What becomes of synchronous quality: differences from the synchronous model:\n",
            table([*between, scratch], "minus_start", KEPT),
            f"Steps at the rate {RATE:g} from which on a column is not worse, by two errors, than …\n",
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
