"""Orders of generation."""

import pytest
import torch
from hypothesis import given, strategies as st

from apd_schedules import raster, sequential, shuffled
from strategies import seeds

sides = st.integers(1, 9)


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
