"""`apps/train` as a user runs it: what a run leaves, and what is refused, in one line and with nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from apd_models import from_pretrained
from apd_train import read_metrics
from app_runner import SMALL, app, app_here, assert_refused


def test_a_run_leaves_what_the_readme_says(short_run: Path) -> None:
    assert sorted(entry.name for entry in short_run.iterdir()) == [
        "checkpoints",
        "config.json",
        "inpainting.png",
        "levels.png",
        "loss.png",
        "metrics.jsonl",
        "model",
        "samples.png",
    ]
    record = json.loads((short_run / "config.json").read_text())
    assert record["recipe"] == "animals28"
    assert record["config"]["steps"] == 20
    assert record["level_sampler"].startswith("mixture(")
    assert record["packages"].keys() >= {"apd-schedules", "torch", "lightning-fabric"}
    metrics = [json.loads(line) for line in (short_run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 20
    loaded = from_pretrained(short_run / "model")
    assert loaded.class_names[6] == "giraffe"
    assert loaded.weights == "ema(sigma_rel=0.05) at step 20"
    for name in ("samples", "inpainting", "levels", "loss"):
        with Image.open(short_run / f"{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors() or []) > 20  # not blank


@pytest.mark.slow
def test_a_folder_of_images_with_a_truncated_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("cats", 12), ("dogs", 9)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 256, (20 + k, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{k}.JPG")
    cut = tmp_path / "data" / "dogs" / "3.JPG"
    cut.write_bytes(cut.read_bytes()[:500])
    done = app(
        "train", "--data", tmp_path / "data", "--size", 16, "--steps", 2, "--batch-size", 4, "--out", tmp_path / "r"
    )
    assert done.returncode == 0, done.stderr
    assert "20 images (1 unreadable ones skipped) of 16×16 pixels, RGB, 2 classes" in done.stdout
    assert "skipped dogs/3.JPG" in done.stdout
    record = json.loads((tmp_path / "r" / "config.json").read_text())
    assert [name.split(":")[0] for name in record["skipped"]] == ["dogs/3.JPG"]
    loaded = from_pretrained(tmp_path / "r" / "model")
    assert loaded.class_names == ("cats", "dogs")
    assert (loaded.patchify.channels, loaded.patchify.height) == (3, 16)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images of two classes, and a model trained on them for a moment, with every option but an error head."""
    place = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (place / "data" / name).mkdir(parents=True)
        for k in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / "data" / name / f"{k}.png")
    options = ("--conditioning", "separable", "--position", "rope", "--one-way")
    given = ("--data", place / "data", "--size", 8, "--steps", 3, "--batch-size", 4, *SMALL, *options)
    done = app_here("train", *given, "--out", place / "run")
    assert done.returncode == 0, done.stderr
    assert "apps/evaluate" not in done.stdout
    return place / "data", place / "run" / "model"


def test_the_options_of_the_model(small: tuple[Path, Path]) -> None:
    shape = from_pretrained(small[1]).model.config
    assert (shape.conditioning, shape.position, shape.one_way, shape.error_head) == ("separable", "rope", True, False)
    assert not from_pretrained(small[1]).model.config.error_head


