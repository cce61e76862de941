"""`apps/evaluate` as a user runs it: bits per dimension, calibration, and what all metrics share."""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from apd_models import from_pretrained, save_pretrained
from apd_schedules import (
    Elbo,
    Linear,
    PathLaw,
    autoregressive_law,
    bits_per_dim,
    elbo,
    independent_offsets,
    path_law,
    quad_law,
    raster,
    shared_law,
    staggered,
    walk_law,
)
from apd_train import ImageSet, hold_out, load_animals28, load_folder
from app_runner import app, app_here, assert_refused
from evaluate_cases import KINDS, make_images, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images, of which training would hold out 3."""
    return make_images(tmp_path_factory.mktemp("images"), KINDS, 30)


def figures(out: Path, *options: object, metric: str = "bits-per-dim") -> dict[str, Any]:
    """The record, with what it says of the metric beside what it says of the run."""
    done = app_here("evaluate", *options, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    record = json.loads(out.read_text())
    return {**record, **record[metric]}


def bound(model: Path, images: ImageSet, law: PathLaw, points: int, **cond: Any) -> Elbo:
    """The direct call, with the app's defaults."""
    loaded = from_pretrained(model)
    x = loaded.patchify.to_tokens(images.squares())
    seeded = Generator().manual_seed(0)
    return elbo(loaded.model, x, Linear(11.0, -13.3), law, generator=seeded, points=points, data_variance=0.36, **cond)


def same(figures: dict[str, Any], found: Elbo) -> None:
    mean, error = found.average()
    assert figures["bits_per_dim"] == pytest.approx(mean, rel=1e-5)
    assert figures["standard_error"] == pytest.approx(error, rel=1e-4)
    for name in ("prior", "reconstruction", "diffusion"):
        assert figures[name] == pytest.approx(bits_per_dim(getattr(found, name), found.dims).mean().item(), rel=1e-5)
    assert figures["evaluations"] == found.evaluations


LAWS: dict[str, PathLaw] = {
    "synchronous": shared_law(16),
    "raster": autoregressive_law(raster((4, 4), 3, 3)),
    "random": autoregressive_law(raster((4, 4), 3, 3), shuffle=True),
    "staggered": path_law(staggered(raster((4, 4)), 0.3)),
    "quad": quad_law(independent_offsets(16)),
    "walk": walk_law(16),
}


def test_the_figures_are_those_of_elbo(model: Path, data: Path, tmp_path: Path) -> None:
    shape = ("--points", 5, "--seed", 7, "--path-cells", 3, "--path-width", 0.3, "--clean", 9, "--noise", -10)
    record = figures(tmp_path / "f.json", "--model", model, "--data", data, "--all", *shape, "--path", *LAWS)
    images = load_folder(data, 8)
    loaded = from_pretrained(model)
    x = loaded.patchify.to_tokens(images.squares())
    bounds: dict[str, Elbo] = {}
    for name, law in LAWS.items():
        seeded, ends = Generator().manual_seed(7), Linear(9.0, -10.0)
        bounds[name] = elbo(
            loaded.model, x, ends, law, generator=seeded, points=5, data_variance=0.36, cond={"label": images.labels}
        )
    assert [each["path"] for each in record["paths"]] == list(LAWS)
    for each in record["paths"]:
        same(each, bounds[each["path"]])
    assert "difference" not in record["paths"][0]
    apart = bounds["walk"].bits_per_dim - bounds["synchronous"].bits_per_dim
    assert record["paths"][-1]["minus"] == "synchronous"
    assert record["paths"][-1]["difference"] == pytest.approx(apart.mean().item(), rel=1e-4)
    assert record["paths"][-1]["standard_error_of_difference"] == pytest.approx(apart.std().item() / 60**0.5, rel=1e-4)
    expected = {"format": "apd-evaluate", "version": 2, "model": str(model), "weights": "made up", "data": str(data)}
    expected |= {"part": "all", "images": 60, "conditional": True, "schedule": "Linear", "clean": 9, "noise": -10}
    expected |= {"points": 5, "seed": 7, "cells": 3, "width": 0.3}
    expected |= {"threads": torch.get_num_threads(), "device": "cpu", "conditional": True}
    expected["weights_sha256"] = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    pixels = hashlib.sha256(b"(1, 8, 8)" + ((images.squares() + 1) * 127.5).round().to(torch.uint8).numpy().tobytes())
    expected["images_sha256"] = pixels.hexdigest()
    assert {name: record[name] for name in expected} == expected
    assert record["packages"]["torch"] == torch.__version__
    assert record["command"].startswith(f"uv run apps/evaluate --model {model} --data {data} --all")
    assert record["seconds"] >= sum(each["seconds"] for each in record["paths"]) > 0


