"""`apps/evaluate --metric inpainting` as a user runs it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from apd_generate import MASK_FAMILIES, Given, Recipe, draw_mask, generate
from apd_metrics import (
    Estimate,
    average,
    extract,
    feature_distance,
    feature_diversity,
    kernel_distance,
    pixel_diversity,
    psnr,
    ssim,
)
from apd_models import from_pretrained, save_pretrained
from apd_train import hold_out, load_animals28, load_folder
from app_runner import app_here, assert_refused
from evaluate_cases import KINDS, app_module, make_images, make_model, tiny_extractor, with_tiny_features

COUNT, TIMES = 6, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 images, of which training would hold out 20."""
    return make_images(tmp_path_factory.mktemp("images"), KINDS, 200)


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    with_tiny_features(monkeypatch)


def evaluated(out: Path, *options: object) -> dict[str, Any]:
    done = app_here("evaluate", "--metric", "inpainting", *options, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(out.read_text())["inpainting"]


def truth_of(data: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Images that are completed, their labels, and the other ones."""
    held_out = hold_out(load_folder(data, 8), 20)[1]
    chosen = [0, 3, 6, 10, 13, 16]
    others = [k for k in range(20) if k not in chosen]
    return held_out.squares(chosen), held_out.labels[chosen], held_out.squares(others)


def eight_bits(images: Tensor) -> Tensor:
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def close(found: dict[str, float], expected: Estimate) -> None:
    assert found["value"] == pytest.approx(expected.value, rel=1e-4, abs=1e-6)
    assert found["standard_error"] == pytest.approx(expected.standard_error, rel=1e-3, abs=1e-6)


@pytest.mark.usefixtures("_tiny")
def test_the_figures_are_those_of_the_library(model: Path, data: Path, tmp_path: Path) -> None:
    """Two families, each image behind a mask of its own, three completions of each, of the class of the image."""
    options = ("--model", model, "--data", data, "--images", COUNT, "--candidates", TIMES, "--seed", 4, "--steps", 3)
    record = evaluated(tmp_path / "f.json", *options, "--masks", "wide", "extrema", "--batch", 5)
    truth, labels, others = truth_of(data)
    extractor, loaded = tiny_extractor(), from_pretrained(model)
    other_features = extract(extractor, [others])
    assert [each["family"] for each in record["families"]] == ["wide", "extrema"]
    for found in record["families"]:
        seeded = Generator().manual_seed(4)
        known = torch.stack([draw_mask(found["family"], 8, 8, seeded) for _ in range(COUNT)])
        given = Given(truth, known).repeated(TIMES)
        seeds, recipe = range(4, 4 + COUNT * TIMES), Recipe(steps=3)
        made = generate(loaded.model, loaded.patchify, recipe, seeds, labels.repeat(TIMES), given=given)
        images = eight_bits(made.images).unflatten(0, (TIMES, COUNT))
        maps = lambda of: extractor(of, maps=True).maps
        hole, mine = ~known, found["model"]
        distances = torch.stack([feature_distance(maps(each), maps(truth)) for each in images])
        close(mine["distance"], average(distances.mean(0)))
        close(mine["psnr"], average(torch.stack([psnr(each, truth, hole) for each in images]).mean(0)))
        close(mine["ssim"], average(torch.stack([ssim(each, truth, hole) for each in images]).mean(0)))
        kids = [kernel_distance(extract(extractor, [each]), other_features) for each in images]
        errors = [each.standard_error or 0 for each in kids]
        close(mine["kid"], Estimate(sum(each.value for each in kids) / TIMES, sum(errors) / TIMES))
        each_image = range(COUNT)
        apart = torch.stack([feature_diversity(maps(images[:, i])) for i in each_image])
        close(mine["feature_diversity"], average(apart))
        close(
            mine["pixel_diversity"], average(torch.stack([pixel_diversity(images[:, i], hole[i]) for i in each_image]))
        )
        assert found["hidden"] == pytest.approx(hole.double().mean().item())
        assert found["known_pixels"] == TIMES * int(known.sum())
        assert (found["known_pixels_differing"], found["largest_difference_of_known"]) == (0, 0)
        assert (found["network_evaluations"], found["token_evaluations"]) == (6, 6 * 16)
        assert found["seconds"] > 0
    close(record["kid_of_real_images"], kernel_distance(extract(extractor, [truth]), other_features))
    expected = {"images": COUNT, "candidates": TIMES, "seeds": "4-21", "seed": 4, "conditional": True, "dims": 6}
    expected |= {"extractor": "tiny", "reference": f"20 held-out images of {data}", "reference_images": 14}
    assert {name: record[name] for name in expected} == expected
    assert record["recipe"]["steps"] == 3
    assert (record["names"]["kid"], record["names"]["distance"]) == ("KID-tiny@6", "Feature distance-tiny@6")


@pytest.mark.usefixtures("_tiny")
def test_the_mean_image_is_that_of_all_real_ones(model: Path, data: Path, tmp_path: Path) -> None:
    options = ("--model", model, "--data", data, "--images", COUNT, "--steps", 1, "--masks", "square")
    (found,) = evaluated(tmp_path / "f.json", *options)["families"]
    truth, mean = truth_of(data)[0], hold_out(load_folder(data, 8), 20)[1].squares().mean(0)
    known = draw_mask("square", 8, 8, Generator()).expand(COUNT, -1, -1)
    filled = eight_bits(torch.where(known[:, None], truth, mean))
    close(found["mean_image"]["psnr"], average(psnr(filled, truth, ~known)))
    maps = lambda of: tiny_extractor()(of, maps=True).maps
    close(found["mean_image"]["distance"], average(feature_distance(maps(filled), maps(truth))))
    assert found["mean_image"]["feature_diversity"] is None


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("method", ["replacement", "repaint"])
def test_the_baselines_keep_known_pixels_too(model: Path, data: Path, tmp_path: Path, method: str) -> None:
    options = ("--model", model, "--data", data, "--images", 4, "--steps", 6, "--method", method, "--masks", "thin")
    more = ("--jump", 2, "--resamples", 2) if method == "repaint" else ()
    record = evaluated(tmp_path / "f.json", *options, *more)
    assert record["recipe"]["method"] == method
    (found,) = record["families"]
    assert (found["known_pixels_differing"], found["largest_difference_of_known"]) == (0, 0)
    assert found["network_evaluations"] > (12 if method == "repaint" else 11)


@pytest.mark.usefixtures("_tiny")
def test_the_same_command_gives_the_same_numbers_and_the_batch_none_other(
    model: Path, data: Path, tmp_path: Path
) -> None:
    options = ("--model", model, "--data", data, "--images", 4, "--steps", 2)
    records = [evaluated(tmp_path / f"{k}.json", *options, "--batch", batch) for k, batch in enumerate((256, 256, 3))]
    for record in records:
        for each in record["families"]:
            del each["seconds"]
    assert [each["family"] for each in records[0]["families"]] == list(MASK_FAMILIES)
    assert records[0] == records[1]
    for one, other in zip(records[0]["families"], records[2]["families"], strict=True):
        for name in ("distance", "psnr", "ssim", "kid"):
            assert other["model"][name]["value"] == pytest.approx(one["model"][name]["value"], rel=1e-4, abs=1e-6)


@pytest.mark.usefixtures("_tiny")
def test_what_cannot_be_told_is_left_out(model: Path, data: Path, tmp_path: Path) -> None:
    """No diversity of single completions; no KID of three images, or from statistics."""
    options = ("--model", model, "--data", data, "--steps", 1, "--masks", "square", "--candidates", 1)
    record = evaluated(tmp_path / "few.json", *options, "--images", 3)
    assert record["kid_of_real_images"] is None
    (found,) = record["families"]
    for name in ("kid", "feature_diversity", "pixel_diversity"):
        assert found["model"][name] is None
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(6), sigma=np.eye(6))
    record = evaluated(tmp_path / "s.json", *options, "--images", 5, "--reference", tmp_path / "statistics.npz")
    assert record["reference"].startswith("statistics in")
    assert record["families"][0]["model"]["kid"] is None
    assert "| square, model | " in (tmp_path / "s.md").read_text()
    record = evaluated(tmp_path / "all.json", *options, "--images", 20)  # no other is left
    assert (record["reference_images"], record["families"][0]["model"]["kid"]) == (0, None)
    single = evaluated(tmp_path / "one.json", *options, "--images", 1)
    assert single["families"][0]["model"]["psnr"]["standard_error"] is None


@pytest.mark.usefixtures("_tiny")
def test_what_is_printed_and_the_page(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.md"
    options = ("--model", model, "--data", data, "--images", 4, "--steps", 2, "--out", out, "--unconditional")
    done = app_here("evaluate", "--metric", "inpainting", *options)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"4 held-out images of {data}, 2 completions each, by native, synchronous, 2 steps")
    assert lines[3].startswith("nothing hidden ")
    rows = [line.split("  ")[0] for line in lines[4:12]]
    assert rows == [f"{family}, {by}" for family in MASK_FAMILIES for by in ("model", "mean image")]
    assert sum(f"0 of {2 * 4 * 16}" in line for line in lines) == 1  # extrema: a quarter of 64 pixels is known
    assert "…" not in done.stdout  # nothing is cut off
    page, record = out.read_text(), json.loads(out.with_suffix(".json").read_text())["inpainting"]
    for part in ("## Inpainting", "KID-tiny@4", "| mask, filled by |", record["images_sha256"], "f" * 64, "LPIPS"):
        assert (part in page) == (part != "LPIPS"), part
    assert "guidance" not in record["recipe"]
    assert record["families"][0]["network_evaluations"] == 2


def test_known_pixels_that_differ_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = app_module("evaluate_filled", monkeypatch)
    truth = torch.rand(2, 1, 8, 8)
    known = torch.ones(2, 8, 8, dtype=torch.bool)
    known[:, 2:4, 2:4] = False
    images = truth.repeat(3, 1, 1, 1, 1)
    images[:, :, :, 2:4, 2:4] += 1  # hidden
    made = filled.filled("square", known, images, truth, 1, 1, 1.0)
    assert (made.largest, made.differing, made.known_pixels) == (0, 0, 3 * 2 * 60)
    images[2, 1, 0, 7, 7] += 0.25
    made = filled.filled("square", known, images, truth, 1, 1, 1.0)
    assert (made.largest, made.differing) == (pytest.approx(0.25), 1)
    assert made.images.dtype == torch.uint8  # of thousands, four times as many fit in memory


def test_a_hole_without_error_counts_as_one_grey_level(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = app_module("evaluate_filled", monkeypatch)
    truth, known = torch.zeros(4, 1, 8, 8), torch.zeros(4, 8, 8, dtype=torch.bool)
    made = filled.filled("square", known, truth[None], truth, 1, 1, 1.0)
    _, ((model, mean),) = filled.measure(tiny_extractor(), truth, [made], truth[0] + 2 / 255, None, lambda *_: None)
    assert model.psnr.value == pytest.approx(20 * math.log10(255), abs=1e-6)
    assert model.psnr.value - mean.psnr.value < 1e-4
    assert model.distance.value == 0
    assert model.record()["psnr"] == {"value": model.psnr.value, "standard_error": 0}


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masks", "zigzag"], "zigzag"),
        (["--masks"], "--masks"),
        (["--candidates", 0], "--candidates must be at least 1"),
        (["--images", 21], "has 20 held-out images"),
        (["--samples", "x"], "--samples is for --metric quality"),
        (["--scheduler", "round-robin", "--method", "replacement"], "goes along a path"),
        (["--context-level", 0.5], "context_level has no meaning here"),
    ],
)
def test_bad_input(model: Path, data: Path, tmp_path: Path, options: list[object], message: str) -> None:
    given = ["--metric", "inpainting", "--model", model, "--data", data, "--out", tmp_path / "f.json", *options]
    assert_refused(app_here("evaluate", *given), message)
    assert not list(tmp_path.iterdir())
    assert_refused(app_here("evaluate", "--metric", "inpainting", "quality"), "say --model DIR")


def test_images_of_four_pixels_are_too_small(data: Path, tmp_path: Path) -> None:
    small = make_model(tmp_path / "model", size=4)
    done = app_here("evaluate", "--metric", "inpainting", "--model", small, "--data", data, "--images", 4)
    assert_refused(done, f"inpainting takes images of 8×8 pixels or more, and {small} makes 4×4")


def test_a_model_that_makes_no_images(data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    pretrained = from_pretrained(model)
    pretrained.model.head.bias.fill_(math.nan)
    save_pretrained(model, pretrained.model, pretrained.patchify, KINDS, "broken")
    for metric in ("inpainting", "quality"):
        given = ("--metric", metric, "--model", model, "--data", data, "--side", 32, "--out", tmp_path / "f.json")
        assert_refused(app_here("evaluate", *given, "--images", 12, "--steps", 1), "gives no images: ")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_the_embedded_animals_by_the_features_that_come_with_it(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", load_animals28().class_names, 28)
    options = ("--images", 4, "--side", 32, "--steps", 2, "--masks", "square")
    record = evaluated(tmp_path / "f.json", "--model", model, *options)
    assert record["reference"] == "500 held-out images of animals28"
    assert record["names"]["kid"] == "KID-efficientnet-lite0-32@4"
    (found,) = record["families"]
    assert found["known_pixels_differing"] == 0
    assert 0 < found["model"]["distance"]["value"] < 20
