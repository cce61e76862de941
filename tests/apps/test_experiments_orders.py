"""The table of orders: that its turns are those of the recipes, and the whole of it in small."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import table_orders as table
from experiment_jobs import run_jobs
from experiment_laws import LONG_DEFAULT
from experiment_models import Model
from experiment_plots import png
from experiment_setting import Setting
from experiment_ways import DENSE

from apd_generate import Recipe
from apd_generate._orders import turns_of
from apd_models import DiT, DiTConfig

each_grid = pytest.mark.parametrize("of", [(2, 2), (7, 7), (8, 8)], ids=str)


def model(of: tuple[int, int]) -> DiT:
    return DiT(DiTConfig(of, 16, 8, 1, 2, classes=3, error_head=True))


@each_grid
def test_bounds_are_along_the_turns_that_recipes_take(of: tuple[int, int]) -> None:
    network = model(of)
    for name, order in table.ORDERS.items():
        recipe = Recipe.from_dict(order.given(96, of)["recipe"]).resolved(network)
        if order.turns is not None and recipe.scheduler == "sequential":
            assert torch.equal(order.turns(of), turns_of(recipe, of)), name
        else:
            assert recipe.scheduler == ("synchronous" if name == table.TOGETHER else "most-certain-first")


@each_grid
def test_each_turn_has_as_many_steps(of: tuple[int, int]) -> None:
    for name, order in table.ORDERS.items():
        for asked in table.EVALUATIONS:
            given = order.given(asked, of)
            each, rest = divmod(given["recipe"]["steps"], given["turns"])
            assert rest == 0
            assert each >= 1
            assert each == 1 or abs(given["recipe"]["steps"] - asked) <= given["turns"] / 2, name


def test_blocks_go_from_all_at_once_to_one_by_one() -> None:
    for names in table.BLOCKS:
        turns = [table.ORDERS[name].turns for name in names]
        assert [0 if each is None else int(each((7, 7)).max()) + 1 for each in turns] == [1, 4, 16, 49]


def test_overlaps_can_be_followed() -> None:
    for _, _, recipe in table.overlaps(Setting(False, Path())):
        steps = Recipe.from_dict(recipe).resolved(model((7, 7))).steps or 0
        assert abs(steps - table.AT) <= (3 if recipe["scheduler"] == "most-certain-first" else 0)  # as turns allow


def test_orders_of_more_turns_than_evaluations_are_left_out() -> None:
    jobs = {job.name: job for job in table.TABLE.jobs(Setting(False, Path()), 1)}
    assert [*jobs["orders/raster"].given["ways"]] == ["16", "48", "96", "192"]
    assert [*jobs["orders/raster-one-by-one"].given["ways"]] == ["48", "96", "192"]


def test_differences_of_bits_are_of_the_same_images() -> None:
    results = {
        table._name(f"bits {name}"): {"bits": [1.0 + k, 2.0 + 2 * k, 4.0 - k]}
        for k, (name, order) in enumerate(table.ORDERS.items())
        if order.turns is not None
    }
    first, second, *_ = table._bits(results)
    assert first["bits"]["value"] == pytest.approx(7 / 3)
    assert first["minus_synchronous"] is None
    # 1, 2 and -1: mean 2/3, variance 7/3, of three
    assert second["minus_synchronous"]["value"] == pytest.approx(2 / 3)
    assert second["minus_synchronous"]["standard_error"] == pytest.approx((7 / 9) ** 0.5)


@pytest.mark.slow
def test_the_table_in_small(tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    done = run_jobs(table.TABLE.jobs(setting, 1), setting, 2, "")
    record = table.TABLE.record(setting, 1, {name: each.result for name, each in done.items()})
    read = json.loads(json.dumps(record, allow_nan=False))
    assert [row["order"] for row in read["orders"]] == [*table.ORDERS]
    for row in read["orders"]:
        assert row["evaluations"] == row["recipe"]["steps"]
        # a token moves in the steps of its turn, and in no other
        assert row["moves"] == pytest.approx(row["evaluations"] / row["turns"])
        assert "pulls" not in row["kid"]
        assert (row["minus_synchronous"] is None) == (row["order"] == table.TOGETHER)
    assert {row["kind"] for row in read["overlaps"]} == {"width", "token by token, width", "active", "overlap"}
    for row in read["overlaps"]:
        assert row["moves"] > table.AT / (49 if row["kind"].startswith("token") else 16)
    assert all(row["evaluations"] == 2 * row["recipe"]["steps"] for row in read["guided"])
    chosen_on_the_way = 3
    assert len(read["bits_per_dim"]) == len(table.ORDERS) - chosen_on_the_way
    assert (png({**read, "table": "orders"}) or b"")[:4] == b"\x89PNG"
    page = table.TABLE.page(read)
    for name in table.ORDERS:
        assert f"\n| {name} |" in page
    assert "nan" not in page


def test_the_model_is_one_that_other_tables_share_and_has_what_orders_go_by() -> None:
    """The head changes nothing of it: see tests/train/test_error_head.py."""
    setting = Setting(False, Path())
    model = Model(LONG_DEFAULT)
    assert model == table.MODEL == DENSE
    assert model.config(setting).error_head
