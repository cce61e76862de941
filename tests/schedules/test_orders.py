"""Orders of generation."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from apd_schedules import (
    checkerboard,
    coarse_to_fine,
    grouped,
    hilbert,
    one_by_one,
    ranked,
    raster,
    sequential,
    shuffled,
    spiral,
)
from strategies import seeds, turns

sides = st.integers(1, 9)
grids = st.tuples(sides, sides)


def walk(turn: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rows and columns of the tokens of an order one by one, in the order of their turns."""
    order = turn.argsort()
    assert torch.equal(turn[order], torch.arange(grid[0] * grid[1]))
    return torch.stack([order // grid[1], order % grid[1]], 1)


def strides(steps: Tensor) -> Tensor:
    return steps.diff(dim=0).abs().sum(1)


@given(sides, sides, sides, sides)
def test_cells_are_rectangles_as_equal_as_can_be(rows: int, columns: int, down: int, across: int) -> None:
    turn = raster((rows, columns), down, across).reshape(rows, columns)
    down, across = min(down, rows), min(across, columns)
    sizes = turn.flatten().bincount()
    assert len(sizes) == down * across
    for cell in range(down * across):
        where = (turn == cell).nonzero()
        height, width = (where.amax(0) - where.amin(0) + 1).tolist()
        assert height * width == sizes[cell]
        assert height in (rows // down, -(-rows // down))
        assert width in (columns // across, -(-columns // across))
    sequential(turn.flatten())  # every turn is taken


def test_raster_goes_row_by_row() -> None:
    assert raster((2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert raster((4, 4), 2, 2).reshape(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


@given(grids)
def test_a_spiral_goes_from_token_to_neighbour_and_inwards(grid: tuple[int, int]) -> None:
    steps = walk(spiral(grid), grid)
    assert steps[0].tolist() == [0, 0]
    assert (strides(steps) == 1).all()
    to_border = torch.minimum(steps, torch.tensor(grid) - 1 - steps).amin(1)
    assert (to_border.diff() >= 0).all()
    assert torch.equal(walk(spiral(grid, outward=True), grid), steps.flip(0))


def test_spiral_is_clockwise() -> None:
    assert spiral((3, 4)).reshape(3, 4).tolist() == [[0, 1, 2, 3], [9, 10, 11, 4], [8, 7, 6, 5]]
    assert spiral((3, 2), outward=True).reshape(3, 2).tolist() == [[5, 4], [0, 3], [1, 2]]


@given(st.integers(0, 5))
def test_hilbert_on_a_square_goes_one_step_at_a_time_quarter_by_quarter(k: int) -> None:
    side = 2**k
    steps = walk(hilbert((side, side)), (side, side))
    assert (strides(steps) == 1).all()
    assert steps[[0, -1]].tolist() == [[0, 0], [0, side - 1]]
    for depth in range(k + 1):  # each block of side 2^depth is filled before the next
        block = steps.reshape(-1, 4**depth, 2) >> depth
        assert (block == block[:, :1]).all()


@given(grids)
def test_hilbert_on_any_grid_is_the_curve_on_the_square_around_it(grid: tuple[int, int]) -> None:
    side = next(2**k for k in range(5) if 2**k >= max(grid))
    whole = hilbert((side, side)).reshape(side, side)[: grid[0], : grid[1]].flatten()
    assert torch.equal(ranked(whole), hilbert(grid))
    walk(hilbert(grid), grid)


def test_hilbert_is_the_curve() -> None:
    expected = [[0, 1, 14, 15], [3, 2, 13, 12], [4, 7, 8, 11], [5, 6, 9, 10]]
    assert hilbert((4, 4)).reshape(4, 4).tolist() == expected
    assert hilbert((3, 2)).reshape(3, 2).tolist() == [[0, 1], [3, 2], [4, 5]]


@given(grids)
def test_checkerboard_neighbours_never_go_together(grid: tuple[int, int]) -> None:
    turn = checkerboard(grid)
    sequential(turn)
    board = turn.reshape(grid)
    assert board[0, 0] == 0
    assert (board.diff(dim=0).abs() == 1).all()
    assert (board.diff(dim=1).abs() == 1).all()


@given(grids)
def test_coarse_to_fine_halves_the_distance_turn_by_turn(grid: tuple[int, int]) -> None:
    turn = coarse_to_fine(grid).reshape(grid)
    sequential(turn.flatten())
    scales = int(turn.max()) + 1
    assert 2 ** (scales - 1) <= max(grid) < 2**scales
    for scale in range(scales):
        distance = 2 ** (scales - 1 - scale)
        known = torch.zeros(grid, dtype=torch.bool)
        known[::distance, ::distance] = True
        assert torch.equal(turn <= scale, known)


def test_coarse_to_fine_of_small_grids() -> None:
    assert coarse_to_fine((4, 4)).reshape(4, 4).tolist() == [[0, 2, 1, 2], [2, 2, 2, 2], [1, 2, 1, 2], [2, 2, 2, 2]]
    assert coarse_to_fine((2, 6)).reshape(2, 6).tolist() == [[0, 2, 1, 2, 0, 2], [2, 2, 2, 2, 2, 2]]
    assert coarse_to_fine((1, 1)).tolist() == [0]


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=12), st.integers(1, 14))
def test_ranked_keeps_the_order_of_the_values_and_their_ties(raw: list[float], groups: int) -> None:
    values = torch.tensor(raw, dtype=torch.float64)
    turn = ranked(values)
    sequential(turn)
    assert torch.equal(turn[:, None] < turn, values[:, None] < values)
    assert torch.equal(ranked(values, groups), grouped(turn, groups))


def test_ranked_is_smallest_first() -> None:
    values = torch.tensor([0.5, -1.0, 9.0, 0.5, 2.0])
    assert ranked(values).tolist() == [1, 0, 3, 1, 2]
    assert ranked(values, 2).tolist() == [0, 0, 1, 0, 1]
    assert ranked(torch.tensor([30, 10, 20])).tolist() == [2, 0, 1]
    assert ranked(torch.tensor([math.inf, -math.inf, 0.0])).tolist() == [2, 0, 1]


@given(st.data(), st.integers(1, 12))
def test_one_by_one_breaks_ties_by_index(data: st.DataObject, n: int) -> None:
    turn = data.draw(turns(n))
    single = one_by_one(turn)
    assert single.sort().values.tolist() == list(range(n))
    order = single.argsort().tolist()
    assert order == sorted(range(n), key=lambda i: (int(turn[i]), i))


@given(st.data(), st.integers(1, 12), st.integers(1, 14))
def test_grouped_merges_neighbours_evenly(data: st.DataObject, n: int, groups: int) -> None:
    turn = data.draw(turns(n))
    merged, whole = grouped(turn, groups), int(turn.max()) + 1
    sequential(merged)
    assert int(merged.max()) + 1 == min(groups, whole)
    assert ((turn[:, None] < turn) <= (merged[:, None] <= merged)).all()  # never reversed
    sizes = grouped(torch.arange(whole), groups).bincount()
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(merged, grouped(torch.arange(whole), groups)[turn])  # equal turns stay together


def test_grouped_does_not_overflow_small_integers() -> None:
    assert grouped(torch.arange(120, dtype=torch.int8), 60).tolist() == [i // 2 for i in range(120)]


@given(sides, sides, seeds)
def test_shuffling_keeps_the_groups(rows: int, columns: int, seed: int) -> None:
    turn = raster((rows, columns), 3, 3)
    mixed = shuffled(turn, torch.Generator().manual_seed(seed))
    assert torch.equal(turn[:, None] == turn, mixed[:, None] == mixed)
    assert mixed.unique().tolist() == turn.unique().tolist()


@pytest.mark.parametrize("arguments", [((0, 3),), ((3, 3), 0, 1), ((3, 3), 1, -1)])
def test_empty_grids_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="at least one"):
        raster(*arguments)


@pytest.mark.parametrize("order", [spiral, hilbert, checkerboard, coarse_to_fine])
def test_grids_without_tokens_are_refused(order: Callable[[tuple[int, int]], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"at least one row and one column.*\(3, 0\)"):
        order((3, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ranked(torch.tensor([1.0, math.nan, 0.0])), r"numbers, one a token.*NaN at tokens \[1\]"),
        (lambda: ranked(torch.tensor([])), "got 0 values"),
        (lambda: ranked(torch.arange(3), 0), "at least one group, got 0"),
        (lambda: grouped(torch.arange(3), -1), "at least one group, got -1"),
        (lambda: grouped(torch.tensor([0, 2]), 1), "none left out"),
        (lambda: one_by_one(torch.tensor([1, 2])), "none left out"),
    ],
)
def test_impossible_orders_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
