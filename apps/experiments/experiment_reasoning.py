"""Models that are to learn a rule from images, the orders in which they draw, and marks for what they drew."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from experiment_digits import digits, read
from experiment_laws import Law, synchronous, tokens
from experiment_models import Model
from experiment_puzzles import (
    EvenCells,
    Sudokus,
    boards,
    cells_of,
    drawn_boards,
    held_out,
    pixels_of,
    puzzles,
    units_right,
)
from experiment_setting import Setting
from jaxtyping import Bool
from torch import Generator, Tensor

from apd_generate import Given, Recipe, generate
from apd_samplers import mean_beta
from apd_train import TrainConfig, asynchronous

LAWS: Mapping[str, Law] = {
    "default": asynchronous,
    "mean_beta": lambda grid: mean_beta(tokens(grid)),
    "synchronous": synchronous,
}
SIDE = 6
"""Cells a side of the even images."""
EVALUATIONS = {"even": 144, "sudoku": 96}
"""Of the network, for an image."""
ROUNDS, OVERLAP = 4, 0.75
"""Of restarts, in the second half of the evaluations; of the orders that overlap."""
TOGETHER, REPLACEMENT = "synchronous", "synchronous, replacement"


def learner(task: str, law: Law, setting: Setting) -> TrainConfig:
    """A small model of a task.

    Of boards, positions are rotations: with learned ones 3,600 steps did not find rows and columns.
    """
    count = setting.at(20_000, 200)
    of = {
        "even": partial(TrainConfig, data=EvenCells(count), image_size=SIDE, patch=1),
        "sudoku": partial(TrainConfig, data=Sudokus(count), image_size=32, patch=8, position="rope"),
    }[task]
    return of(
        flip=False,
        levels=law,
        error_head=True,
        width=setting.at(64, 16),
        depth=setting.at(4, 1),
        heads=setting.at(4, 2),
        steps=setting.at(1000, 8),
        batch_size=setting.at(64, 16),
        warmup_steps=64,
        evaluate_every=10_000,
        log_every=setting.at(250, 8),
    )


MODELS: dict[str, Callable[[Setting], TrainConfig]] = {
    f"{task}-{name}": partial(learner, task, law) for task in EVALUATIONS for name, law in LAWS.items()
}

Fields = Mapping[str, Any]
ORDERS: Mapping[str, Callable[[int, int, int], Fields]] = {
    # unknown cells, all cells and steps to fields of a recipe
    TOGETHER: lambda unknown, cells, steps: {"steps": steps},
    "raster": lambda unknown, cells, steps: {"order": "raster", "cells": 1000, "steps": steps * cells // unknown},
    "random": lambda unknown, cells, steps: one_by_one("random", unknown, steps),
    "most certain first, predicted": lambda unknown, cells, steps: one_by_one("predicted", unknown, steps),
    "most certain first, changing": lambda unknown, cells, steps: one_by_one("changing", unknown, steps),
    "random, overlapping": lambda unknown, cells, steps: one_by_one("random", unknown, steps, OVERLAP),
    "most certain first, overlapping": lambda unknown, cells, steps: one_by_one("predicted", unknown, steps, OVERLAP),
}


def one_by_one(uncertainty: str, unknown: int, steps: int, overlap: float = 0.0) -> Fields:
    """A cell a turn, of each image in an order of its own."""
    return {
        "scheduler": "most-certain-first",
        "uncertainty": uncertainty,
        "groups": unknown,
        "overlap": overlap,
        "steps": steps,
    }


def recipe_of(order: str, restarts: bool, unknown: int, cells: int, evaluations: int) -> Recipe:
    """With as many evaluations whatever the order, and with restarts or without. In raster order each image rests
    while it is the turn of cells that it was given; these steps are not of the image, and do not count. Steps are
    ancestral, as published: then orders that depend on cells under way sample the model's law too."""
    if order == REPLACEMENT:
        return Recipe(method="replacement", steps=evaluations, eta=1.0)
    if not restarts:
        return Recipe(**ORDERS[order](unknown, cells, evaluations), eta=1.0)
    first = evaluations // 2
    again = {"restarts": ROUNDS, "restart_steps": (evaluations - first) // ROUNDS}
    return Recipe(**ORDERS[order](unknown, cells, first), **again, eta=1.0)


Recipes = Mapping[str, Mapping[str, Any]]


def even(setting: Setting, model: Mapping[str, Any], recipes: Recipes, count: int) -> Mapping[str, Any]:
    """Draws images, and counts the white cells of each, by what a recipe is called."""
    pretrained, found = Model(**model).load(setting), {}
    for name, recipe in recipes.items():
        made = generate(pretrained.model, pretrained.patchify, Recipe.from_dict(recipe), range(count), batch=100)
        off = (made.images > 0).flatten(1).sum(1) - SIDE**2 // 2
        grey = float((made.images.abs() < 0.5).float().mean())
        told = {"recipe": recipe, "evaluations": made.evaluations}
        found[name] = {"right": marks(off == 0), "off": off.tolist(), "grey": grey, **told}
    return found


def sudoku(
    setting: Setting, model: Mapping[str, Any], recipes: Recipes, count: int, given: int, trained: bool = False
) -> Mapping[str, Any]:
    """Draws boards, completes those of which cells are given, and reads them, by what a recipe is called.

    Args:
        given: cells of each board; of others each time, that leave one solution.
        trained: boards and digits that are trained on, to see what is remembered.
    """
    pretrained, result = Model(**model).load(setting), {}
    asked = puzzles(count, given, trained) if given else None
    known = None
    if asked is not None:
        shown = drawn_boards(asked.solution, digits(held_out=not trained), Generator().manual_seed(0))
        known = Given(shown / 127.5 - 1, pixels_of(asked.given))

    for name, recipe in recipes.items():
        followed = Recipe.from_dict(recipe)
        made = generate(pretrained.model, pretrained.patchify, followed, range(count), given=known, batch=100)
        found = read(cells_of(made.images))
        if asked is None:
            which = (found[:, None] == boards()).all(-1)
            right = {"right": marks(which.any(1)), "new": marks(which[:, held_out()].any(1))}
        else:
            found = torch.where(asked.given, asked.solution, found)  # what is given comes back to the bit
            right = {"right": marks((found == asked.solution).all(1))}
        units = units_right(found).float().mean(1)
        told = {"recipe": recipe, "evaluations": made.evaluations}
        result[name] = {**right, "units": [round(each, 4) for each in units.tolist()], **told}
    return result


def named(order: str, restarts: bool) -> str:
    """A way to draw."""
    return f"{order}, restarts" if restarts else order


def marks(right: Bool[Tensor, " n"]) -> str:
    """One for each image that is right, in order: ways to draw are compared image by image."""
    return "".join("01"[each] for each in right.int().tolist())
