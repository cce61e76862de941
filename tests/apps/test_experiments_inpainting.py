"""The table of completions: what its methods cost, what is paired with what, and the whole of it in small."""

import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Generator

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import experiment_twin
import table_inpainting as table
from experiment_completions import EACH, Hidden, hidden, nearest, of_pixels, summed_up, together
from experiment_jobs import run_jobs
from experiment_plots import png
from experiment_setting import Setting
from experiment_twin import Completing, known_tokens

from apd_generate import MASK_FAMILIES, Given, Recipe, generate
from apd_models import DiT, DiTConfig, Patchify
from apd_train import ImageSet

BUDGETS = (4, 8, 16, 32, 64, 128)


@pytest.mark.parametrize("name", table.METHODS)
def test_methods_make_the_evaluations_that_they_are_asked_for(name: str) -> None:
    model, patchify = DiT(DiTConfig((2, 2), 16, 8, 1, 2, classes=3)), Patchify(8, 8, 1, 4)
    given = Given(torch.zeros(1, 1, 8, 8), torch.arange(8).expand(1, 8, 8) < 4)
    for asked in (4, 8):
        recipe = table.METHODS[name].recipe(asked)
        made = generate(model, patchify, recipe, [0], torch.tensor([1]), given=given).evaluations
        assert made == asked + name.startswith("repaint")


def test_repaint_as_published_makes_2410_evaluations() -> None:
    published = table.PUBLISHED
    assert table.steps_down(published.steps or 0, published.jump or 0, published.resamples or 0) == 2410


@pytest.mark.parametrize(("jump", "resamples"), table.SPENT)
def test_repaint_takes_the_fewest_steps_that_are_enough(jump: int, resamples: int) -> None:
    for asked in BUDGETS:
        steps = table.repaint(asked, jump, resamples).steps
        assert steps is not None
        assert table.steps_down(steps, jump, resamples) >= asked
        assert steps == 1 or table.steps_down(steps - 1, jump, resamples) < asked


def test_the_twin_is_trained_on_the_masks_of_the_families_and_one_level_beside_them() -> None:
    known_tokens.cache_clear()
    with patch.object(experiment_twin, "EACH", 2):
        pool = known_tokens((7, 7), 4)
        levels = Completing((7, 7), 4)(4000, Generator().manual_seed(0))
    known_tokens.cache_clear()
    square = torch.ones(7, 7, dtype=torch.bool)
    square[1:6, 1:6] = False  # the hole of 14 pixels begins at 7, within the second patch
    extrema = torch.zeros(7, 7, dtype=torch.bool)
    extrema[2:5, 2:5] = True
    assert pool.shape == (8, 49, 1)
    assert torch.equal(pool[MASK_FAMILIES.index("square") * 2, :, 0], square.flatten())
    assert torch.equal(pool[MASK_FAMILIES.index("extrema") * 2, :, 0], extrema.flatten())
    clean = (levels == 0)[:, :, 0]
    of = (clean[:, None] == pool[:, :, 0]).all(-1)
    assert of.any(1).all()
    shares = torch.tensor(
        [float((clean == mask).all(1).float().mean()) for mask in (square.flatten(), extrema.flatten())]
    )
    assert (shares - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)
    rest = levels.masked_fill(levels == 0, math.nan)
    highest = rest.nan_to_num(-1).amax(1)
    assert torch.equal(highest, rest.nan_to_num(2).amin(1))
    odds = torch.logit(highest.double())  # of a logit-normal level: normal, with mean 0 and deviation 1
    assert abs(float(odds.mean())) < 5 / math.sqrt(4000)
    assert abs(float(odds.std()) - 1) < 5 / math.sqrt(2 * 4000)


def test_the_nearest_image_is_of_the_class_and_of_what_is_shown() -> None:
    pixels = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    pixels[0, 0, :, :2], pixels[1, 0, :, :2] = 100, 90  # the shown half, and another class that is nearer
    pixels[2, 0, :, 2:], pixels[3] = 255, 60
    training = ImageSet([*pixels], torch.tensor([0, 1, 0, 0]), ("a", "b"), 4)
    shown = torch.arange(4).expand(4, 4) < 2
    truth = torch.full((3, 1, 4, 4), 92 / 127.5 - 1)
    truth[1, :, :, :2] = -1.0
    behind = Hidden(truth, shown.expand(3, 4, 4), torch.tensor([0, 0, 1]))
    assert torch.equal(nearest(behind, training), training.squares([0, 2, 1]))


def test_pixels_count_in_the_hole_and_known_ones_by_equality() -> None:
    truth, known = torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    known[:, :, :4] = True
    images = torch.zeros(2, 2, 1, 8, 8)
    images[0, :, :, :, 4:], images[1, :, :, :, 4:] = 0.5, -0.25
    found = of_pixels(images, Hidden(truth, known, None))
    assert found["psnr"] == pytest.approx([(10 * math.log10(16) + 10 * math.log10(64)) / 2] * 2, rel=1e-5)
    assert found["pixel_diversity"] == pytest.approx([0.75] * 2)
    assert (found["known_pixels"], found["differing"]) == (2 * 2 * 32, 0)
    images[1, 1, 0, 3, 0] = 1e-7
    assert of_pixels(images, Hidden(truth, known, None))["differing"] == 1
    assert "psnr" not in of_pixels(truth[None], Hidden(truth, known, None))  # infinite


