"""Does the order in which cells are drawn decide whether an image keeps a rule? Even pixels, and Sudoku of digits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from experiment_digits import NAMES, accuracy
from experiment_jobs import Job
from experiment_measures import over_both, said
from experiment_models import Model
from experiment_puzzles import ORDER, boards, held_out, puzzles
from experiment_reasoning import (
    EVALUATIONS,
    LAWS,
    ORDERS,
    OVERLAP,
    REPLACEMENT,
    ROUNDS,
    SIDE,
    TOGETHER,
    even,
    named,
    recipe_of,
    sudoku,
)
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number
from torch import Tensor

from apd_metrics import Estimate

MODULE = "experiment_reasoning"
GIVEN = (0, 4, 8)
COUNT = {"even": 80, "sudoku": 72}
"""Images; of boards, each that is held out once."""
RESTARTED = (TOGETHER, "raster", "random", "most certain first, predicted")
ASKED: Sequence[tuple[str, Callable[..., Mapping[str, Any]], Mapping[str, Any]]] = (
    ("even pixels", even, {}),
    *((f"Sudoku, {given} given", sudoku, {"given": given}) for given in GIVEN),
    ("Sudoku, 8 given, trained on", sudoku, {"given": 8, "trained": True}),
)
"""Of each model of a task: name, work and what else it is told."""
EXPLAINED = f"""\
*Right* is the share of images that keep the rule, in percent; of boards of which cells are given, that are the one
solution. *Restarts*: {ROUNDS} rounds of them take half of the evaluations. All ways take as many of an image, whatever
is given: {EVALUATIONS["even"]} of the network for an even image, {EVALUATIONS["sudoku"]} for a board; in raster order
those at which only cells rest that are given do not count. Turns that overlap share {OVERLAP:g} of their way, and take
up to 3 % more or fewer. Differences are from the same model that draws all at once without restarts, image by image.
Errors are over training seeds and images; a share of 0 or 100 has none. Models trained on one level for all complete by
replacement. Of twelve kinds of boards (boards become others of their kind by renaming digits) three are held out, and
what is to be solved is of these, but where *trained on* is said. Swapping rows or turning a board may still make one
that is trained on.
"""


def ways(law: str, given: int = 0, trained: bool = False) -> list[tuple[str, bool]]:
    """Orders of a model, and whether with restarts. Models of one level for all draw in one order only."""
    if law == "synchronous":
        return [(REPLACEMENT if given else TOGETHER, False)]
    orders = (TOGETHER, "random") if trained else ORDERS
    return [(order, restarts) for order in orders for restarts in (False, True) if not restarts or order in RESTARTED]


def recipes(task: str, law: str, given: int = 0, trained: bool = False) -> Mapping[str, Mapping[str, Any]]:
    """Of each way, by its name."""
    cells = {"even": SIDE**2, "sudoku": ORDER**2}[task]
    return {
        named(*way): recipe_of(*way, cells - given, cells, EVALUATIONS[task]).to_dict()
        for way in ways(law, given, trained)
    }


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    training, measuring = [], []
    for seed in range(seeds):
        for law in LAWS:
            for task in EVALUATIONS:
                training.append(before := Model(f"{task}-{law}", seed, MODULE).job(setting))
                for name, work, more in ASKED:
                    if work.__name__ == task:
                        given = {"model": asdict(Model(f"{task}-{law}", seed, MODULE)), **more}
                        given |= {"recipes": recipes(task, law, **more), "count": setting.at(COUNT[task], 8)}
                        measuring.append(Job(_name(law, seed, name), work, given, (before.name,)))
    return [*training, *measuring]


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    rows = []
    for name, work, more in ASKED:
        for law in LAWS:
            found = [results[_name(law, seed, name)] for seed in range(seeds)]
            for order, restarts in ways(law, **more):
                each = [one[named(order, restarts)] for one in found]
                beside = [one.get(TOGETHER, one[named(order, restarts)]) for one in found]
                apart = None if each == beside else said(share(each, beside))
                rows.append(
                    {
                        "task": name,
                        "levels": law,
                        "order": order,
                        "restarts": restarts,
                        "recipe": each[0]["recipe"],
                        "evaluations": each[0]["evaluations"],
                        "right": said(share(each)),
                        "right_of_seeds": [float(_right(one).mean()) for one in each],
                        "minus_synchronous": apart,
                        **(counted(each) if work is even else checked(each)),
                    }
                )
    return {
        "images": {"even": setting.at(COUNT["even"], 8), "sudoku": setting.at(COUNT["sudoku"], 8)},
        "evaluations": EVALUATIONS,
        "even_side": SIDE,
        "digits": list(NAMES),
        "boards": {"all": len(boards()), "held_out": int(held_out().sum())},
        "reader_accuracy": accuracy(),
        "trivial": {
            "even pixels": trivial_even(SIDE**2),
            **{f"Sudoku, {given} given": trivial_sudoku(given, setting) for given in GIVEN},
        },
        "training": {name: found for name, found in results.items() if name.startswith("models/")},
        "rows": rows,
    }


def _right(one: Mapping[str, Any], key: str = "right") -> Tensor:
    return torch.tensor([int(mark) for mark in one[key]], dtype=torch.float64)


def share(each: Sequence[Mapping[str, Any]], beside: Sequence[Mapping[str, Any]] | None = None) -> Estimate:
    """Images that are right, or by how much more they are than others of the same seeds."""
    one = torch.stack([_right(one) for one in each])
    return over_both(one if beside is None else one - torch.stack([_right(one) for one in beside]))


def counted(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By how many cells images are off, and the share of cells that are of no colour."""
    off = torch.tensor([one["off"] for one in each], dtype=torch.float64)
    grey = sum(one["grey"] for one in each) / len(each)
    return {"off": said(over_both(off.abs())), "too_many_white": said(over_both(off)), "grey": grey}


