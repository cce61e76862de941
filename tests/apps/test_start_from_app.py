"""`apps/train --start-from`: what a model is need not be said, and cannot be said otherwise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apd_models import DiT, DiTConfig, Patchify, from_pretrained, save_pretrained
from app_runner import app_here, assert_refused

OPTIONS: dict[str, Any] = {"conditioning": "separable", "position": "rope", "one_way": True}
FOREIGN: dict[str, Any] = {"conditioning": "joint", "qk_norm": False, "biases": True, "convention": "dit"}


def make_model(folder: Path, **options: Any) -> Path:
    """Of images of 8×8 in patches of 4, of cats and dogs."""
    patchify = Patchify(8, 8, 1, 4)
    torch.manual_seed(0)
    model = DiT(DiTConfig(patchify.grid, patchify.token_dim, 32, 1, 2, classes=2, data_std=0.9, **options))
    save_pretrained(folder, model, patchify, ("cats", "dogs"), "made up")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (place / "data" / name).mkdir(parents=True)
        for k in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / "data" / name / f"{k}.png")
    make_model(place / "run" / "model", **OPTIONS)
    return place


def started(place: Path, model: Path, out: Path, *more: object) -> Any:
    given = ("--data", place / "data", "--batch-size", 4, "--steps", 3)
    return app_here("train", "--start-from", model, *given, "--out", out, *more)


def test_a_run_is_of_the_model_that_it_starts_from(place: Path, tmp_path: Path) -> None:
    model = place / "run" / "model"
    files = {file: file.read_bytes() for file in model.iterdir()}
    told = started(place, model, tmp_path / "run", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert f"{sum(p.numel() for p in from_pretrained(model).model.parameters()):,}: " in told.stdout
    assert not (tmp_path / "run").exists()
    done = started(place, model, tmp_path / "run", "--width", 32, "--one-way", "--error-head", "--snapshot-every", 1)
    assert done.returncode == 0, done.stderr
    found = from_pretrained(tmp_path / "run" / "model")
    shape = found.model.config
    assert (shape.conditioning, shape.position, shape.one_way) == ("separable", "rope", True)
    assert (shape.width, shape.error_head, shape.data_std) == (32, True, 0.9)
    assert found.weights == "ema(sigma_rel=0.05) at step 3, from (made up)"
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["start_from"] == str(model)
    assert record["start_sha256"] == from_pretrained(model).digest
    assert (tmp_path / "run" / "samples.png").exists()
    assert {file: file.read_bytes() for file in model.iterdir()} == files
    wider = app_here("average", "--run", tmp_path / "run", "--sigma-rel", 0.1, "--out", tmp_path / "wider")
    assert wider.returncode == 0, wider.stderr
    assert from_pretrained(tmp_path / "wider").weights.endswith(" at step 3, from (made up)")
    longer = ("--error-head", "--snapshot-every", 1, "--steps", 4, "--resume")
    assert started(place, model, tmp_path / "run", *longer).returncode == 0
    other = retouched(make_model(tmp_path / "other", **OPTIONS))
    refused = started(place, other, tmp_path / "run", *longer)
    assert_refused(refused, "resume with what it was begun with, or choose another --out")


def retouched(folder: Path) -> Path:
    """With one weight another."""
    of = from_pretrained(folder)
    of.model.head.bias.data[0] += 1
    save_pretrained(folder, of.model, of.patchify, of.class_names, of.weights)
    return folder


def test_a_model_that_predicts_noise_is_trained_on_its_error(place: Path, tmp_path: Path) -> None:
    done = started(place, make_model(tmp_path / "model", **FOREIGN), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["weighting"] == "eps_weighting"
    assert from_pretrained(tmp_path / "run" / "model").model.config.convention == "dit"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width", 64), "--width contradicts the model of --start-from, which has 32: leave it out"),
        (("--depth", 2), "--depth contradicts the model of --start-from, which has 1: leave it out"),
        (("--heads", 4), "--heads contradicts the model of --start-from, which has 2: leave it out"),
        (("--size", 16), "--size contradicts the model of --start-from, which has 8: leave it out"),
        (("--position", "learned"), "--position contradicts the model of --start-from, which has rope: leave it out"),
        (("--conditioning", "token"), "--conditioning contradicts the model of --start-from, which has separable"),
        (("--element-levels",), "--element-levels contradicts the model of --start-from, which does without: leave it"),
        (("--error-head-of", "."), "holds no model"),
        (("autoencoder-kl-f4",), "--start-from is of diffusion models: leave it out for an autoencoder"),
    ],
)
def test_what_contradicts_it(place: Path, tmp_path: Path, options: tuple[object, ...], message: str) -> None:
    assert_refused(started(place, place / "run" / "model", tmp_path / "run", *options), message)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_started_from(place: Path, tmp_path: Path) -> None:
    model, out = place / "run" / "model", tmp_path / "run"
    assert_refused(started(place, model, out, "--error-head-of", model), "leave out it or --start-from")
    assert_refused(started(place, place / "run", out), f"try {model}")
    for within in (model, model.parent):
        refused = started(place, model, within, "--overwrite")
        assert_refused(refused, "holds the model of --start-from: choose another")
    animals = app_here("train", "--start-from", model, "--out", out)
    assert_refused(animals, "28 pixels a side, not 8")
    assert not out.exists()
    assert sorted(file.name for file in (place / "run").iterdir()) == ["model"]