def test_an_error_head_learned_along(small: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("--data", small[0], "--size", 8, "--steps", 3, "--batch-size", 4, *SMALL)
    done = app_here("train", *given, "--error-head", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert from_pretrained(tmp_path / "run" / "model").model.config.error_head
    assert "likelihood of the errors" in done.stdout
    assert (tmp_path / "run" / "samples.png").exists()


def test_an_error_head_for_a_model_that_is_there(small: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = small
    before = {file: file.read_bytes() for file in model.parent.rglob("*") if file.is_file()}
    given = ("--error-head-of", model, "--data", data, "--batch-size", 4)
    done = app_here("train", *given, "--steps", 6, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert {file: file.read_bytes() for file in before} == before
    old, new = from_pretrained(model), from_pretrained(tmp_path / "run" / "model")
    for name, tensor in old.model.state_dict().items():
        assert torch.equal(new.model.state_dict()[name], tensor)
    assert new.weights == "ema(sigma_rel=0.05) at step 3; error head ema(sigma_rel=0.05) at step 6"
    assert "error nll" in done.stdout
    assert f"uv run apps/evaluate --model {tmp_path}/run/model --metric calibration" in done.stdout
    assert not (tmp_path / "run" / "samples.png").exists()
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["error_head_of"] == str(model)
    found = app_here(
        *("evaluate", "--model", tmp_path / "run" / "model", "--data", data, "--metric", "calibration"),
        *("--points", 4, "--path", "raster"),
    )
    assert found.returncode == 0, found.stderr
    assert_refused(
        app_here("train", "--error-head-of", tmp_path / "run" / "model", "--data", data, "--out", tmp_path / "twice"),
        "this model has an error head already",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", 8], "--size goes without --error-head-of: there the model is given"),
        (["--error-head"], "--error-head goes without --error-head-of"),
        (["--one-way"], "--one-way goes without"),
        (["--position", "rope"], "--position goes without"),
        (["--conditioning", "joint"], "--conditioning goes without"),
        (["--data", "nowhere"], "does not exist"),
    ],
)
def test_what_a_given_model_has_already(
    small: tuple[Path, Path], tmp_path: Path, options: list[object], message: str
) -> None:
    given = ("--error-head-of", small[1], "--data", small[0], "--out", tmp_path / "run")
    assert_refused(app_here("train", *given, *options), message)
    assert not (tmp_path / "run").exists()


def test_the_model_that_a_head_is_for_is_not_written_over(small: tuple[Path, Path], tmp_path: Path) -> None:
    for out in (small[1], small[1].parent):
        given = ("--error-head-of", small[1], "--data", small[0], "--out", out, "--overwrite")
        assert_refused(app_here("train", *given), "holds the model of --error-head-of: choose another")
    assert from_pretrained(small[1]).class_names == ("cats", "dogs")
    lost = ("--error-head-of", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert_refused(app_here("train", *lost), "holds no model")
    animals = ("--error-head-of", small[1], "--out", tmp_path / "run")
    assert_refused(app_here("train", *animals), "28 pixels a side, not 8")


def _empty(path: Path) -> Path:
    path.mkdir()
    return path


def _images(path: Path) -> Path:
    path.mkdir()
    for k in range(4):
        Image.fromarray(np.full((8, 8), 50 * k, dtype=np.uint8)).save(path / f"{k}.png")
    return path


def _broken(path: Path) -> Path:
    path.mkdir()
    (path / "a.png").write_bytes(b"broken")
    return path


REFUSED: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "recipe": (lambda tmp: ["elephants"], "unknown recipe 'elephants'; there is animals28"),
    "option": (lambda tmp: ["--stepz", "3"], "Unrecognized options: --stepz"),
    "value": (lambda tmp: ["--steps", "many"], "--steps"),
    "choice": (lambda tmp: ["--conditioning", "both"], "'--conditioning'. Expected one of joint, separable, token."),
    "no steps": (lambda tmp: ["--steps", 0], "steps must be at least 1, got 0"),
    "one token": (lambda tmp: ["--data", _images(tmp / "data"), "--size", 4], "needs at least two tokens"),
    "diverging rate": (lambda tmp: ["--learning-rate", "inf"], "learning_rate must be finite"),
    "batch": (lambda tmp: ["--batch-size", 3, "--devices", 2], "cannot be divided among 2 devices"),
    "long name": (lambda tmp: ["--data", "x" * 300], "cannot be read"),
    "no devices": (lambda tmp: ["--devices", 0], "devices must be at least 1"),
    "size": (lambda tmp: ["--size", 30], "multiple of the patch of 4 pixels, got 30"),
    "patch": (lambda tmp: ["--patch", 5], "multiple of the patch of 5 pixels, got 28"),
    "held out": (lambda tmp: ["--held-out", 0], "held_out must be at least 1, got 0"),
    "within the data": (
        lambda tmp: ["--data", _images(tmp / "data"), "--out", tmp / "data" / "run"],
        "where its pictures would be data: choose another",
    ),
    "the data": (
        lambda tmp: ["--data", _images(tmp / "data"), "--out", tmp / "data"],
        "where its pictures would be data: choose another",
    ),
    "embedded size": (lambda tmp: ["--size", 32], "28 pixels a side, not 32"),
    "no data": (lambda tmp: ["--data", tmp / "nowhere"], "does not exist"),
    "empty data": (lambda tmp: ["--data", _empty(tmp / "data")], "no images in"),
    "broken data": (lambda tmp: ["--data", _broken(tmp / "data")], "can be read"),
    "not writable": (lambda tmp: ["--out", "/proc/no/run"], "cannot be written"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input(tmp_path: Path, arguments: Callable[[Path], list[object]], message: str) -> None:
    given = arguments(tmp_path)
    done = app_here("train", *([] if "--out" in given else ["--out", tmp_path / "run"]), *given)
    assert_refused(done, message)
    assert not (tmp_path / "run").exists()


def test_mirroring_can_be_switched_off(small: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("--data", small[0], "--size", 8, "--steps", 1, "--batch-size", 4, *SMALL)
    done = app_here("train", *given, "--no-flip", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["flip"], config["width"], config["depth"], config["heads"]) == (False, 16, 1, 2)


def test_mirroring_is_not_both_on_and_off(tmp_path: Path) -> None:
    done = app_here("train", "--flip", "--no-flip", "--out", tmp_path / "run")
    assert_refused(done, "--flip and --no-flip say opposite things")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_replaced_unless_asked(short_run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in short_run.rglob("*")}
    assert_refused(app_here("train", "--steps", 20, "--out", short_run), "already holds a run")
    assert {file: file.stat().st_mtime_ns for file in short_run.rglob("*")} == before


def test_bad_data_with_overwrite_does_not_cost_the_old_run(short_run: Path, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in short_run.rglob("*")}
    done = app_here("train", "--out", short_run, "--overwrite", "--data", _empty(tmp_path / "data"))
    assert_refused(done, "no images in")
    assert {file: file.stat().st_mtime_ns for file in short_run.rglob("*")} == before


HELPS = ("which tokens are uncertain", "the same to the bit", "as in DiT", "turned by row and column", "cleaner ones")


def test_help_teaches() -> None:
    done = app_here("train", "--help")
    assert done.returncode == 0
    for part in ("animals28", "Ten kinds of animals", "--data", "each sub-folder is a class", "--overwrite", *HELPS):
        assert part in " ".join(done.stdout.replace("│", " ").split())


@pytest.mark.slow  # the library's own two processes are held to more in tests/train/test_parallel.py
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    for k in range(6):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8), dtype=np.uint8)).save(
            tmp_path / f"data/{k}.png"
        )
    common = ("--data", tmp_path / "data", "--size", 8, "--steps", 3, "--batch-size", 4)
    # Muon orthogonalises in bfloat16, which makes of a rounding of the gradient up to 1/256 of a step: steps are short.
    common = (*common, "--learning-rate", 1e-3)
    done = app("train", *common, "--devices", 2, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 × cpu") == 1
    alone = app_here("train", *common, "--out", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    two, one = (from_pretrained(tmp_path / name / "model").model for name in ("two", "one"))
    for a, b in zip(two.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
        assert (a - b).square().mean().sqrt() < 1e-5
    for a, b in zip(read_metrics(tmp_path / "two"), read_metrics(tmp_path / "one"), strict=True):
        shared = {*a} - {"seconds", "images_per_second", "peak_memory"}
        assert {name: a[name] for name in shared} == pytest.approx({name: b[name] for name in shared}, rel=1e-3)


@pytest.mark.slow
def test_compiled_blocks_learn_what_others_do(small: tuple[Path, Path], tmp_path: Path) -> None:
    """And go on from each other's checkpoints."""
    given = ("--data", small[0], "--size", 8, "--batch-size", 4, "--learning-rate", 1e-3, "--checkpoint-every", 2)
    first = app("train", *given, "--steps", 2, "--compile", "--out", tmp_path / "run")
    assert first.returncode == 0, first.stderr
    for more in ("--compile", "--checkpoint-activations"):
        run = tmp_path / more
        shutil.copytree(tmp_path / "run", run)
        done = app("train", *given, "--steps", 4, "--resume", more, "--out", run)
        assert done.returncode == 0, done.stderr
    a, b = (from_pretrained(tmp_path / name / "model").model for name in ("--compile", "--checkpoint-activations"))
    assert [*a.state_dict()] == [*b.state_dict()]
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_shapes_and_types_hold_at_every_call(tmp_path: Path) -> None:
    done = app("train", "--steps", 20, "--out", tmp_path / "run", APD_CHECK="1")
    assert done.returncode == 0, done.stderr
    done = app(
        "sample", "--model", tmp_path / "run" / "model", "--out", tmp_path / "drawn", "--steps", 3, APD_CHECK="1"
    )
    assert done.returncode == 0, done.stderr


def test_how_often_and_how_much_can_be_said(small: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("--data", small[0], "--size", 8, "--steps", 4, "--batch-size", 4, *SMALL, "--out", tmp_path / "run")
    often = ("--patch", 2, "--held-out", 1, "--log-every", 1, "--evaluate-every", 2, "--warmup-steps", 0)
    done = app_here("train", *given, *often)
    assert done.returncode == 0, done.stderr
    assert from_pretrained(tmp_path / "run" / "model").patchify.patch == 2
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["held_out"] == 1
    assert record["config"]["warmup_steps"] == 0
    metrics = read_metrics(tmp_path / "run")
    assert [line["step"] for line in metrics if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in metrics if "heldout_loss" in line] == [0, 2, 4]


def test_a_model_that_draws_nothing_is_kept(small: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("--data", small[0], "--size", 8, "--steps", 4, "--batch-size", 4, *SMALL, "--out", tmp_path / "run")
    with patch("apd_train.showcase.generate", side_effect=FloatingPointError("not finite")):
        done = app_here("train", *given)
    assert done.returncode == 0, done.stderr
    assert "there are no pictures, since the model puts out what is not finite: not finite" in done.stdout
    assert from_pretrained(tmp_path / "run" / "model").weights.endswith("at step 4")


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    refused = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")
    with patch("apd_train.fit", side_effect=refused):
        done = app_here("train", "--out", tmp_path / "run")
    assert (done.returncode, done.stderr) == (
        1,
        "apps/train: the device has not enough memory: smaller batches need less, and see --help for more\n",
    )
