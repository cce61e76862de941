"""The table of conversion: whose models start where, the arithmetic of its columns, and the whole of it in small."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import experiment_models
import table_conversion as table
from experiment_jobs import run_jobs
from experiment_models import Model
from experiment_plots import png
from experiment_setting import Setting

from apd_generate import MASK_FAMILIES
from apd_models import from_pretrained
from made_up_columns import FLOORS, result

SETTING = Setting(True, Path("nowhere"))


def test_every_run_starts_from_the_synchronous_model() -> None:
    jobs = table.jobs(SETTING, 2)
    names = [job.name for job in jobs]
    assert len({*names}) == len(names)
    known: set[str] = set()
    for job in jobs:
        assert known >= {*job.needs}
        known.add(job.name)
    training = {job.name: job for job in jobs if job.name.startswith("models/")}
    measuring = {job.name: job for job in jobs if job.name.startswith("columns/")}
    assert len(training) == len(measuring)
    tuned = {name: job for name, job in training.items() if "long" not in name}
    assert all(job.needs == ("models/long-synchronous-0",) for job in tuned.values())
    assert [job.needs for name, job in training.items() if name not in tuned] == [()] * 3
    assert {job.needs[0] for job in measuring.values()} == {*training}
    several = len([budget for budget in table.BUDGETS if budget <= table.SEVERAL])
    assert len(tuned) == len(table.BUDGETS) + several + len(table.TRIED) + 1
    assert "models/tuned-800-0.004-1" not in tuned


def test_a_run_is_what_its_row_says() -> None:
    full = Setting(False, Path())
    scratch = Model(table.SCRATCH).config(full)
    for budget, rate in table.POINTS:
        config = Model(table.name_of(budget, rate), 1, "table_conversion").config(full)
        assert (config.steps, config.learning_rate, config.seed) == (budget, rate, 1)
        assert config.levels is scratch.levels
        for name in ("width", "depth", "heads", "batch_size", "held_out", "flip"):
            assert getattr(config, name) == getattr(scratch, name)
    start = table.SYNCHRONOUS.config(full)
    assert start.steps == scratch.steps
    assert table.MODELS["further"](full).levels is start.levels is not scratch.levels


def test_a_model_that_starts_elsewhere_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that starts from none is the job that it was."""
    model = Model(table.name_of(50, table.RATE), 0, "table_conversion")

    class Loaded:
        digest = "one"

    monkeypatch.setattr(experiment_models.Model, "load", lambda model, setting: Loaded)
    first = model.folder(SETTING)
    assert model.folder(SETTING) == first
    Loaded.digest = "another"
    assert model.folder(SETTING) != first
    scratch = Model(table.SCRATCH)
    job = scratch.job(SETTING)
    assert (scratch.start, job.needs) == (None, ())
    assert {**job.given, "config": ""} == {**asdict(scratch), "config": ""}  # what was kept of it is found


def rows_of(worse: list[float], error: float) -> list[dict[str, Any]]:
    made = [
        {"row": table.name_of(budget, table.RATE), "steps": budget, "minus_scratch": {"KID": said}}
        for budget, value in zip(table.BUDGETS, worse, strict=True)
        for said in [{"value": value, "standard_error": error}]
    ]
    other = {"row": table.name_of(100, table.OTHER), "steps": 100}  # another rate says nothing of this one
    return [*made, {**other, "minus_scratch": {"KID": {"value": 9.0, "standard_error": error}}}]


@pytest.mark.parametrize(
    ("worse", "error", "steps"),
    [
        ([5, 4, 3, 1.9, 1], 1.0, 400),
        ([5, 1, 3, 1.9, 1], 1.0, 400),  # equal once by chance is not yet equal
        ([5, 4, 3, 3, 3], 1.0, None),
        ([-1, -1, -1, -1, -1], 0.0, 50),
        ([4, 3, 2, 1, 0], 0.0, 800),
    ],
)
def test_from_how_many_steps_on(worse: list[float], error: float, steps: int | None) -> None:
    assert table.equal_from(rows_of(worse, error), "KID", "minus_scratch") == steps


def test_how_much_of_the_way_is_gone() -> None:
    at = lambda value, error=0.0: {"minus_scratch": {"KID": {"value": value, "standard_error": error}}}
    assert table.gap_closed(at(0.5), at(2.0), "KID") == 0.75
    assert table.gap_closed(at(-0.5), at(2.0, 0.1), "KID") == 1.25
    assert table.gap_closed(at(0.5), at(2.0, 0.7), "KID") is None  # there may be no way
    assert table.gap_closed(at(0.5), at(-2.0), "KID") is None


def test_the_page_is_of_the_record() -> None:
    models = [model for models in table.runs(3).values() for model in models]
    results: dict[str, Any] = {
        f"columns/{model.name}-{model.seed}": result(1 / (1 + models.index(model) - model.seed), 0) for model in models
    }
    results["floors/kid"] = FLOORS
    results["floors/filled"] = {name: [5.0 + k, 6.0 + k] for k, name in enumerate(MASK_FAMILIES)}
    record = json.loads(json.dumps(table.record(SETTING, 3, results), allow_nan=False))
    assert [row["row"] for row in record["rows"]] == [*table.runs(3)]
    assert [row["seeds"] for row in record["rows"]] == [1, 3, 3, 3, 1, 1, 1, 1, 1, 3]
    start, scratch = record["rows"][0], record["rows"][-1]
    for name in table.COLUMNS:
        assert start["minus_start"][name]["value"] == scratch["minus_scratch"][name]["value"] == 0
        assert start["minus_scratch"][name]["value"] == pytest.approx(1 - 1 / (len(models) - 2))
    assert record["floors"]["mean_image_filled"]["value"] == pytest.approx(7)
    assert (png({**record, "table": "conversion"}) or b"")[:4] == b"\x89PNG"
    page = table.page(record)
    assert page.count("| tuned | 1 | 0.004 | 3 |") == 4
    assert "0.10" in page
    assert "KID of 500 held-out images 0.100 ± 0.010, of the mean image 9.00 ± 0.10." in page
    assert f"After {table.FURTHER} steps, by the default levels less by equal ones: KID " in page


@pytest.mark.slow
def test_the_table_in_small(tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    done = run_jobs(table.jobs(setting, 1), setting, 2, "")
    record = json.loads(json.dumps(table.record(setting, 1, {name: each.result for name, each in done.items()})))
    for row in record["rows"]:
        assert all(math.isfinite(row["columns"][name]["value"]) for name in table.COLUMNS)
    assert record["rows"][0]["columns"] != record["rows"][1]["columns"]
    start = from_pretrained(table.SYNCHRONOUS.folder(setting) / "model")
    tuned = Model(table.name_of(50, table.RATE), 0, "table_conversion")
    said = json.loads((tuned.folder(setting) / "config.json").read_text())
    assert said["start_sha256"] == start.digest
    assert (png({**record, "table": "conversion"}) or b"")[:4] == b"\x89PNG"
    assert "| synchronous | 8 |" in table.page(record)
