"""In which order are tokens best made, in how large blocks, and how far may their ways overlap?"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from experiment_drawing import drawn
from experiment_jobs import Job
from experiment_kid import apart, floors, pulled, said_floors, shown_of
from experiment_laws import LONG_DEFAULT
from experiment_measures import SIDE, classes, real, said
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number
from torch import Generator, Tensor

from apd_generate import Recipe
from apd_metrics import average
from apd_schedules import (
    Linear,
    autoregressive_law,
    checkerboard,
    coarse_to_fine,
    elbo,
    grouped,
    hilbert,
    raster,
    shuffled,
    spiral,
)

MODEL = Model(LONG_DEFAULT)
EVALUATIONS = (16, 48, 96, 192)
"""About so many, of the network for an image: the nearest at which every turn has as many."""
AT = 96
"""Steps of overlaps and of guidance."""
GUIDANCE = 2.0
FULL: dict[str, Any] = {"drawn": 240, "bounds": {"count": 500, "points": 16}}
QUICK: dict[str, Any] = {"drawn": 16, "bounds": {"count": 8, "points": 4}}
"""Images drawn; held-out images whose likelihood is bounded, at so many maps each."""
CELLS, GROUPS = 4, 16
"""A side of the orders raster and random; turns of the curves and of orders that are chosen on the way."""
EXPLAINED = f"""\
KID is of {{drawn}} images. *Evaluations* are of the network, for each image; each turn has as many steps. Differences
are from synchronous generation, of the same seeds; of as many evaluations, but for those that turns do not divide.
Steps are ancestral, without guidance where nothing else is said. Bits are a bound, along the law of paths that takes
the same turns, of held-out images. Raster and random take {CELLS} cells a side, curves {GROUPS} turns. One training:
errors are over images.
"""

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Order:
    """Args:
    recipe: all but the steps.
    turns: of each token; None for orders that are chosen on the way.
    """

    recipe: Callable[[Grid], Mapping[str, Any]]
    turns: Callable[[Grid], Tensor] | None

    def given(self, evaluations: int, of: Grid, guidance: float = 1.0) -> Mapping[str, Any]:
        """With as many steps in each turn, in all as near to ``evaluations`` as can be."""
        turns = min(GROUPS, of[0] * of[1]) if self.turns is None else int(self.turns(of).max()) + 1
        steps = max(1, round(evaluations / turns)) * turns
        return {"recipe": Recipe(steps=steps, guidance=guidance, eta=1.0, **self.recipe(of)).to_dict(), "turns": turns}


def in_blocks(name: str, cells: int) -> Order:
    """Raster order or a random one, of ``cells`` a side, or of tokens where there are fewer."""
    rows = lambda of: raster(of, cells, cells)
    turns = rows if name == "raster" else lambda of: shuffled(rows(of), Generator().manual_seed(0))
    return Order(lambda of: {"order": name, "cells": min(cells, max(of))}, turns)


def along(name: str, curve: Callable[[Grid], Tensor]) -> Order:
    groups = lambda of: min(GROUPS, of[0] * of[1])
    return Order(lambda of: {"order": name, "groups": groups(of)}, lambda of: grouped(curve(of), groups(of)))


def chosen(uncertainty: str) -> Order:
    """Of each image its own."""
    named = {"scheduler": "most-certain-first", "uncertainty": uncertainty}
    return Order(lambda of: {**named, "groups": min(GROUPS, of[0] * of[1])}, None)


TOGETHER, CERTAIN = "synchronous", "most certain first, predicted"
ORDERS: Mapping[str, Order] = {
    TOGETHER: Order(lambda of: {}, lambda of: torch.zeros(of[0] * of[1], dtype=torch.long)),
    "raster": in_blocks("raster", CELLS),
    "raster, 2 cells a side": in_blocks("raster", 2),
    "raster, one by one": in_blocks("raster", 1000),
    "random": in_blocks("random", CELLS),
    "random, 2 cells a side": in_blocks("random", 2),
    "random, one by one": in_blocks("random", 1000),
    "checkerboard": Order(lambda of: {"order": "checkerboard"}, checkerboard),
    "coarse to fine": Order(lambda of: {"order": "coarse-to-fine"}, coarse_to_fine),
    "spiral": along("spiral", spiral),
    "hilbert": along("hilbert", hilbert),
    CERTAIN: chosen("predicted"),
    "most certain first, changing": chosen("changing"),
    "scattered tokens, of each image": chosen("random"),
}
BLOCKS = tuple((TOGETHER, f"{name}, 2 cells a side", name, f"{name}, one by one") for name in ("raster", "random"))
GUIDED = (TOGETHER, "raster", "random", CERTAIN)


def overlaps(setting: Setting) -> Iterator[tuple[str, float, Mapping[str, Any]]]:
    """Kind, number and recipe, from turns one after the other towards all together."""
    in_order: dict[str, Any] = {**ORDERS["raster"].recipe(setting.grid), "steps": AT, "guidance": 1.0, "eta": 1.0}
    by_choice: dict[str, Any] = {**ORDERS[CERTAIN].recipe(setting.grid), "steps": AT, "guidance": 1.0, "eta": 1.0}
    for width in setting.at((0.125, 0.25, 0.5, 0.75), (0.5,)):
        yield "width", width, Recipe(scheduler="staggered", width=width, **in_order).to_dict()
    for width in setting.at((0.25, 0.5, 0.75), (0.5,)):
        tokens = {**in_order, **ORDERS["raster, one by one"].recipe(setting.grid)}
        yield "token by token, width", width, Recipe(scheduler="staggered", width=width, **tokens).to_dict()
    for active in setting.at((2.0, 4.0, 8.0), (4.0,)):
        yield "active", active, Recipe(scheduler="sliding-window", active=active, **in_order).to_dict()
    for overlap in setting.at((0.25, 0.5, 0.75, 0.9), (0.5,)):
        yield "overlap", overlap, Recipe(overlap=overlap, **by_choice).to_dict()


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    """Of one training seed."""
    training, of = MODEL.job(setting), setting.grid
    found = [training, Job("floors/kid", floors)]

    def add(name: str, work: Callable[..., Mapping[str, Any]], **given: Any) -> None:
        found.append(Job(_name(name), work, {"model": asdict(MODEL), **given}, (training.name,)))

    count, looks = (setting.at(FULL, QUICK)[name] for name in ("drawn", "bounds"))
    for name, order in ORDERS.items():
        ways = {str(each): order.given(each, of) for each in setting.at(EVALUATIONS, (AT,))}
        # not those that are of more steps only because each turn has one
        few = {asked: way for asked, way in ways.items() if way["recipe"]["steps"] < 1.5 * int(asked)}
        add(name, measure, ways=few, count=count)
        if order.turns is not None:
            add(f"bits {name}", bits_per_dim, turns=order.turns(of).tolist(), **looks)
    for kind, value, recipe in overlaps(setting):
        add(f"{kind} {value}", measure, ways={str(AT): {"recipe": recipe}}, count=count)
    for name in setting.at(GUIDED, (TOGETHER, "raster")):
        add(f"guided {name}", measure, ways={str(AT): ORDERS[name].given(AT, of, GUIDANCE)}, count=count)
    return found


def measure(
    setting: Setting, model: Mapping[str, Any], ways: Mapping[str, Mapping[str, Any]], count: int
) -> Mapping[str, Any]:
    """Quality along an order, by its number of evaluations."""
    pretrained, found = Model(**model).load(setting), {}
    for asked, given in ways.items():
        made = drawn(pretrained, Recipe.from_dict(given["recipe"]), range(count), classes(range(count), setting))
        moves = float(made.moves.double().mean())
        found[asked] = {"kid": pulled(made.images, setting), "evaluations": made.evaluations, "moves": moves}
    return found


def bits_per_dim(
    setting: Setting, model: Mapping[str, Any], turns: Sequence[int], count: int, points: int
) -> Mapping[str, Any]:
    """Of each held-out image, the same noise for every order."""
    pretrained, known = Model(**model).load(setting), real(setting)
    x = pretrained.patchify.to_tokens(known.images[:count]).to(pretrained.model.device)
    cond = {} if known.labels is None else {"label": known.labels[:count].to(x.device)}
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # torch's first forward derivative
    found = elbo(
        pretrained.model,
        x,
        Linear(),
        autoregressive_law(torch.tensor(turns)),
        generator=Generator().manual_seed(0),
        points=points,
        data_variance=pretrained.model.config.data_std**2,
        cond=cond,
    )
    return {"bits": [round(each, 6) for each in found.bits_per_dim.tolist()]}


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    of, together = setting.grid, results[_name(TOGETHER)]
    known = {asked: found["kid"] for asked, found in together.items()}

    def rows(name: str, beside: Mapping[str, Any]) -> list[dict[str, Any]]:
        measured = results[_name(name)]
        return [
            {"asked": int(asked), **found, "kid": shown_of(found["kid"]), **_apart(found["kid"], beside[asked])}
            for asked, found in measured.items()
        ]

    orders = []
    for name, order in ORDERS.items():
        for row in rows(name, known):
            orders.append({"order": name, **order.given(row["asked"], of), **row})
    overlapping = [
        {"kind": kind, "value": value, "recipe": recipe, **row}
        for kind, value, recipe in overlaps(setting)
        for row in rows(f"{kind} {value}", known)
    ]
    beside = {asked: found["kid"] for asked, found in results[_name(f"guided {TOGETHER}")].items()}
    guided = [
        {"order": name, **ORDERS[name].given(AT, of, GUIDANCE), **row}
        for name in setting.at(GUIDED, (TOGETHER, "raster"))
        for row in rows(f"guided {name}", beside)
    ]
    return {
        "seeds": [MODEL.seed],
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": results["floors/kid"],
        "model": asdict(MODEL),
        "training": results[MODEL.job(setting).name],
        "orders": orders,
        "overlaps": overlapping,
        "guided": guided,
        "bits_per_dim": _bits(results),
    }


def _bits(results: Results) -> list[dict[str, Any]]:
    """Means over the images, and of the differences from synchronous, image by image."""
    of = lambda name: torch.tensor(results[_name(f"bits {name}")]["bits"], dtype=torch.float64)
    together = of(TOGETHER)
    return [
        {
            "order": name,
            "images": len(together),
            "bits": said(average(of(name))),
            "minus_synchronous": None if name == TOGETHER else said(average(of(name) - together)),
        }
        for name, order in ORDERS.items()
        if order.turns is not None
    ]


def page(record: Mapping[str, Any]) -> str:
    orders = record["orders"]
    asked = sorted({row["asked"] for row in orders})
    by = {(row["order"], row["asked"]): row for row in orders}
    bits = {row["order"]: row for row in record["bits_per_dim"]}
    far = lambda row: number(row["minus_synchronous"])
    found = lambda row: [str(row["evaluations"]), number(row["kid"]), far(row)]
    summary = []
    for name in dict.fromkeys(row["order"] for row in orders):
        there = [by.get((name, each)) for each in asked]
        turns = next(row["turns"] for row in there if row is not None)
        likely = bits.get(name)
        told = ["", ""] if likely is None else [number(likely["bits"]), far(likely)]
        summary.append([name, str(turns), *("" if row is None else number(row["kid"]) for row in there), *told])
    curve = [(name, by[name, each]) for names in BLOCKS for name in names for each in asked if (name, each) in by]
    each_turn = lambda row: f"{row['evaluations'] / row['turns']:g}"
    columns = ["evaluations", "KID", "minus synchronous"]
    return "\n".join(
        [
            EXPLAINED.format(drawn=record["numbers"]["drawn"]),
            grid(["order", "turns", *(f"KID, {each}" for each in asked), "bits/dim", "minus synchronous"], summary),
            f"{said_floors(record['floors'])}\n",
            "## Evaluations of each turn\n",
            grid(
                ["order", "turns", "of each turn", *columns],
                [[name, str(row["turns"]), each_turn(row), *found(row)] for name, row in curve],
            ),
            "## Turns that overlap\n",
            grid(
                ["overlap", "moves", *columns],
                [[f"{row['kind']} {row['value']:g}", f"{row['moves']:.1f}", *found(row)] for row in record["overlaps"]],
            ),
            f"## With guidance {GUIDANCE:g}\n",
            grid(["order", *columns], [[row["order"], *found(row)] for row in record["guided"]]),
        ]
    )


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {"minus_synchronous": None if one is other else said(apart(one, other))}


def _name(name: str) -> str:
    """Of a job, as in a path."""
    return f"orders/{name.replace(', ', '-').replace(' ', '-')}"


TABLE = Table(
    "orders", "Orders of generation, sizes of blocks and overlaps: quality and likelihood", jobs, record, page
)