def test_the_embedded_animals_by_name(tmp_path: Path) -> None:
    """The held-out ones; what the model calls a class counts, not which number it has."""
    names = tuple(reversed(load_animals28().class_names))
    model = make_model(tmp_path / "model", names, 28)
    record = figures(tmp_path / "f.json", "--model", model, "--images", 20, "--points", 2, "--path", "raster")
    held_out = hold_out(load_animals28(), 500)[1]
    images = held_out.subset(range(0, 500, 25))
    assert len(images.labels.unique()) == 10
    found = bound(model, images, autoregressive_law(raster((4, 4))), 2, cond={"label": 9 - images.labels})
    same(record["paths"][0], found)
    assert (record["data"], record["part"], record["images"]) == ("animals28", "held-out", 20)


def test_held_out_of_a_folder_as_in_training(model: Path, data: Path, tmp_path: Path) -> None:
    """And without labels."""
    record = figures(tmp_path / "f.json", "--model", model, "--data", data, "--unconditional", "--points", 2)
    same(record["paths"][0], bound(model, hold_out(load_folder(data, 8), 3)[1], shared_law(16), 2))
    assert (record["part"], record["images"], record["conditional"]) == ("held-out", 3, False)


def test_as_many_as_training_held_out(model: Path, data: Path, tmp_path: Path) -> None:
    record = figures(
        tmp_path / "f.json", "--model", model, "--data", data, "--unconditional", "--points", 2, "--held-out", 2
    )
    same(record["paths"][0], bound(model, hold_out(load_folder(data, 8), 2)[1], shared_law(16), 2))
    for options, message in (
        (("--held-out", 0), "--held-out must be at least 1, got 0"),
        (("--held-out", 2, "--all"), "--all looks at all images, and --held-out at some of them: leave one out"),
    ):
        assert_refused(app_here("evaluate", "--model", model, "--data", data, *options), message)


def test_a_folder_whose_name_is_no_utf8(model: Path, data: Path, tmp_path: Path) -> None:
    named = shutil.copytree(data, tmp_path / os.fsdecode(b"d\xe9"))
    record = figures(tmp_path / "f.json", "--model", model, "--data", named, "--points", 2)
    assert Path(record["data"]) == named


def test_neither_the_batch_nor_the_other_paths_change_the_figures(model: Path, data: Path, tmp_path: Path) -> None:
    common = ("--model", model, "--data", data, "--all", "--images", 15, "--points", 4)
    many = figures(tmp_path / "many.json", *common)["paths"]
    few = figures(tmp_path / "few.json", *common, "--batch", 1, "--path", "random", "raster", "random")["paths"]
    assert [each["path"] for each in few] == ["random", "raster"]
    for a, b in ((many[2], few[0]), (many[1], few[1])):
        assert a["bits_per_dim"] == pytest.approx(b["bits_per_dim"], rel=1e-5)
        assert a["standard_error"] == pytest.approx(b["standard_error"], rel=1e-4)


