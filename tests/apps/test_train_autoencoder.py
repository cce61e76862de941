"""`apps/train autoencoder-…` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apd_models import from_pretrained, load_codec
from app_runner import app, app_here, assert_refused


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images of two classes."""
    place = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (place / name).mkdir()
        for k in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / name / f"{k}.png")
    return place


def given(photos: Path, out: Path) -> tuple[object, ...]:
    return ("--data", photos, "--size", 8, "--batch-size", 4, "--out", out)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_an_autoencoder_from_a_command(photos: Path, tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    done = app_here("train", f"autoencoder-{kind}-f4", *given(photos, run), "--steps", 2, "--grid-every", 1)
    assert done.returncode == 0, done.stderr
    assert "24 images (0 unreadable ones skipped) of 8×8 pixels, grey, 2 classes" in done.stdout
    assert "dB of whole images" in done.stdout
    assert f"uv run apps/encode --data DATA --codec {run}/model --size 8 --out {run}/latents" in done.stdout
    names = sorted(entry.name for entry in run.iterdir())
    assert names == [
        *("checkpoints", "config.json", "grids", "loss.png", "metrics.jsonl", "model", "reconstructions.png"),
    ]
    codec = load_codec(run / "model")
    assert (codec.factor, codec.channels, codec.image_channels) == (4, 4, 1)
    assert codec.stats is not None
    assert (codec.config["codes"] is None) == (kind == "kl")
    with Image.open(run / "reconstructions.png") as picture:
        assert min(picture.size) > 90
        assert len(picture.convert("L").getcolors() or []) > 20  # not blank
    assert json.loads((run / "config.json").read_text())["recipe"] == f"autoencoder-{kind}-f4"
    again = app_here("train", f"autoencoder-{kind}-f4", *given(photos, run), "--steps", 3, "--resume")
    assert again.returncode == 0, again.stderr
    assert "step 2 of 3" in again.stdout
    assert load_codec(run / "model").digest != codec.digest


def test_a_dry_run_writes_nothing(photos: Path, tmp_path: Path) -> None:
    done = app_here("train", "autoencoder-kl-f4", *given(photos, tmp_path / "run"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "latents     4×2×2 of 1×8×8, 4 times fewer numbers" in done.stdout
    assert "features 18.5 MB" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--one-way"], "--one-way is of diffusion models: leave it out for an autoencoder"),
        (["--width", 64], "--width is of diffusion models"),
        (["--conditioning", "joint"], "--conditioning is of diffusion models"),
        (["--error-head"], "--error-head is of diffusion models"),
        (["--compile"], "--compile is of diffusion models"),
        (["--checkpoint-activations"], "--checkpoint-activations is of diffusion models"),
        (["--size", 10], "image_size must be a multiple of 4"),
        (["--strategy", "fsdp"], "--strategy fsdp is of diffusion models"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, list) else "",
)
def test_what_an_autoencoder_does_not_have(photos: Path, tmp_path: Path, options: list[object], message: str) -> None:
    assert_refused(app_here("train", "autoencoder-kl-f4", *given(photos, tmp_path / "run"), *options), message)
    assert not (tmp_path / "run").exists()


def test_data_have_to_be_named(tmp_path: Path) -> None:
    assert_refused(app_here("train", "autoencoder-kl-f4", "--out", tmp_path / "run"), "name it by --data")


def test_the_size_of_the_transformer(photos: Path, tmp_path: Path) -> None:
    options = ("--width", 24, "--depth", 2, "--heads", 3, "--steps", 1)
    done = app_here("train", *given(photos, tmp_path / "run"), *options)
    assert done.returncode == 0, done.stderr
    shape = from_pretrained(tmp_path / "run" / "model").model.config
    assert (shape.width, shape.depth, shape.heads) == (24, 2, 3)
    wrong = app_here("train", *given(photos, tmp_path / "other"), "--width", 30)
    assert_refused(wrong, "width must be a multiple of 4")


@pytest.mark.slow
def test_two_processes_train_one_autoencoder(photos: Path, tmp_path: Path) -> None:
    common = ("train", "autoencoder-kl-f4", "--data", photos, "--size", 8, "--batch-size", 4, "--steps", 3)
    for name, devices in (("one", ()), ("two", ("--devices", 2))):
        done = app(*common, "--learning-rate", 1e-4, *devices, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    one, two = (load_codec(tmp_path / name / "model").stats for name in ("one", "two"))
    assert one is not None
    assert two is not None
    # Which latents' variance agreement is relative to differs a little, and AdamW's first steps are signs of gradients.
    assert two.std == pytest.approx(one.std, rel=0.02)
