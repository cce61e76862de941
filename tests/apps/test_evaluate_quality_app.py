"""`apps/evaluate --metric quality` as a user runs it."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Generator

from apd_generate import Recipe, generate, labels_of, to_image, write_npz
from apd_metrics import Estimate, Score, extract, moments, quality
from apd_models import from_pretrained
from apd_train import hold_out, load_folder
from app_runner import app_here, assert_refused
from evaluate_cases import app_module, make_images, make_model, tiny_extractor, with_tiny_features

SETS = ("KID", "FD", "Precision", "Recall", "Density", "Coverage")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images, of which training would hold out 30."""
    return make_images(tmp_path_factory.mktemp("images"), ("cats", "dogs"), 300)


@pytest.fixture(autouse=True)
def _features(monkeypatch: pytest.MonkeyPatch) -> None:
    with_tiny_features(monkeypatch)


def evaluated(out: Path, *options: object) -> dict[str, Any]:
    done = app_here("evaluate", "--metric", "quality", *options, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(out.read_text())


def drawn(model: Path, seeds: range, **recipe: Any) -> torch.Tensor:
    loaded = from_pretrained(model)
    return generate(loaded.model, loaded.patchify, Recipe(**recipe), seeds, labels_of((0, 1), seeds)).images


def save(folder: Path, images: torch.Tensor) -> Path:
    folder.mkdir()
    for seed, image in enumerate(images):
        to_image(image).save(folder / f"seed-{seed:06}.png")
    return folder


def same(found: list[dict[str, Any]], expected: tuple[Score, ...]) -> None:
    assert [each["name"] for each in found] == [score.name for score in expected]
    for each, score in zip(found, expected, strict=True):
        assert each["value"] == pytest.approx(score.value, rel=1e-4, abs=1e-6)
        assert each["standard_error"] == pytest.approx(score.standard_error, rel=1e-3, abs=1e-6)


def without_time(record: Any) -> Any:
    """Nor the command, which names the file."""
    if isinstance(record, dict):
        kept = {name: value for name, value in record.items() if "seconds" not in name and name != "command"}
        return {name: without_time(value) for name, value in kept.items()}
    return [without_time(each) for each in record] if isinstance(record, list) else record


def test_the_figures_are_those_of_the_library(model: Path, data: Path, tmp_path: Path) -> None:
    """Images of the seeds and classes said, against the held-out ones; the floor is that of as many others."""
    options = ("--model", model, "--data", data, "--images", 20, "--seed", 5, "--steps", 3, "--guidance", 1.5)
    record = evaluated(tmp_path / "f.json", *options, "--batch", 8)
    extractor = tiny_extractor()
    rest, held_out = hold_out(load_folder(data, 8), 30)
    generated = extract(extractor, [drawn(model, range(5, 25), steps=3, guidance=1.5)])
    reference = extract(extractor, [held_out.squares()])
    order = torch.randperm(570, generator=Generator().manual_seed(5))
    others = extract(extractor, [rest.squares(order[:20].tolist())])
    told: dict[str, Any] = {"extractor": "tiny", "generator": Generator()}
    found = record["quality"]["scores"]
    same(found, quality(generated, reference, **told))
    same([{**each, **each["floor"]} for each in found], quality(others, reference, **told))
    assert [each["name"] for each in found] == [f"{name}-tiny@20" for name in SETS]
    for each in found:
        told = each["taken_with"]
        expected = {"extractor": "tiny", "sha256": "f" * 64, "resize": "8 bits, unchanged to 8×8", "seeds": "5-24"}
        expected |= {"reference": f"30 held-out images of {data}", "reference_images": 30, "images": 20, "seed": 5}
        expected |= {"floor_generated": 20, "floor_reference": 30}
        assert {name: told[name] for name in expected} == expected
        assert re.fullmatch("[0-9a-f]{64}", told["reference_sha256"])
        assert (told["recipe"]["steps"], told["recipe"]["guidance"], told["conditional"]) == (3, 1.5, True)
    assert record["quality"]["network_evaluations"] == 6
    assert record["quality"]["token_evaluations"] == 6 * 16


def test_the_same_command_gives_the_same_numbers(model: Path, data: Path, tmp_path: Path) -> None:
    options = ("--model", model, "--data", data, "--images", 16, "--steps", 3)
    first, again = (evaluated(tmp_path / name, *options) for name in ("a.json", "b.json"))
    assert without_time(first) == without_time(again)
    few = evaluated(tmp_path / "few.json", *options, "--batch", 5)
    for one, other in zip(first["quality"]["scores"], few["quality"]["scores"], strict=True):
        assert other["value"] == pytest.approx(one["value"], rel=1e-4, abs=1e-6)
    assert few["quality"]["images_sha256"] == first["quality"]["images_sha256"]
    other = evaluated(tmp_path / "other.json", *options, "--seed", 1)
    assert other["quality"]["scores"][0]["value"] != first["quality"]["scores"][0]["value"]


def test_images_drawn_elsewhere_are_the_same_images(model: Path, data: Path, tmp_path: Path) -> None:
    """In a folder as apps/sample writes it, with its grid, and in an .npz; no model is needed."""
    images = drawn(model, range(14), steps=3)
    folder = save(tmp_path / "drawn", images)
    Image.new("L", (99, 99)).save(folder / "grid.png")
    arrays = [np.asarray(to_image(image)) for image in images]
    write_npz(tmp_path / "drawn.npz", arrays, 14)
    own = evaluated(tmp_path / "own.json", "--model", model, "--data", data, "--images", 14, "--steps", 3)["quality"]
    for place in (folder, tmp_path / "drawn.npz"):
        record = evaluated(tmp_path / f"{place.name}.json", "--samples", place, "--data", data)
        assert "model" not in record
        assert record["quality"]["samples"] == str(place)
        for one, other in zip(own["scores"], record["quality"]["scores"], strict=True):
            assert one["name"] == other["name"]
            assert (one["value"], one["floor"]) == (other["value"], other["floor"])
            assert other["taken_with"]["images_sha256"] == record["quality"]["images_sha256"]
    first = evaluated(tmp_path / "first.json", "--samples", folder, "--data", data, "--images", 12)["quality"]
    assert first["scores"][0]["name"] == "KID-tiny@12"
    same(first["scores"], quality(*first_and_held_out(images[:12], data), extractor="tiny", generator=Generator()))


def first_and_held_out(images: torch.Tensor, data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    held_out = hold_out(load_folder(data, 8), 30)[1]
    return extract(tiny_extractor(), [images]), extract(tiny_extractor(), [held_out.squares()])


def test_worse_images_get_worse_numbers(data: Path, tmp_path: Path) -> None:
    """Real ones that were not held out, the same ones blurred, and black ones."""
    real = hold_out(load_folder(data, 8), 30)[0].squares(range(0, 560, 7))
    blurred = torch.nn.functional.avg_pool2d(real, 5, 1, 2)
    sets = {"real": real, "blurred": blurred, "black": torch.full((80, 1, 8, 8), -1.0)}
    found = {}
    for name, images in sets.items():
        place = save(tmp_path / name, images)
        found[name] = evaluated(tmp_path / f"{name}.json", "--samples", place, "--data", data)["quality"]["scores"]
    kid, fd, precision = ({name: found[name][k] for name in sets} for k in (0, 1, 2))
    assert abs(kid["real"]["value"]) < 5 * kid["real"]["standard_error"]
    assert kid["blurred"]["value"] > 3 * kid["blurred"]["standard_error"]
    assert kid["black"]["value"] > kid["blurred"]["value"]
    assert fd["real"]["value"] < fd["blurred"]["value"] < fd["black"]["value"]
    assert precision["real"]["value"] > 0.8
    assert precision["black"]["value"] == 0


def test_a_reference_of_images_and_one_of_statistics(model: Path, data: Path, tmp_path: Path) -> None:
    options = ("--model", model, "--images", 15, "--steps", 2)
    held_out = hold_out(load_folder(data, 8), 30)[1].squares()
    arrays = [np.asarray(to_image(image)) for image in held_out]
    write_npz(tmp_path / "images.npz", arrays, 30)
    of_data = evaluated(tmp_path / "data.json", *options, "--data", data)["quality"]["scores"]
    record = evaluated(tmp_path / "images.json", *options, "--reference", tmp_path / "images.npz")
    assert "data" not in record
    for one, other in zip(of_data, record["quality"]["scores"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-6)
        told = other["taken_with"]
        assert told["reference"] == f"30 images in {tmp_path / 'images.npz'}"
        assert (told["floor_generated"], told["floor_reference"]) == (15, 15)  # a part against the rest
    assert record["quality"]["scores"][0]["floor"]["value"] != of_data[0]["floor"]["value"]
    with np.load(tmp_path / "images.npz") as archive:  # of both, images tell more
        np.savez(tmp_path / "both.npz", arr_0=archive["arr_0"], mu=np.zeros(2048), sigma=np.eye(2048))
    both = evaluated(tmp_path / "both.json", *options, "--reference", tmp_path / "both.npz")["quality"]["scores"]
    assert [each["value"] for each in both] == [each["value"] for each in record["quality"]["scores"]]
    real = moments(extract(tiny_extractor(), [held_out]))
    np.savez(tmp_path / "statistics.npz", mu=real.mean.numpy(), sigma=real.covariance.numpy())
    (score,) = evaluated(tmp_path / "s.json", *options, "--reference", tmp_path / "statistics.npz")["quality"]["scores"]
    assert score["name"] == "FD-tiny@15"
    assert score["value"] == pytest.approx(of_data[1]["value"], rel=1e-5)
    assert score["floor"] is None
    assert "statistics only" in (tmp_path / "s.md").read_text()


@pytest.mark.parametrize(("name", "called"), [("tiny", "FD-tiny@12"), ("inception", "FID@12")])
def test_only_inception_s_distance_is_called_fid(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, called: str
) -> None:
    with_tiny_features(monkeypatch, name)
    out = tmp_path / "f.md"
    done = app_here(
        "evaluate", "--metric", "quality", "--model", model, "--data", data, "--images", 12, "--steps", 1, "--out", out
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout + out.read_text() + out.with_suffix(".json").read_text()
    assert called in said
    assert ("FID" in said) == (name == "inception")


def test_few_images_are_warned_of(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many dimensions as images, or more."""
    features = app_module("evaluate_features", monkeypatch)

    def make(side: int, device: str) -> Any:
        extractor = replace(tiny_extractor("wide"), dims=20)
        extractor.network.second = torch.nn.Parameter(torch.randn(20, 5, 2, 2, generator=Generator().manual_seed(1)))
        return extractor

    monkeypatch.setattr(features, "efficientnet_lite0", make)
    options = ("--metric", "quality", "--model", model, "--data", data, "--steps", 1, "--out", tmp_path / "f.json")
    few = app_here("evaluate", *options, "--images", 20)
    assert "warning: FD-wide@20: no more images than the 20 dimensions" in few.stdout
    assert "**Warning:** FD-wide@20" in (tmp_path / "f.md").read_text()
    more = app_here("evaluate", *options, "--images", 21, "--overwrite")
    assert more.returncode == 0
    assert "warning" not in more.stdout


def test_what_is_printed_and_the_page(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "f.md"
    options = ("--metric", "quality", "bits-per-dim", "--points", 2, "--images", 12, "--steps", 2, "--out", out)
    done = app_here("evaluate", "--model", model, "--data", data, *options)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(out.with_suffix(".png")) as strip:  # of two steps: noise maps above, images below
        assert strip.width > 2 * 64
    assert "](f.png)" in out.read_text()
    lines = done.stdout.splitlines()
    assert lines[0] == f"12 images, seeds 0-11, synchronous, 2 steps, compared with 30 held-out images of {data}"
    assert lines[1].split() == ["value", "real", "against", "real"]
    assert [line.split("-")[0] for line in lines[2:8]] == list(SETS)
    assert all(line.count("±") == 2 for line in lines[2:8])
    assert f"-log2 p(image | class) of 12 held-out images of {data}" in done.stdout
    record = json.loads((tmp_path / "new" / "f.json").read_text())
    assert {"quality", "bits-per-dim"} <= record.keys()
    page = out.read_text()
    for part in (
        f"# Evaluation of {model}".replace("_", "\\_"),
        "## Quality",
        "| KID-tiny@12 |",
        "## Bits per dimension",
        "| path | bits/dim | prior | reconstruction | diffusion | evaluations an image | seconds |",
        "8 bits, unchanged to 8×8",
        "f" * 64,
        record["quality"]["scores"][0]["taken_with"]["reference_sha256"],
        record["bits-per-dim"]["images_sha256"],
        record["weights_sha256"],
        record["packages"]["torch"],
        "12 real images against 30",
        "uv run apps/evaluate --model",
    ):
        assert part in page, part
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (4, 8) for line in table)


def test_numbers_are_said_to_two_digits_of_their_error(monkeypatch: pytest.MonkeyPatch) -> None:
    said = app_module("evaluate_report", monkeypatch).said
    found = [
        said(Estimate(*of)) for of in ((0.0123456, 0.00456), (-0.00001, 0.0012), (123.4, 56.0), (0.5, 0.0), (2.0,))
    ]
    assert found == ["0.0123 ± 0.0046", "0.0000 ± 0.0012", "123 ± 56", "0.5", "2"]
    assert said(None) == "?"


def test_a_page_says_letters_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    page = app_module("evaluate_report", monkeypatch).page
    said = page("of", [], {"command": "a | b_c *d* <e> `f`\n\\g"}).splitlines()
    assert said == ["# of", "", r"- command: a \| b\_c \*d\* \<e> \`f\` \\g"]


def test_progress_is_told_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, with the time that is left."""
    progress = app_module("evaluate_progress", monkeypatch)
    out, clock = StringIO(), iter([0.0, 10.0, 20.0, 30.0, 36.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    console = Console(file=out, width=200)
    monkeypatch.setattr(console, "status", lambda text: nullcontext(Mock()))
    with progress.telling(console, "drawing", "image") as tell:
        for done in (1, 2.5, 3, 4):
            tell(done, 4)
    assert out.getvalue().splitlines() == ["drawing: image 2 of 4, 0:12 left", "drawing: image 4 of 4, 0:00 left"]


def test_images_of_no_class(model: Path, data: Path, tmp_path: Path) -> None:
    options = ("--model", model, "--data", data, "--images", 12, "--steps", 2, "--unconditional")
    record = evaluated(tmp_path / "f.json", *options)["quality"]
    assert not record["conditional"]
    assert record["network_evaluations"] == 2  # there is nothing to guide by
    assert "guidance" not in record["recipe"]
    loaded = from_pretrained(model)
    images = generate(loaded.model, loaded.patchify, Recipe(steps=2), range(12)).images
    same(record["scores"], quality(*first_and_held_out(images, data), extractor="tiny", generator=Generator()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", 11], "--images must be at least 12 for quality, got 11"),
        (["--steps", 0], "steps must be"),
        (["--cells", 3], "cells has no meaning here"),
        (["--method", "repaint"], "--method is for --metric inpainting"),
        (["--input-guidance", 2], "--input-guidance is for --metric inpainting"),
        (["--points", 4], "--points is for --metric bits-per-dim, latent-bits-per-dim or calibration"),
        (["--unconditional", "--guidance", 3], "--guidance is of guidance by the class"),
        (["--unconditional", "--guidance-interval", 0, 1], "--guidance-interval is of guidance by the class"),
        (["--extractor", "inception"], "take --extractor-weights FILE"),
        (["--extractor", "vgg"], "vgg"),
        (["--extractor-weights", "x"], "efficientnet-lite0 none"),
        (["--extractor", "dinov2", "--extractor-weights", "x", "--side", 64], "--side is of efficientnet-lite0"),
        (["--extractor", "dinov2", "--extractor-weights", "nowhere.pth"], "nowhere.pth cannot be read"),
        (["--side", 31], "--side must be in [32, 2048], got 31"),
        (["--reference", "nowhere.npz"], "say what is compared with, and so does --reference"),
        (["--samples", "nowhere"], "nowhere is neither a folder nor an .npz file"),
        (["--samples", "nowhere.npz"], "nowhere.npz cannot be read"),
        (["--samples", ".", "--steps", 9], "--steps is about drawing, and --samples are there already"),
        (["--seed", 2**62], "--seed must be in [0, 2^62)"),
    ],
)
def test_bad_input(model: Path, data: Path, tmp_path: Path, options: list[object], message: str) -> None:
    given = ["--metric", "quality", "--model", model, "--data", data, "--out", tmp_path / "new" / "f.json", *options]
    assert_refused(app_here("evaluate", *given), message)
    assert not list(tmp_path.iterdir())


def test_samples_and_references_that_do_not_fit(model: Path, data: Path, tmp_path: Path) -> None:
    refused = lambda message, *options: assert_refused(
        app_here("evaluate", "--metric", "quality", "--out", tmp_path / "f.json", *options), message
    )
    images = torch.zeros(12, 1, 8, 8)
    refused("say --model DIR to draw images from, or --samples")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("has no PNG files", "--samples", empty)
    few = save(tmp_path / "few", images[:11])
    refused("quality takes 12 samples at least, and", "--samples", few, "--data", data)
    good = save(tmp_path / "good", images)
    refused(f"--images 13: {good} has 12 images", "--samples", good, "--data", data, "--images", 13)
    refused("these samples are not of the embedded animals: say --data FOLDER", "--samples", good)
    to_image(torch.zeros(1, 8, 9)).save(good / "seed-000007.png")
    refused("seed-000007.png has 8×9 pixels and seed-000000.png 8×8", "--samples", good, "--data", data)
    to_image(torch.zeros(1, 8, 8)).convert("LA").save(good / "seed-000007.png")
    refused("seed-000007.png has transparency", "--samples", good, "--data", data)
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(7), sigma=np.eye(7))
    common = ("--model", model, "--images", 12, "--steps", 1)
    refused("is of features of 7 dimensions; those of tiny have 6", *common, "--reference", tmp_path / "statistics.npz")
    refused("has no images: samples are its arr_0", "--samples", tmp_path / "statistics.npz", "--data", data)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no more")
    refused("broken.npz cannot be read as .npz", *common, "--reference", tmp_path / "broken.npz")
    one = make_images(tmp_path / "one", count=9)
    refused(
        "quality compares with 12 real images at least, and there are 9: see --all", *common, "--data", one, "--all"
    )
    assert not (tmp_path / "f.json").exists()


@pytest.mark.slow
def test_features_of_efficientnet(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Fréchet distance in 1,280 dimensions takes its time."""
    monkeypatch.undo()
    real = hold_out(load_folder(data, 8), 30)[0].squares(range(0, 560, 14))
    place = save(tmp_path / "real", real)
    scores = evaluated(tmp_path / "f.json", "--samples", place, "--data", data, "--side", 32)["quality"]["scores"]
    assert [score["name"] for score in scores] == [f"{name}-efficientnet-lite0-32@40" for name in SETS]
    assert scores[0]["taken_with"]["resize"] == "8 bits, bicubic_antialiased to 32×32"
    assert abs(scores[0]["value"]) < 5 * scores[0]["standard_error"]
    assert scores[1]["note"].startswith("no more images than the 1280 dimensions")