def test_a_model_that_knows_nothing_gives_what_the_formula_says(data: Path, tmp_path: Path) -> None:
    """It predicts no flow, x̂ = z / (alpha + sigma), so that SNR (x - x̂)² = (1 - t)² (x - eps)² at flow level t: the
    diffusion is ½ (x² + 1) ∫ sigmoid(l / 2)² dl, whatever the path."""
    clean, noise = 7.0, -9.0
    model = make_model(tmp_path / "model", trained=False)
    ends = ("--clean", clean, "--noise", noise, "--points", 8)
    record = figures(tmp_path / "f.json", "--model", model, "--data", data, "--all", *ends, "--path", *LAWS)
    x = load_folder(data, 8).squares().double()
    integral = lambda end: 2 * (math.log1p(math.exp(end / 2)) - 1 / (1 + math.exp(-end / 2)))
    diffusion = 0.5 * (x.square().mean() + 1) * (integral(clean) - integral(noise))
    share = 1 / (1 + math.exp(-noise))
    prior = 0.5 * (share * x.square().mean() - share - math.log1p(-share))
    # Reconstruction by quadrature: what is lost of each of 256 values, seen with noise of exp(-clean / 2).
    value, eps = torch.arange(256, dtype=torch.float64), torch.linspace(-8, 8, 161, dtype=torch.float64)
    spread = math.exp(-clean / 2) * 127.5
    seen = value[:, None] + spread * eps
    logits = -0.5 * ((value - seen[..., None]) / spread).square()
    lost = logits.logsumexp(2) + 0.5 * eps.square()
    density = (-0.5 * eps.square()).exp()
    reconstruction = ((lost * density).sum(1) / density.sum())[((x + 1) * 127.5).round().long()].mean()
    exact = (prior + diffusion + reconstruction).item() / math.log(2)
    assert record["paths"][0]["prior"] == pytest.approx(prior.item() / math.log(2), rel=1e-5)
    for each in record["paths"]:
        assert each["standard_error"] < (0.05 if each["path"] in ("synchronous", "staggered", "quad", "walk") else 0.15)
        assert abs(each["bits_per_dim"] - exact) < 5 * each["standard_error"], each
        assert each["reconstruction"] == pytest.approx(reconstruction.item() / math.log(2), abs=0.02)


def test_what_is_printed(model: Path, data: Path) -> None:
    """In a process of its own, with shapes and types checked at every call: plain text, and no warning of torch's."""
    done = app("evaluate", "--model", model, "--data", data, "--path", "quad", "walk", "--points", 2, APD_CHECK="1")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.startswith(f"-log2 p(image | class) of 3 held-out images of {data}, 2 points")
    assert lines[0].split() == ["path", "bits/dim", "prior", "recon-", "diffusion", "evaluations", "seconds"]
    quad = lines[2].split()
    assert (quad[0], quad[2], quad[-2]) == ("quad", "±", "2")
    assert float(quad[1]) == pytest.approx(sum(map(float, quad[4:7])), abs=0.0021)
    assert lines[4].startswith("walk - quad: ")
    assert "Each is an upper bound" in lines[5]
    assert "model's error" in lines[5]
    assert "\x1b" not in done.stdout


