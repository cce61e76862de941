"""Images that follow a rule which can be checked: as many cells of one colour as of the other, and Sudoku of digits.

Both tasks are those of Wewer et al. 2025 (arXiv:2502.21075), in small.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product

import torch
from experiment_digits import SIDE, digits
from jaxtyping import Bool, Float, Int, UInt8
from torch import Generator, Tensor

from apd_train import ImageSet

ORDER = 4
"""Rows, columns, boxes and digits of a Sudoku."""
HELD_OUT = (0, 5, 10)
"""Kinds of boards that no model is trained on, of twelve; see :func:`kinds`."""


@dataclass(frozen=True, slots=True)
class EvenCells:
    """Images of black and white pixels, exactly half of them white, all such images equally likely.

    Even pixels as published have any two opposite hues; the rule is the same.
    """

    count: int

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        order = torch.rand(self.count, size * size, generator=Generator().manual_seed(0)).argsort(1)
        white = order < size * size // 2
        return _unlabelled(255 * white.to(torch.uint8).reshape(self.count, 1, size, size), size)


@dataclass(frozen=True, slots=True)
class Sudokus:
    """Images of filled boards, every cell a handwritten digit: boards and digits that may be trained on."""

    count: int

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        if size != ORDER * SIDE:
            raise ValueError(f"a board is {ORDER * SIDE} pixels wide, got {size}")
        stream = Generator().manual_seed(0)
        known = boards()[~held_out()]
        chosen = known[torch.randint(len(known), (self.count,), generator=stream)]
        return _unlabelled(drawn_boards(chosen, digits(held_out=False), stream), size)


def _unlabelled(images: UInt8[Tensor, "n c h w"], size: int) -> ImageSet:
    return ImageSet([*images], torch.zeros(len(images), dtype=torch.long), (), size)


@cache
def boards() -> Int[Tensor, "288 16"]:
    """All filled Sudokus of order 4, with digits 0 to 3."""
    rows = torch.tensor([*permutations(range(ORDER))])
    every = rows[torch.tensor([*product(range(len(rows)), repeat=ORDER)])].flatten(1)
    return every[units_right(every).all(1)]


def units_right(of: Int[Tensor, "n 16"]) -> Bool[Tensor, "n 12"]:
    """Which rows, columns and boxes have every digit once."""
    cells = of.reshape(-1, ORDER, ORDER)
    boxes = of.reshape(-1, 2, 2, 2, 2).transpose(2, 3).flatten(3).flatten(1, 2)
    units = torch.cat([cells, cells.transpose(1, 2), boxes], dim=1)
    return (units.sort(-1).values == torch.arange(ORDER)).all(-1)


@cache
def kinds() -> Int[Tensor, " 288"]:
    """The kind of each board. Boards that become one another by renaming digits are of a kind: 12 kinds of 24."""
    of = boards()
    names = of[:, :ORDER].argsort(1)  # the first row then reads 0 1 2 3
    return names.gather(1, of).unique(dim=0, return_inverse=True)[1]


def held_out() -> Bool[Tensor, " 288"]:
    """Boards that no model is trained on, nor on any that they become by renaming digits."""
    return torch.isin(kinds(), torch.tensor(HELD_OUT))


@dataclass(frozen=True, slots=True)
class Puzzles:
    """Boards with some cells given.

    Args:
        solution: the only board that agrees with what is given.
        given: which cells are.
    """

    solution: Int[Tensor, "n 16"]
    given: Bool[Tensor, "n 16"]


@cache
def puzzles(count: int, given: int, trained: bool = False) -> Puzzles:
    """Puzzles of one solution, a board that is held out; or, to compare with, that is trained on.

    Boards come in turn, each with cells that are drawn anew from all choices of so many that leave one solution.
    """
    every, stream = boards(), Generator().manual_seed(given)
    some = torch.tensor([*combinations(range(ORDER**2), given)]).reshape(-1, given)
    choices = torch.zeros(len(some), ORDER**2, dtype=torch.bool).scatter(1, some, True)
    asked = every[held_out() ^ trained]
    asked = asked[torch.randperm(len(asked), generator=stream)[:count]]
    shown = []
    for board in asked:
        differ = (every != board).float()  # a choice leaves one solution if each other board differs in a cell of it
        good = choices[(choices.float() @ differ.T > 0).sum(1) == len(every) - 1]
        shown.append(good[torch.randint(len(good), (-(-count // len(asked)),), generator=stream)])
    of = torch.arange(count)
    return Puzzles(asked[of % len(asked)], torch.stack(shown)[of % len(asked), of // len(asked)])


def drawn_boards(
    of: Int[Tensor, "n 16"], each: Sequence[UInt8[Tensor, "_k side side"]], stream: Generator
) -> UInt8[Tensor, "n 1 size size"]:
    """Boards as images, for every cell some image of its digit."""
    cells = torch.zeros(*of.shape, SIDE, SIDE, dtype=torch.uint8)
    for digit, images in enumerate(each):
        where = of == digit
        cells[where] = images[torch.randint(len(images), (int(where.sum()),), generator=stream)]
    return cells.reshape(-1, ORDER, ORDER, SIDE, SIDE).transpose(2, 3).reshape(-1, 1, ORDER * SIDE, ORDER * SIDE)


def cells_of(images: Float[Tensor, "n 1 size size"]) -> Float[Tensor, "n 16 side side"]:
    """The cells of boards, row by row."""
    return images.reshape(-1, ORDER, SIDE, ORDER, SIDE).transpose(2, 3).flatten(1, 2)


def pixels_of(given: Bool[Tensor, "n 16"]) -> Bool[Tensor, "n size size"]:
    """Of cells."""
    rows = given.reshape(-1, ORDER, ORDER)
    return rows.repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)
