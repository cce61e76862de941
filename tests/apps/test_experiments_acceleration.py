"""The table of uneven steps: the arithmetic of its differences, and the whole of it in small."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Generator

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import table_acceleration as table
from experiment_drawing import drawn
from experiment_jobs import run_jobs
from experiment_kid import apart, pulls
from experiment_plots import WAYS_SHOWN, png
from experiment_setting import Setting
from experiment_ways import TOGETHER, WAYS, WHICH

from apd_generate import Recipe
from apd_generate._build import stream
from apd_metrics import kernel_distance
from apd_models import DiT, DiTConfig, Patchify, Pretrained
from apd_samplers import DDIM, PerSampleNoise, Predicted, UncertaintyGuided, sample
from apd_schedules import RectifiedFlow


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 5, generator=Generator().manual_seed(seed), dtype=torch.float64) + shift


def pulled(of: torch.Tensor, reference: torch.Tensor) -> dict[str, object]:
    each = zip(("images", "reference"), pulls(of, reference), strict=True)
    return {
        "value": kernel_distance(of, reference).value,
        "pulls": {name: values.tolist() for name, values in each},
    }


def test_pulls_are_what_a_distance_changes_by_when_one_is_left_out() -> None:
    x, y, other = features(7, 0), features(9, 1), features(7, 2, 0.5)
    of_images, of_reference = pulls(x, y)
    whole = kernel_distance(x, y).value
    for i in range(len(x)):
        without = kernel_distance(torch.cat([x[:i], x[i + 1 :]]), y).value
        assert float(of_images[i]) == pytest.approx(6 * (whole - without), rel=1e-9)
    # of the reference only differences are told: what it has alone is left out
    apart_whole = whole - kernel_distance(other, y).value
    theirs = pulls(other, y)[1]
    for j in range(len(y)):
        rest = torch.cat([y[:j], y[j + 1 :]])
        without = kernel_distance(x, rest).value - kernel_distance(other, rest).value
        assert float(of_reference[j] - theirs[j]) == pytest.approx(8 * (apart_whole - without), rel=1e-9)


def test_differences_are_of_the_distances_and_their_errors_of_the_pairs() -> None:
    y, x = features(40, 1), features(30, 0, 0.3)
    near = x + 0.01 * features(30, 3)
    one, other = pulled(x, y), pulled(near, y)
    found = apart(one, other)
    assert found.value == pytest.approx(kernel_distance(x, y).value - kernel_distance(near, y).value)
    alone = kernel_distance(x, y).standard_error
    assert found.standard_error is not None
    assert alone is not None
    assert 0 < found.standard_error < alone / 10
    assert apart(one, one).value == apart(one, one).standard_error == 0


def test_errors_of_differences_are_their_spread() -> None:
    """Over 120 draws of pairs and reference, from which a standard deviation is known to 6.5 %."""
    values, errors = [], []
    for k in range(120):
        y, x = features(40, 3 * k, 0.3), features(30, 3 * k + 1)
        found = apart(pulled(x, y), pulled(0.8 * x + 0.2 * features(30, 3 * k + 2), y))
        assert found.standard_error is not None
        values.append(found.value)
        errors.append(found.standard_error)
    spread = float(torch.tensor(values).std())
    said = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert 0.67 < said / spread < 1.5


def small(one_way: bool = False) -> Pretrained:
    config = DiTConfig((3, 3), 4, 8, 1, 2, classes=4, error_head=True, one_way=one_way)
    torch.manual_seed(0)
    model = DiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Pretrained(model.eval(), Patchify(6, 6, 1, 2), ("a", "b", "c", "d"), "random")


def test_the_figure_shows_ways_that_there_are() -> None:
    assert {*WAYS_SHOWN} < WAYS.keys()


def test_ways_are_of_as_many_evaluations_as_asked_and_count_what_moves() -> None:
    pretrained = small()
    for name, way in WAYS.items():
        given = way.given(8)
        made = drawn(pretrained, Recipe.from_dict(given["recipe"]), range(5), torch.arange(5) % 4)
        assert made.images.shape == (5, 1, 6, 6)
        assert made.evaluations == 8, name
        assert made.through <= 8
        assert made.moves.shape == (5, 9)
        assert bool((made.moves >= 1).all())
        steps = 8 // way.each
        assert bool((made.moves <= steps).all())
        if name == TOGETHER:
            assert bool((made.moves == 8).all())
        if name == "round robin":
            assert bool((made.moves == 2).all())
        if name == "dual loop":  # two steps of certain tokens, four substeps in each for the others
            assert set(made.moves.unique().tolist()) == {2, 5, 8}


def test_lagged_is_the_same_with_tokens_left_out_where_tokens_see_cleaner_ones_only() -> None:
    """Against all of them in every evaluation."""
    pretrained = small(one_way=True)
    recipe = Recipe.from_dict(WAYS["predicted, patience 1, lagged"].given(12)["recipe"])
    made = drawn(pretrained, recipe, range(3, 7), torch.tensor([3, 0, 1, 2]))
    scheduler = UncertaintyGuided(RectifiedFlow(), 12, Predicted(), patience=1.0, lagged=True)
    start = PerSampleNoise(range(3, 7))(torch.empty(4, 9, 4))
    solver = DDIM(1.0, stream(range(3, 7), "solver"))
    whole = sample(pretrained.model, solver, scheduler, start, label=torch.tensor([3, 0, 1, 2]))
    torch.testing.assert_close(made.images, pretrained.patchify.to_images(whole.tokens), rtol=0, atol=1e-4)
    assert torch.equal(made.moves, whole.token_updates)
    assert made.through < 12


def test_images_and_moves_are_in_the_order_of_the_seeds_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding, which random weights enlarge."""
    pretrained, labels = small(), torch.arange(7) % 4
    of = lambda way: Recipe.from_dict(WAYS[way].given(8)["recipe"])
    plain, lagged = of("predicted, patience 1"), of("predicted, patience 1, lagged")
    whole = [drawn(pretrained, recipe, range(7), labels) for recipe in (plain, lagged)]
    monkeypatch.setattr("experiment_drawing.BATCH", 3)
    for one, recipe in zip(whole, (plain, lagged), strict=True):
        parts = drawn(pretrained, recipe, range(7), labels)
        torch.testing.assert_close(parts.images, one.images, rtol=0, atol=0.05)
        assert torch.equal(parts.moves, one.moves)