def test_a_single_image_has_no_standard_error(model: Path, data: Path, tmp_path: Path) -> None:
    record = figures(tmp_path / "f.json", "--model", model, "--data", data, "--images", 1, "--points", 2)
    assert record["paths"][1]["standard_error"] is None
    assert record["paths"][1]["standard_error_of_difference"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--path", "zigzag"], "zigzag"),
        (["--path"], "--path"),
        (["--metric", "fid"], "fid"),
        (["--points", 1], "--points must be at least 2, got 1"),
        (["--images", 0], "--images must be at least 1, got 0"),
        (["--images", 4], "has 3 held-out images"),
        (["--batch", 0], "--batch must be at least 1"),
        (["--threads", 0], "--threads must be at least 1"),
        (["--path-cells", 0], "--path-cells must be at least 1"),
        (["--path-width", 1.5], "--path-width must be in (0, 1]"),
        (["--seed", -1], "--seed"),
        (["--clean", "nan"], "--clean must be a finite number"),
        (["--noise", 14], "clean > noise"),
        (["--clean", 50], "within ±40 nats"),
        (["--model", "nowhere"], "holds no model"),
        (["--data", "nowhere"], "does not exist"),
        (["--out", "/proc/no/file.json"], "cannot be written"),
        (["--out", "x" * 300], "cannot be written"),
        (["--out", "f.txt"], "--out is a file named .json or .md"),
        (["--metric"], "--metric"),
        (["--steps", 9], "--steps is for --metric quality or inpainting, and none such is asked for"),
        (["--side", 64], "--side is for --metric quality or inpainting"),
        (["--samples", "x"], "--samples is for --metric quality"),
        (["--candidates", 3], "--candidates is for --metric inpainting"),
    ],
)
def test_bad_input(model: Path, data: Path, tmp_path: Path, options: list[object], message: str) -> None:
    given = ["--model", model, "--data", data, "--out", tmp_path / "new" / "f.json", *options]
    assert_refused(app_here("evaluate", *given), message)
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_the_model(model: Path, tmp_path: Path) -> None:
    refused = lambda folder, message, *more: assert_refused(
        app_here("evaluate", "--model", model, "--data", folder, "--points", 2, *more), message
    )
    lions = make_images(tmp_path / "lions", ("cats", "lions"))
    refused(lions, "the class 'lions', which this model does not know; it has cats, dogs")
    assert app_here("evaluate", "--model", model, "--data", lions, "--points", 2, "--unconditional").returncode == 0
    refused(make_images(tmp_path / "loose", (".",)), "has no classes (sub-folders)")
    refused(make_images(tmp_path / "colour", mode="RGB"), "has RGB images, and this model is of grey ones")
    one = make_images(tmp_path / "one", count=1)
    refused(one, "too few: some are held out and some are trained on; --all evaluates them all")
    assert app_here("evaluate", "--model", model, "--data", one, "--points", 2, "--all").returncode == 0
    assert_refused(app_here("evaluate", "--model", model), "say --data FOLDER")
    assert_refused(app_here("evaluate", "--model", make_model(tmp_path / "other", size=28)), "say --data FOLDER")
    bare = make_model(tmp_path / "bare", ())  # without classes, it is told none
    assert app_here("evaluate", "--model", bare, "--data", lions, "--points", 2).returncode == 0


