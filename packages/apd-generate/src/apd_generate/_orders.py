"""The turn of every token, as a recipe says."""

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from apd_schedules import checkerboard, coarse_to_fine, grouped, hilbert, ranked, raster, shuffled, spiral

from ._recipe import Recipe


def turns_of(recipe: Recipe, grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """Of a recipe whose defaults are filled in and that has an order."""
    match recipe.order:
        case "raster":
            return raster(grid, recipe.cells, recipe.cells)
        case "random":
            return shuffled(raster(grid, recipe.cells, recipe.cells), Generator().manual_seed(recipe.order_seed or 0))
        case "checkerboard":
            return checkerboard(grid)
        case "coarse-to-fine":
            return coarse_to_fine(grid)
        case "spiral":
            return grouped(spiral(grid), recipe.groups or 1)
        case "hilbert":
            return grouped(hilbert(grid), recipe.groups or 1)
        case "drawn":
            return ranked(torch.tensor(recipe.drawn, dtype=torch.float64).flatten(), recipe.groups)
    raise AssertionError(f"there is no order {recipe.order!r}")


def count_turns(recipe: Recipe, grid: tuple[int, int]) -> int:
    return int(turns_of(recipe, grid).max()) + 1


def steps_of_a_turn(steps: int, groups: int, overlap: float) -> int:
    """Of most-certain-first, whose turns are all of as many steps: the number with which all take about ``steps``."""
    return max(1, round(steps / ((groups - 1) * (1 - overlap) + 1)))