@pytest.mark.slow
def test_the_table_in_small(tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    done = run_jobs(table.TABLE.jobs(setting, 1), setting, 2, "")
    record = table.TABLE.record(setting, 1, {name: each.result for name, each in done.items()})
    read = json.loads(json.dumps(record, allow_nan=False))
    for seen, (_, ways) in WHICH.items():
        rows = read["models"][seen]["rows"]
        assert [(row["way"], row["asked"]) for row in rows] == [(way, asked) for way in ways for asked in (8, 32)]
        for row in rows:
            assert row["evaluations"] <= row["asked"]
            assert row["moves"] <= row["asked"]
            assert row["through"] <= row["asked"]
            assert len(row["moves_of_each"]) == 49
            assert sum(row["moves_of_each"]) / 49 == pytest.approx(row["moves"], abs=1e-3)
            assert row["seconds"] > 0
            assert "pulls" not in row["kid"]
            if row["way"] == TOGETHER:
                assert row["minus_synchronous"]["value"] == row["minus_synchronous"]["standard_error"] == 0
                assert row["moves"] == row["through"] == row["asked"]
                assert row["relative"]["value"] == 1
    assert [*read["calibration"]["levels"]] == ["synchronous", "raster"]
    assert all(len(rows) == 10 for rows in read["calibration"]["levels"].values())
    results = {name: each.result for name, each in done.items()}
    assert table.TABLE.pictures["-steps-per-patch"](results)[:4] == b"\x89PNG"
    assert (png({**read, "table": "acceleration"}) or b"")[:4] == b"\x89PNG"
    page = table.TABLE.page(read)
    assert page.count("\n| synchronous |") == 4
    assert "nan" not in page
