"""The table of rules: puzzles against their definition, marks and errors by hand, and the whole of it in small."""

import json
import math
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Generator

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import experiment_digits as digits
import experiment_puzzles as puzzles
import experiment_reasoning as reasoning
import table_reasoning as table
from experiment_jobs import run_jobs
from experiment_models import Model
from experiment_plots import png
from experiment_setting import Setting

from apd_generate import Recipe
from apd_generate._build import schedule_of, scheduler_of
from apd_models import DiT, DiTConfig
from apd_schedules import Posterior


def keeps_the_rule(board: list[int]) -> bool:
    """Cell by cell."""
    rows = [board[4 * k : 4 * k + 4] for k in range(4)]
    columns = [[row[k] for row in rows] for k in range(4)]
    boxes = [[rows[r + i][c + j] for i in (0, 1) for j in (0, 1)] for r, c in product((0, 2), repeat=2)]
    return all(sorted(unit) == [0, 1, 2, 3] for unit in (*rows, *columns, *boxes))


def test_boards_are_all_that_keep_the_rule() -> None:
    boards = puzzles.boards()
    assert len(boards.unique(dim=0)) == len(boards) == 288  # as is known of order 4
    assert all(keeps_the_rule(board) for board in boards.tolist())


def test_units_are_rows_columns_and_boxes() -> None:
    board = puzzles.boards()[:1]
    assert bool(puzzles.units_right(board).all())
    for cell in range(16):
        changed = board.clone()
        changed[0, cell] = (changed[0, cell] + 1) % 4
        row, column = divmod(cell, 4)
        wrong = {row, 4 + column, 8 + row // 2 * 2 + column // 2}
        assert set((~puzzles.units_right(changed)[0]).nonzero()[:, 0].tolist()) == wrong


def test_no_held_out_board_becomes_one_that_is_trained_on_by_renaming_digits() -> None:
    boards, held_out = puzzles.boards(), puzzles.held_out()
    assert int(held_out.sum()) == 72
    trained = {tuple(board) for board in boards[~held_out].tolist()}
    for names in torch.tensor([[1, 0, 2, 3], [1, 2, 3, 0]]):  # of these all renamings are made
        assert not trained & {tuple(board) for board in names[boards[held_out]].tolist()}


@pytest.mark.parametrize("given", [4, 8])
def test_puzzles_have_one_solution(given: int) -> None:
    of = puzzles.puzzles(80, given)
    boards = puzzles.boards()
    assert bool((of.given.sum(1) == given).all())
    agree = ((of.solution[:, None] == boards) | ~of.given[:, None]).all(-1)
    assert bool((agree.sum(1) == 1).all())
    assert bool(agree[:, puzzles.held_out()].any(1).all())
    assert len(of.solution.unique(dim=0)) == 72
    assert not torch.equal(of.given[0], of.given[72])  # the board again, with other cells
    of = puzzles.puzzles(8, given, trained=True)
    assert not bool((of.solution[:, None] == boards[puzzles.held_out()]).all(-1).any())


def test_images_of_boards_are_read_as_they_were_drawn() -> None:
    boards = puzzles.boards()[puzzles.held_out()]
    images = puzzles.drawn_boards(boards, digits.digits(held_out=True), Generator().manual_seed(1))
    assert images.shape == (72, 1, 32, 32)
    assert torch.equal(digits.read(puzzles.cells_of(images / 127.5 - 1)), boards)
    assert digits.accuracy() == 1.0
    given = torch.zeros(1, 16, dtype=torch.bool)
    given[0, 6] = True
    rows, columns = puzzles.pixels_of(given)[0].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 16, 23)


def test_digits_are_never_on_both_sides() -> None:
    known, other = (torch.cat(digits.digits(each)).flatten(1) for each in (False, True))
    assert len(known) + len(other) == 721
    assert not bool((known[:, None] == other).all(-1).any())


def test_even_images_are_even_and_all_such_equally_likely() -> None:
    images = puzzles.EvenCells(4000).load(4).squares()
    assert set(images.unique().tolist()) == {-1.0, 1.0}
    white = (images > 0).flatten(1).double()
    assert bool((white.sum(1) == 8).all())
    # each cell is white in half of them, and two cells together in 8 7 / (16 15)
    both = (white.T @ white) / len(white)
    expected = torch.full((16, 16), 7 / 30, dtype=torch.float64).fill_diagonal_(0.5)
    error = (expected * (1 - expected) / len(white)).sqrt()
    assert bool(((both - expected).abs() < 5 * error).all())