def checked(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The share of rows, columns and boxes that are right; of boards drawn whole, those of kinds never trained on."""
    units = torch.tensor([one["units"] for one in each], dtype=torch.float64)
    new = torch.stack([_right(one, "new") for one in each]) if "new" in each[0] else None
    return {"units": said(over_both(units)), "new": None if new is None else said(over_both(new))}


def trivial_even(cells: int) -> Mapping[str, float]:
    """What a coin for each cell reaches: images that are right, and cells that they are off by."""
    chances = [math.comb(cells, white) / 2**cells for white in range(cells + 1)]
    off = sum(chance * abs(white - cells // 2) for white, chance in enumerate(chances))
    return {"random": chances[cells // 2], "off": off}


def trivial_sudoku(given: int, setting: Setting) -> Mapping[str, float]:
    """What cells reach that are drawn each for itself.

    At random, and from the digits that no cell given in their row, column or box has.
    """
    if not given:
        return {"random": len(boards()) / ORDER ** (ORDER**2)}
    asked = puzzles(setting.at(COUNT["sudoku"], 8), given)
    at = torch.arange(ORDER**2)
    row, column = at // ORDER, at % ORDER
    box = row // 2 * 2 + column // 2
    sees = (row[:, None] == row) | (column[:, None] == column) | (box[:, None] == box)
    digit = torch.nn.functional.one_hot(asked.solution, ORDER).double() * asked.given[..., None]
    allowed = ORDER - (sees.double() @ digit > 0).sum(-1)
    chance = torch.where(asked.given, 1.0, 1.0 / allowed.double()).prod(1)
    return {"random": ORDER ** -float(ORDER**2 - given), "allowed": float(chance.mean())}


def page(record: Mapping[str, Any]) -> str:
    boards, trivial = record["boards"], record["trivial"]
    parts = [
        EXPLAINED,
        f"{boards['held_out']} of {boards['all']} boards are held out. The reader of digits is right on "
        f"{record['reader_accuracy']:.1%} of digits that it does not have.\n",
    ]
    for name, _, more in ASKED:
        rows = {(row["levels"], row["order"], row["restarts"]): row for row in record["rows"] if row["task"] == name}
        beside, key, scale = _beside(more)
        columns = ["right", "minus synchronous", beside]
        told = lambda row, key=key, scale=scale: (
            [""] * 3
            if row is None
            else [number(row["right"], 100), number(row["minus_synchronous"], 100), number(row[key], scale)]
        )
        parts += [
            f"## {name[0].upper()}{name[1:]}\n",
            grid(
                ["trained on", "order", *columns, *(f"{column}, restarts" for column in columns)],
                [
                    [levels, order, *told(row), *told(rows.get((levels, order, True)))]
                    for (levels, order, restarts), row in rows.items()
                    if not restarts
                ],
            ),
        ]
        if name in trivial:
            by_itself = (f"{way} {100 * chance:.2g} %" for way, chance in trivial[name].items() if way != "off")
            parts.append("Cells drawn each for itself would be right: " + ", ".join(by_itself) + ".\n")
    return "\n".join(parts)


def _beside(more: Mapping[str, Any]) -> tuple[str, str, float]:
    """What is told next to what is right: its name, its key, by what it is multiplied."""
    if not more:
        return "cells off", "off", 1.0
    return ("units right", "units", 100.0) if more["given"] else ("right and new", "new", 100.0)


def _name(law: str, seed: int, name: str) -> str:
    """Of a job, as in a path."""
    return f"reasoning/{law}-{seed}-{name.replace(', ', '-').replace(' ', '-')}"


TABLE = Table(
    "reasoning", "Even pixels and Sudoku of digits: which order of drawing keeps a rule", jobs, record, page, data=False
)
