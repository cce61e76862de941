"""`apps/sample` as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app_runner import app_here, assert_refused


@pytest.fixture(scope="module")
def model(short_run: Path) -> Path:
    return short_run / "model"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_a_seed_is_an_image_whatever_the_others_and_the_batch(model: Path, tmp_path: Path) -> None:
    many, few = tmp_path / "many", tmp_path / "few"
    assert app_here("sample", "--model", model, "--out", many, "--steps", 6).returncode == 0
    done = app_here("sample", "--model", model, "--out", few, "--seeds", "11,3", "--batch", 1, "--steps", 6)
    assert done.returncode == 0, done.stderr
    assert len(list(many.glob("seed-*.png"))) == 16
    for seed in (3, 11):
        difference = pixels(many / f"seed-{seed:06}.png") - pixels(few / f"seed-{seed:06}.png")
        assert np.abs(difference).max() <= 1  # the last bit of a float may fall on either side of a grey value
    assert np.abs(pixels(many / "seed-000003.png") - pixels(many / "seed-000011.png")).max() > 10


@pytest.mark.parametrize(
    ("options", "steps"),
    [(["--path", "raster"], 128), (["--path", "random", "--cells", 2], 32), (["--path", "staggered", "--steps", 9], 9)],
)
def test_the_record_says_what_was_done_and_what_it_cost(
    model: Path, tmp_path: Path, options: list[object], steps: int
) -> None:
    done = app_here("sample", "--model", model, "--out", tmp_path, "--seeds", "4-5", "--class", "giraffe", *options)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "sampling.json").read_text())
    assert record["seeds"] == [4, 5]
    assert record["classes"] == ["giraffe", "giraffe"]
    assert record["path"] == options[1]
    assert record["steps"] == steps
    assert record["guidance"] == 2.0
    assert record["network_evaluations"] == 2 * steps  # with and without the class
    assert record["token_evaluations"] == 2 * steps * 49
    assert record["seconds"] > 0
    assert record["weights"] == "ema(sigma_rel=0.05) at step 20"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "grid.png",
        "sampling.json",
        "seed-000004.png",
        "seed-000005.png",
    ]


def test_guidance_one_takes_half_the_evaluations(model: Path, tmp_path: Path) -> None:
    done = app_here("sample", "--model", model, "--out", tmp_path, "--seeds", "0", "--steps", 5, "--guidance", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "sampling.json").read_text())["network_evaluations"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "lion"], "there is no class 'lion'; this model has bear, bird, cat, cow, dog, elephant, giraffe"),
        (["--class", "10"], "there is no class '10'"),
        (["--path", "zigzag"], "zigzag"),
        (["--seeds", "5-2"], "numbers and ranges such as 0-15"),
        (["--seeds", "a"], "numbers and ranges such as 0-15"),
        (["--seeds", str(2**63)], "below 2^63"),
        (["--steps", 0], "--steps must be at least 1, got 0"),
        (["--batch", 0], "--batch must be at least 1"),
        (["--cells", 0], "--cells must be at least 1"),
        (["--guidance", "nan"], "--guidance must be a finite number"),
        (["--width", 0], "--width must be in (0, 1]"),
        (["--order-seed", -1], "--order-seed"),
        (["--model", "nowhere"], "holds no model"),
        (["--out", "/proc/no/images"], "cannot be"),
    ],
)
def test_bad_input(model: Path, tmp_path: Path, options: list[object], message: str) -> None:
    done = app_here("sample", "--model", model, "--out", tmp_path / "out", *options)
    assert_refused(done, message)
    assert not (tmp_path / "out").exists()


def test_a_run_folder_is_pointed_to_its_model(short_run: Path, tmp_path: Path) -> None:
    done = app_here("sample", "--model", short_run, "--out", tmp_path / "out")
    assert_refused(done, f"try {short_run / 'model'}")


def test_images_are_not_replaced_unless_asked(model: Path, tmp_path: Path) -> None:
    draw = lambda *more: app_here("sample", "--model", model, "--out", tmp_path, "--seeds", 1, "--steps", 1, *more)
    assert draw().returncode == 0
    before = (tmp_path / "seed-000001.png").stat().st_mtime_ns
    assert_refused(draw(), "already holds seed-000001.png")
    assert (tmp_path / "seed-000001.png").stat().st_mtime_ns == before
    assert draw("--overwrite").returncode == 0