def test_a_model_that_returns_no_numbers(data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    pretrained = from_pretrained(model)
    pretrained.model.head.bias.fill_(math.nan)
    save_pretrained(model, pretrained.model, pretrained.patchify, KINDS, "broken")
    done = app_here("evaluate", "--model", model, "--data", data, "--out", tmp_path / "f.json")
    assert_refused(done, "cannot be evaluated along the synchronous path: the denoiser's mean is not finite")
    assert not (tmp_path / "f.json").exists()


def test_a_file_is_not_replaced_unless_asked(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.json"
    out.write_text("mine")
    common = ("evaluate", "--model", model, "--data", data, "--points", 2, "--out")
    assert_refused(app_here(*common, out), "is there already: pass --overwrite")
    assert_refused(app_here(*common, tmp_path), "is a folder")
    assert out.read_text() == "mine"
    assert app_here(*common, out, "--overwrite").returncode == 0
    assert json.loads(out.read_text())["bits-per-dim"]["images"] == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["f.json", "f.md"]
    out.unlink()
    assert_refused(app_here(*common, out), f"{tmp_path / 'f.md'} is there already: pass --overwrite")
    assert [file.name for file in tmp_path.iterdir()] == ["f.md"]


def calibrated(out: Path, *options: object) -> dict[str, Any]:
    return figures(out, *options, "--metric", "calibration", metric="calibration")


def test_errors_of_a_model_that_knows_nothing_are_as_the_formula_says(data: Path, tmp_path: Path) -> None:
    """It predicts no flow, and an error of 1: it errs by ``(eps - x)²``, 1 + x² on average, at every level."""
    model = make_model(tmp_path / "model", trained=False, error_head=True)
    shape = ("--points", 8, "--seed", 7, "--path-cells", 3, "--path-width", 0.3)
    record = calibrated(tmp_path / "f.json", "--model", model, "--data", data, "--all", *shape, "--path", *LAWS)
    assert "bits-per-dim" not in record
    assert [each["path"] for each in record["paths"]] == list(LAWS)
    mean = 1 + load_folder(data, 8).squares().double().square().mean().item()
    for each in record["paths"]:
        for row in each["levels"]:
            assert row["predicted"] == pytest.approx(1, rel=1e-4)
            assert row["actual"] == pytest.approx(row["ratio"], rel=1e-4)
            assert abs(row["ratio"] - mean) < 5 * row["ratio_error"], each["path"]
            assert row["nll_constant"] == pytest.approx((math.log(row["actual"]) + 1) / 2, rel=1e-6)
            assert row["nll"] == pytest.approx(row["actual"] / 2, rel=1e-4)
    synchronous, raster_path = (record["paths"][k]["levels"] for k in (0, 1))
    assert len(synchronous) == 10  # all tokens, in tenths
    assert 0.99 * 60 * 16 * 8 < sum(row["tokens"] for row in synchronous) <= 60 * 16 * 8
    assert sum(row["tokens"] for row in raster_path) < 0.7 * 60 * 16 * 8  # done tokens are clean and do not count
    assert raster_path[-1]["tokens"] > 0.7 * sum(row["tokens"] for row in raster_path)  # most wait
    expected = {"model": str(model), "data": str(data), "part": "all", "images": 60, "points": 8, "seed": 7}
    assert {name: record[name] for name in expected} == expected
    assert "likelihood" not in record


def test_neither_the_batch_nor_the_other_paths_change_the_calibration(data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", error_head=True)
    common = ("--model", model, "--data", data, "--all", "--images", 15, "--points", 4)
    many = calibrated(tmp_path / "many.json", *common)["paths"]
    few = calibrated(tmp_path / "few.json", *common, "--batch", 1, "--path", "random", "raster", "random")["paths"]
    assert [each["path"] for each in few] == ["random", "raster"]
    for a, b in ((many[2], few[0]), (many[1], few[1])):
        assert [row["tokens"] for row in a["levels"]] == [row["tokens"] for row in b["levels"]]
        for one, other in zip(a["levels"], b["levels"], strict=True):
            assert other["actual"] == pytest.approx(one["actual"], rel=1e-5)
            assert other["ratio_error"] == pytest.approx(one["ratio_error"], rel=1e-3)


def test_the_calibration_is_told_the_class(data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", error_head=True)
    common = ("--model", model, "--data", data, "--points", 4, "--path", "synchronous")
    told, untold = calibrated(tmp_path / "a.json", *common), calibrated(tmp_path / "b.json", *common, "--unconditional")
    assert told["conditional"]
    assert not untold["conditional"]
    assert told["paths"][0]["levels"][5]["actual"] != untold["paths"][0]["levels"][5]["actual"]


def test_what_is_printed_of_a_calibration(data: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", error_head=True)
    options = ("--metric", "calibration", "--path", "quad", "walk", "--points", 3)
    done = app_here("evaluate", "--model", model, "--data", data, *options)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head == f"errors of the tokens of 3 held-out images of {data}, predicted and actual, at 3 noise maps of each"
    assert [line for line in lines if line in ("quad", "walk")] == ["quad", "walk"]
    assert sum("actual/predicted" in line for line in lines) == 3  # two tables, and what it means
    assert "errs more" in done.stdout


def test_a_model_that_predicts_no_error_cannot_be_calibrated(model: Path, data: Path, tmp_path: Path) -> None:
    given = ("evaluate", "--model", model, "--data", data, "--metric", "calibration", "--out", tmp_path / "f.json")
    assert_refused(app_here(*given), f"has no error head to calibrate: apps/train --error-head-of {model} adds one")
    broken = make_model(tmp_path / "model", error_head=True)
    pretrained = from_pretrained(broken)
    pretrained.model.head.bias.fill_(math.nan)
    save_pretrained(broken, pretrained.model, pretrained.patchify, KINDS, "broken")
    given = ("evaluate", "--model", broken, "--data", data, "--metric", "calibration", "--out", tmp_path / "f.json")
    assert_refused(app_here(*given), "cannot be evaluated along the synchronous path: the denoiser's mean")
    assert not (tmp_path / "f.json").exists()


def test_help_teaches() -> None:
    done = app_here("evaluate", "--help")
    assert done.returncode == 0
    for part in (
        "upper bound",
        "averaged over all orders",
        "a twentieth, at most 500",
        "--unconditional",
        "Log-SNR",
        "error head",
    ):
        assert part in " ".join(done.stdout.replace("│", " ").split())