@pytest.mark.parametrize("order", reasoning.ORDERS)
@pytest.mark.parametrize(("task", "side", "unknown"), [("sudoku", 4, k) for k in (8, 12, 16)] + [("even", 6, 36)])
def test_all_orders_take_as_many_evaluations(order: str, task: str, side: int, unknown: int) -> None:
    """Of an image, in the steps that its scheduler makes; overlapping turns do not divide them to the last."""
    model, all_of_them = DiT(DiTConfig((side, side), 4, 8, 1, 2, error_head=True)), reasoning.EVALUATIONS[task]
    start = torch.zeros(1, side**2, 1)
    start[:, :unknown] = 1  # in raster order the last turns are then of cells that rest
    z = torch.zeros(1, side**2, 4)
    for restarts in (False, True):
        recipe = reasoning.recipe_of(order, restarts, unknown, side**2, all_of_them).resolved(model)
        scheduler = scheduler_of(recipe, model, schedule_of(recipe), [0])(start)
        finished = getattr(scheduler, "finished", None)
        assert finished is not None
        noise, state = scheduler.init(z)
        made = 0
        while not finished(noise, state):
            noise, state = scheduler.next(noise, Posterior(z + made, torch.zeros(1, side**2)), state)
            made += 1
        assert recipe.restarts * (recipe.restart_steps or 0) == (all_of_them // 2 if restarts else 0)
        assert made == pytest.approx(all_of_them, rel=0.03 if "overlapping" in order else 0, abs=0)
        assert recipe.eta == 1


@pytest.mark.parametrize("apart", [(1.0, 2.0), (0.0, 0.0), (0.0, 1.0)])
def test_errors_are_over_models_and_images(apart: tuple[float, float]) -> None:
    """Two-way: what models and images each vary by is told from what is left."""
    stream = Generator().manual_seed(0)
    found = []
    for _ in range(400):
        models, images = apart[0] * torch.randn(5, 1, generator=stream), apart[1] * torch.randn(40, generator=stream)
        chance = (models + images + torch.randn(5, 40, generator=stream)) > 0
        found.append(table.share([{"right": reasoning.marks(row)} for row in chance]))
    values = torch.tensor([each.value for each in found])
    said = math.sqrt(sum((each.standard_error or 0) ** 2 for each in found) / len(found))
    assert said == pytest.approx(float(values.std()), rel=0.15)


def test_differences_are_image_by_image() -> None:
    one, other = ([{"right": "0111"}], [{"right": "0101"}])
    assert table.share(one, other).value == 0.25
    assert table.share(one, other).standard_error == pytest.approx(0.25)
    assert table.share(one, one).standard_error == 0


def test_trivial_answers() -> None:
    found = table.trivial_even(4)
    assert found["random"] == 6 / 16
    assert found["off"] == pytest.approx((2 * 2 + 8 * 1) / 16)
    setting = Setting(True, Path("nowhere"))
    of = puzzles.puzzles(8, 8)
    chances = []
    for solution, given in zip(of.solution.tolist(), of.given.tolist(), strict=True):
        chance = 1.0
        for cell in range(16):
            sees = [k for k in range(16) if given[k] and k != cell and _share_a_unit(k, cell)]
            chance /= 1 if given[cell] else 4 - len({solution[k] for k in sees})
        chances.append(chance)
    assert table.trivial_sudoku(8, setting)["allowed"] == pytest.approx(sum(chances) / 8)
    assert table.trivial_sudoku(0, setting)["random"] == pytest.approx(288 / 4**16)


def _share_a_unit(one: int, other: int) -> bool:
    box = lambda cell: (cell // 8, cell % 4 // 2)
    return one // 4 == other // 4 or one % 4 == other % 4 or box(one) == box(other)


@pytest.mark.slow
def test_the_table_in_small(tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    done = run_jobs(table.TABLE.jobs(setting, 1), setting, 2, "")
    record = table.TABLE.record(setting, 1, {name: each.result for name, each in done.items()})
    read = json.loads(json.dumps(record, allow_nan=False))
    for name, _, more in table.ASKED:
        rows = {(row["levels"], row["order"], row["restarts"]): row for row in read["rows"] if row["task"] == name}
        assert [*rows] == [(law, *way) for law in reasoning.LAWS for way in table.ways(law, **more)]
        for (law, order, restarts), row in rows.items():
            assert Recipe.from_dict(row["recipe"])
            assert 0 <= row["right"]["value"] <= 1
            assert (row["minus_synchronous"] is None) == (order.startswith("synchronous") and not restarts)
            assert (row["recipe"].get("method") == "replacement") == (law == "synchronous" and bool(more.get("given")))
    assert Model("sudoku-default", 0, table.MODULE).load(setting).model.error is not None
    assert (png({**read, "table": "reasoning"}) or b"")[:4] == b"\x89PNG"
    page = table.TABLE.page(read)
    assert page.count("| default | most certain first, predicted |") == 4