def test_cells_are_averaged_and_paired_image_by_image() -> None:
    cell = lambda *values: {"distance": [*values], "known_pixels": 3, "differing": 1}
    both = together([cell(1.0, 5.0, 3.0), cell(3.0, 7.0, 2.0)])
    assert both == {"distance": [2.0, 6.0, 2.5], "known_pixels": 6, "differing": 2}
    kept = summed_up(cell(1.0, 2.0, 6.0), cell(0.5, 2.5, 4.5))
    assert kept["distance"]["value"] == 3
    assert kept["minus"]["distance"]["value"] == 0.5
    assert kept["minus"]["distance"]["standard_error"] == pytest.approx(1 / math.sqrt(3))  # of 0.5, -0.5, 1.5


def made_up() -> dict[str, Any]:
    """Results in which the distance of a method tells its budget, its masks and its image."""

    def cell(distance: float, evaluations: int) -> dict[str, Any]:
        values = [distance, distance + 2]
        kid = {
            "value": float(distance),
            "standard_error": 1.0,
            "pulls": {"images": [0.0, 1.0], "reference": [0.0, 2.0]},
        }
        columns = {name: values for name in EACH}
        told = {"evaluations": evaluations, "recipe": {"steps": evaluations}}
        return {**columns, **told, "kid": kid, "known_pixels": 5, "differing": 0}

    results: dict[str, Any] = {}
    for at, masks in enumerate(table.MASKS):
        for of, name in enumerate(table.METHODS):
            made = {str(n): cell(100 * of + 10 * at + n, n) for n in (4, 8)}
            results[f"inpainting/{name}-{masks}"] = made
        results[f"inpainting/published-{masks}"] = {"published": cell(1000 + 10 * at, 24)}
        results[f"inpainting/floors-{masks}"] = {"mean image": cell(2000 + 10 * at, 0)}
    for family in MASK_FAMILIES:
        spent = {f"jump {j}, resamples {r}": cell(j + 10 * r, 32) for j, r in table.SPENT}
        results[f"inpainting/spent-{family}"] = spent
    return results


def test_differences_are_from_native_of_the_same_masks_and_evaluations() -> None:
    record = table.record(Setting(True, Path()), 1, made_up())
    for of, name in enumerate(table.METHODS):
        rows = {(row["masks"], row["asked"]): row for row in record["curves"][name]}
        assert len(rows) == 2 * 7
        assert all(row["minus"]["distance"]["value"] == 100 * of for row in rows.values())
        assert rows["thin", "8"]["distance"]["value"] == 100 * of + 10 * MASK_FAMILIES.index("thin") + 8 + 1
        assert rows["all", "4"]["distance"]["value"] == 100 * of + 15 + 4 + 1
        assert rows["thin", "8"]["minus"]["kid"]["value"] == 100 * of
    assert [row["minus"]["distance"]["value"] for row in record["published"]] == [992]
    assert [row["minus"]["distance"]["value"] for row in record["floors"]] == [1992] * 7
    assert [row["minus"]["distance"]["value"] for row in record["spent"]["rows"]] == [
        jump + 10 * resamples - 21 for jump, resamples in table.SPENT
    ]
    page = table.page(json.loads(json.dumps(record, allow_nan=False)))
    assert "| thin, 8 | 29.0 ± 1.0 | 129.0 ± 1.0 |" in page
    assert "Known pixels that did not come back as they were: 0." in page


@pytest.mark.slow
def test_the_table_in_small(tmp_path: Path) -> None:
    setting = Setting(True, tmp_path)
    jobs = table.jobs(setting, 1)
    done = run_jobs(jobs, setting, 2, "")
    assert len(done) == len(jobs) == 4 + len(table.METHODS) * 6 + 4 + 1 + 6
    record = json.loads(json.dumps(table.record(setting, 1, {name: each.result for name, each in done.items()})))
    json.dumps(record, allow_nan=False)
    for name, rows in record["curves"].items():
        assert [(row["masks"], row["asked"]) for row in rows] == [
            (masks, asked) for masks in (*table.MASKS, "all") for asked in ("4", "8")
        ]
        for row in rows:
            assert row["evaluations"] == int(row["asked"]) + name.startswith("repaint")
            assert row["differing"] == 0
            assert row["known_pixels"] > 0
            assert row["distance"]["value"] - row["diversity"]["value"] == pytest.approx(
                row["excess"]["value"], abs=1e-4
            )
            assert row["distance"]["standard_error"] > 0
            for column in ("psnr", "ssim", "pixel_diversity"):
                assert math.isfinite(row[column]["value"])
            if row["masks"] != "all":
                assert Recipe.from_dict(row["recipe"]).steps is not None
                assert row["kid"]["standard_error"] > 0
    for row in record["floors"]:
        hidden_nothing = row["asked"] == "nothing hidden"
        assert (row["distance"]["value"] == 0) == hidden_nothing
        assert row["differing"] == 0
    for row in record["published"]:
        recipe = Recipe.from_dict(row["recipe"])
        assert row["evaluations"] == table.steps_down(recipe.steps or 0, 4, 3) >= 24
    assert (png({**record, "table": "inpainting"}) or b"")[:4] == b"\x89PNG"
    assert len(table.page(record).splitlines()) > 100
    as_drawn, whole = hidden(setting, "extrema", 50), hidden(setting, "extrema-patches", 50)
    assert as_drawn.labels is not None
    assert as_drawn.labels.bincount().min() >= 3  # held-out images lie in the order of classes
    assert as_drawn.known.sum() == 50 * 14 * 14
    assert whole.known.sum() == 50 * 12 * 12
    assert not (whole.known & ~as_drawn.known).any()
