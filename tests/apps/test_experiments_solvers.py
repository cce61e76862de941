"""The table of solvers: which numbers it compares, and the whole of it in small."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import table_solvers as table
from experiment_jobs import Job, run_jobs
from experiment_plots import png
from experiment_setting import Setting

from apd_generate import Recipe
from apd_models import DiT, DiTConfig
from made_up_columns import FLOORS, result

FULL = Setting(False, Path("nowhere"))
NETWORK = DiT(DiTConfig((7, 7), 16, 8, 1, 2, classes=3))


def drawing(setting: Setting, seeds: int) -> list[Job]:
    return [job for job in table.jobs(setting, seeds) if job.name.startswith("solvers/")]


def test_ways_are_compared_by_evaluations() -> None:
    """A solver or a guidance that asks the network twice a step takes half of the steps."""
    for job in drawing(FULL, 1):
        for asked, told in job.given["recipes"].items():
            recipe = Recipe.from_dict(told).resolved(NETWORK)
            assert recipe.steps is not None
            each = (2 if recipe.solver == "heun" else 1) * (1 if recipe.guidance == 1 else 2)
            assert recipe.steps * each == int(asked), job.name


def test_the_default_recipe_is_among_them() -> None:
    """Both models draw by it."""
    recipes = [Recipe.from_dict(told) for job in drawing(FULL, 1) for told in job.given["recipes"].values()]
    assert [recipe.resolved(NETWORK) for recipe in recipes].count(Recipe().resolved(NETWORK)) == 2


def test_every_way_is_drawn_by_the_default_model() -> None:
    names = [job.name for job in drawing(FULL, 3)]
    assert len(names) == len({*names}) == 3 * 2 * (2 + 2 + 2) + 3 * 3
    for _, ways in table.TASKS.values():
        assert next(iter(ways)) == table.STEADY
        assert all(table.LONG_DEFAULT in way.models for way in ways.values())


@pytest.mark.parametrize("seeds", [1, 3])
def test_differences_are_seed_by_seed(seeds: int) -> None:
    """From deterministic steps of the same model, and from the bar that draws the same way."""
    results: dict[str, Any] = {"floors/kid": FLOORS}
    for job in drawing(FULL, seeds):
        shift = 0.5 * ("synchronous" in job.name) + 2.0 * ("eta-1" in job.name)
        seed = job.given["model"]["seed"]
        of = lambda asked, shift=shift, seed=seed: result(shift + int(asked) / 64, seed)["kid"]
        results[job.name] = {asked: {"kid": of(asked), "evaluations": int(asked)} for asked in job.given["recipes"]}
    record = json.loads(json.dumps(table.record(FULL, seeds, results), allow_nan=False))
    for row in record["rows"]:
        noisy, bar = row["way"] == "ddim, eta 1", row["model"] == table.BAR
        assert row["kid"]["value"] == pytest.approx(1 + 0.5 * bar + 2 * noisy + row["evaluations"] / 64)
        assert len(row["kid_of_seeds"]) == seeds
        assert (row["minus_steady"] is None) == (row["way"] == table.STEADY)
        assert (row["minus_bar"] is None) == (bar or row["way"] in table.OTHERS)
        if row["minus_steady"] is not None:
            assert row["minus_steady"]["value"] == pytest.approx(2.0 * noisy)
        if row["minus_bar"] is not None:
            assert row["minus_bar"] == {"value": pytest.approx(-0.5), "standard_error": pytest.approx(0, abs=1e-9)}
    figure = png({**record, "table": "solvers"})
    assert figure is not None
    assert figure == png({**record, "table": "solvers"})
    page = table.page(record)
    assert page.count("\n| the default levels, ") == 5 * 4 + 2 * 4 + 2 * 3
    assert page.count("\n| one level for all, ") == 2 * 4 + 2 * 4 + 2 * 3


@pytest.mark.slow
def test_the_table_in_small(tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    done = run_jobs(table.jobs(setting, 1), setting, 2, "")
    results = {name: each.result for name, each in done.items()}
    for row in json.loads(json.dumps(table.record(setting, 1, results), allow_nan=False))["rows"]:
        assert row["kid"]["standard_error"] > 0
        assert row["evaluations"] == int(row["recipe"]["steps"]) * (2 if row["task"] == "guided" else 1) * (
            2 if row["way"] == "heun" else 1
        )
    assert "nan" not in table.page(table.record(setting, 1, results))
