"""`apps/inpaint` as a user runs it: what it leaves, what it says of a mask, what it refuses."""

import itertools
import json
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from PIL import Image

from apd_models import Pretrained, save_pretrained
from app_runner import app, app_here, assert_refused
from completion_cases import picture, small, values

HOLE = (slice(1, 6), slice(2, 7))


def saved(place: Path, pretrained: Pretrained) -> Path:
    save_pretrained(place, pretrained.model, pretrained.patchify, pretrained.class_names, pretrained.weights)
    return place


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of RGB images of 8×8 pixels and three classes."""
    return saved(tmp_path_factory.mktemp("model") / "model", small(3))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """An image and a mask that hides a box of it."""
    picture("RGB", 8, 8).save(tmp_path / "image.png")
    hole = np.zeros((8, 8), np.uint8)
    hole[HOLE] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path / "image.png", tmp_path / "mask.png"


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return values(image)


@pytest.mark.parametrize(
    "run",
    [app_here, pytest.param(partial(app, APD_CHECK="1"), marks=pytest.mark.slow)],
    ids=["here", "in a process of its own, with shapes and types checked"],
)
def test_what_a_run_leaves(
    model: Path, files: tuple[Path, Path], tmp_path: Path, run: Callable[..., CompletedProcess[str]]
) -> None:
    image, mask = files
    out = tmp_path / "new" / "out"
    given = ("--model", model, "--image", image, "--mask", mask, "--out", out, "--steps", 3, "--class", "b")
    done = run("inpaint", *given, "--candidates", 3, "--guidance", 1.5)
    assert done.returncode == 0, done.stderr
    numbers = [f"{k:06}" for k in range(3)]
    pictures = [f"{kind}-{k}.png" for kind in ("candidate", "completed") for k in numbers]
    pictures += ["levels.png", "shown.png", "sheet.png", "variance.png"]
    assert sorted(file.name for file in out.iterdir()) == sorted([*pictures, "inpainting.json"])
    known = np.ones((8, 8), bool)
    known[HOLE] = False
    completions = [read(out / f"completed-{k}.png") for k in numbers]
    for k, completed in zip(numbers, completions, strict=True):
        assert np.array_equal(completed, read(out / f"candidate-{k}.png"))
        assert np.array_equal(completed[known], read(image)[known])
        assert not np.array_equal(completed[~known], read(image)[~known])
    assert not np.array_equal(completions[0], completions[1])
    record = json.loads((out / "inpainting.json").read_text())
    assert record["recipe"]["steps"] == 3
    assert record["recipe"]["guidance"] == 1.5
    assert (record["classes"], record["seeds"], record["weights"]) == (["b"], "0-2", "random")
    assert (record["pixels"], record["known_pixels"], record["given_up_pixels"]) == (64, 39, 39)
    assert (record["network_evaluations"], record["token_evaluations"]) == (6, 24)
    assert np.array(record["variance"]).shape == (2, 2)
    assert record["files"] == sorted(pictures)
    assert "39 of 64 pixels are known, 39 of them in patches that are not known whole" in done.stdout
    assert "3 completions, 6 network evaluations each (24 token evaluations)" in done.stdout


def test_the_same_command_goes_on_and_another_is_refused(model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = files
    run = lambda *more: app_here(
        "inpaint",
        *("--model", model, "--image", image, "--mask", mask, "--out", tmp_path / "out", "--steps", 1, *more),
    )
    assert run("--seeds", 7).returncode == 0
    file = tmp_path / "out" / "completed-000007.png"
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    again = run("--seeds", 7)
    assert again.returncode == 0
    assert again.stdout == "image.png: there already\n"
    for more, what in (
        (("--seeds", 8), "seeds"),
        (("--seeds", 7, "--eta", 0), "recipe"),
        (("--seeds", 7, "--dilate", 1), "mask options"),
    ):
        assert_refused(run(*more), f"already holds completions made otherwise ({what} was another): pass --overwrite")
    assert file.stat().st_mtime_ns == written
    assert run("--seeds", "9,7", "--batch", 1, "--overwrite").returncode == 0
    assert file.read_bytes() == content
    assert run("--seeds", 9, "--overwrite").returncode == 0
    assert not file.exists()  # nothing is left that the record does not speak of
    (tmp_path / "out" / "completed-000009.png").unlink()
    assert "there already" not in run("--seeds", 9).stdout
    (tmp_path / "out" / "inpainting.json").unlink()
    assert_refused(run("--seeds", 9), "already holds candidate-000009.png, and no inpainting.json")


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_images_of_any_mode_and_size(model: Path, tmp_path: Path, mode: str) -> None:
    image = picture("I;16" if mode == "I;16" else "RGBA", 21, 13)
    if mode in ("1", "P", "CMYK"):
        image = image.convert("RGB")
    image = image if image.mode == mode else image.quantize(9) if mode == "P" else image.convert(mode)
    kind = "tif" if mode == "CMYK" else "png"
    image.save(tmp_path / f"image.{kind}")
    hole = np.zeros((13, 21), np.uint8)
    hole[3:8, 9:20] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    given = ("--model", model, "--mask", tmp_path / "mask.png", "--out", tmp_path / "out", "--steps", 1)
    done = app_here("inpaint", *given, "--image", tmp_path / f"image.{kind}", "--seeds", 0)
    assert done.returncode == 0, done.stderr
    plain = {"1": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    expected = values(image if plain == mode else image.convert(plain))
    completed = read(tmp_path / "out" / "completed-000000.png")
    assert completed.shape == expected.shape
    assert np.array_equal(completed[hole == 0], expected[hole == 0])
    assert not np.array_equal(completed[hole > 0], expected[hole > 0])
    assert "21×13 pixels, a window of 13×13 at (7, 0), resized to 8×8" in done.stdout


def test_inverted_soft_and_grown_masks(model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = files
    turned = np.where(read(mask)[..., 0] > 0, 0, 255).astype(np.uint8)
    Image.fromarray(turned).save(tmp_path / "turned.png")
    greys = np.where(turned == 0, 128, 0).astype(np.uint8)
    Image.fromarray(greys).save(tmp_path / "grey.png")

    def run(name: str, mask: Path, *more: object) -> np.ndarray:
        given = ("--model", model, "--image", image, "--mask", mask, "--out", tmp_path / name)
        done = app_here("inpaint", *given, "--steps", 4, "--seeds", 3, *more)
        assert done.returncode == 0, done.stderr
        return read(tmp_path / name / "completed-000003.png").astype(int)

    plain = run("plain", mask)
    assert np.array_equal(plain, run("turned", tmp_path / "turned.png", "--invert"))
    assert np.array_equal(plain, run("grey", tmp_path / "grey.png"))
    soft, original = run("soft", tmp_path / "grey.png", "--soft"), read(image).astype(int)
    assert 0 < np.abs(soft - original).mean() < np.abs(plain - original).mean()
    changed = (run("grown", mask, "--dilate", 1) != original).any(-1)
    assert changed[0, 1:8].any()
    assert not changed[7].any()
    assert not changed[:, 0].any()


@pytest.mark.parametrize("method", [["native"], ["replacement"], ["repaint", "--jump", 1, "--resamples", 2]])
def test_methods_and_guidance(model: Path, files: tuple[Path, Path], tmp_path: Path, method: list[object]) -> None:
    image, mask = files
    given = ("--model", model, "--image", image, "--mask", mask, "--out", tmp_path / "out", "--seeds", 0, "--steps", 3)
    done = app_here("inpaint", *given, "--method", *method)
    assert done.returncode == 0, done.stderr
    known = read(mask)[..., 0] == 0
    assert np.array_equal(read(tmp_path / "out" / "completed-000000.png")[known], read(image)[known])
    assert json.loads((tmp_path / "out" / "inpainting.json").read_text())["recipe"]["method"] == method[0]


def test_painting_beyond_the_image(model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = files
    given = ("--model", model, "--image", image, "--out", tmp_path / "out", "--steps", 1, "--seeds", 0)
    assert app_here("inpaint", *given, "--pad", "1,2,3,4").returncode == 0
    completed = read(tmp_path / "out" / "completed-000000.png")
    assert completed.shape == (12, 14, 3)
    assert np.array_equal(completed[1:9, 4:12], read(image))
    assert app_here("inpaint", *given, "--pad", 4, "--mask", mask, "--overwrite").returncode == 0
    completed, known = read(tmp_path / "out" / "completed-000000.png"), read(mask)[..., 0] == 0
    assert completed.shape == (16, 16, 3)
    assert np.array_equal(completed[4:12, 4:12][known], read(image)[known])


def in_tiles(model: Path, file: Path, image: Image.Image, *more: object) -> tuple[np.ndarray, CompletedProcess[str]]:
    """The hole of an image of 30×20 pixels, and what was said when it was filled."""
    image.save(file)
    hole = np.zeros((20, 30), np.uint8)
    hole[4:16, 10:25] = 255
    Image.fromarray(hole).save(file.with_name("mask.png"))
    given = ("--model", model, "--image", file, "--mask", file.with_name("mask.png"), "--steps", 1)
    done = app_here("inpaint", *given, "--out", file.with_name("out"), "--tile", *more)
    assert done.returncode == 0, done.stderr
    return hole, done


def test_tiles_of_a_large_image(model: Path, tmp_path: Path) -> None:
    image = picture("RGB", 30, 20)
    hole, _ = in_tiles(model, tmp_path / "image.png", image, "--candidates", 2)
    completed = read(tmp_path / "out" / "completed-000001.png")
    assert np.array_equal(completed[hole == 0], values(image)[hole == 0])
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["completed-000000.png", "completed-000001.png", "inpainting.json", "sheet.png", "shown.png"]
    record = json.loads((tmp_path / "out" / "inpainting.json").read_text())
    assert record["network_evaluations"] == len(record["windows"]) > 4
    assert record["report"] == [f"{len(record['windows'])} tiles"]


def test_progress_is_told_where_there_is_no_terminal(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 10.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    _, done = in_tiles(model, tmp_path / "image.png", picture("RGB", 30, 20), "--candidates", 2)
    told = [line for line in done.stdout.splitlines() if line.startswith("image.png: step ")]
    total = len(json.loads((tmp_path / "out" / "inpainting.json").read_text())["windows"])
    assert len(told) > 1
    assert all(re.fullmatch(rf"image\.png: step \d+/{total}", line) for line in told)


def test_tiles_say_what_became_of_the_colours(model: Path, tmp_path: Path) -> None:
    _, done = in_tiles(model, tmp_path / "image.tif", picture("RGB", 30, 20).convert("CMYK"), "--seeds", 0)
    assert "tiles; CMYK as RGB, also in what is written" in done.stdout


def test_an_image_of_which_nothing_is_known(model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    given = ("--model", model, "--image", files[0], "--mask", tmp_path / "white.png", "--out", tmp_path / "out")
    done = app_here("inpaint", *given, "--steps", 1, "--seeds", 0)
    assert done.returncode == 0, done.stderr
    assert "nothing is known of the image, so this is plain generation" in done.stdout


def test_names_that_are_no_utf8(model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    named = images / os.fsdecode(b"caf\xe9.png")
    files[0].rename(named)
    run = lambda: app_here(
        *("inpaint", "--model", model, "--image", images, "--mask", files[1]),
        *("--out", tmp_path / "out", "--steps", 1, "--seeds", 0),
    )
    done = run()
    assert done.returncode == 0, done.stderr
    assert Path(json.loads((tmp_path / "out" / named.stem / "inpainting.json").read_text())["image"]) == named
    assert "0 completed, 1 there already" in run().stdout


def test_a_folder_that_holds_what_was_made_otherwise_gets_nothing(model: Path, tmp_path: Path) -> None:
    """Of a folder of images, before the first is made."""
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    picture("RGB", 8, 8).save(tmp_path / "images" / "b.png")
    run = lambda *more: app_here(
        *("inpaint", "--model", model, "--image", tmp_path / "images", "--mask", tmp_path / "mask.png"),
        *("--out", tmp_path / "out", "--steps", 1, "--seeds", 0, *more),
    )
    assert run().returncode == 0
    picture("RGB", 8, 8, 1).save(tmp_path / "images" / "a.png")
    assert_refused(run("--solver", "euler"), "already holds completions made otherwise (recipe was another)")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b"]
    assert "1 completed, 1 there already" in run().stdout


def test_what_nothing_is_known_of_goes_if_it_may_be_overwritten(
    model: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = lambda *more: app_here(
        *("inpaint", "--model", model, "--image", files[0], "--mask", files[1], "--out", out, "--steps", 1, *more)
    )
    assert run("--seeds", "0-2").returncode == 0
    (out / "inpainting.json").unlink()
    (out / "mine.png").write_bytes(b"mine")
    assert run("--seeds", 1, "--overwrite").returncode == 0
    names = ["candidate-000001.png", "completed-000001.png", "inpainting.json", "levels.png", "mine.png"]
    assert sorted(file.name for file in out.iterdir()) == [*names, "sheet.png", "shown.png"]


def test_a_folder_of_images_and_one_of_masks(model: Path, tmp_path: Path) -> None:
    images, masks, out = (tmp_path / name for name in ("images", "masks", "out"))
    images.mkdir()
    masks.mkdir()
    for k, name in enumerate("abc"):
        picture("RGB", 8 + k, 8, k).save(images / f"{name}.png")
        Image.new("L", (8 + k, 8), 255).save(masks / f"{name}.bmp")
    (images / "notes.txt").write_text("of no account")
    (images / "b.png").write_bytes(b"no image")
    picture("L", 8, 8).save(images / "d.png")
    run = lambda *more: app_here(
        *("inpaint", "--model", model, "--image", images, "--mask", masks, "--out", out, "--steps", 1, "--seeds", 0),
        *more,
    )
    done = run()
    assert done.returncode == 1
    assert done.stderr == ""
    assert f"b.png: skipped, {images / 'b.png'} is no image that can be read" in done.stdout
    assert f"d.png: skipped, there is no mask of its name in {masks}" in done.stdout
    assert "2 completed, 0 there already, 2 skipped" in done.stdout
    assert sorted(file.name for file in out.iterdir()) == ["a", "c"]
    before = (out / "a" / "completed-000000.png").stat().st_mtime_ns
    picture("RGB", 9, 8, 1).save(images / "b.png")
    (images / "d.png").unlink()
    done = run()
    assert done.returncode == 0
    assert "1 completed, 2 there already, 0 skipped" in done.stdout
    assert (out / "a" / "completed-000000.png").stat().st_mtime_ns == before
    picture("RGB", 8, 8, 9).save(images / "a.png")
    done = run()
    assert done.returncode == 1
    assert "made otherwise (image was another)" in done.stdout
    assert "0 completed, 2 there already, 1 skipped" in done.stdout
    assert_refused(run("--solver", "euler"), "made otherwise (recipe was another)")
    Image.new("L", (8, 8), 255).save(tmp_path / "one.png")
    for name in "bc":
        (images / f"{name}.png").unlink()
    assert run("--mask", tmp_path / "one.png", "--overwrite").returncode == 0


REFUSED: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "model": (lambda tmp: ["--model", "nowhere"], "holds no model"),
    "latents": (
        lambda tmp: ["--model", saved(tmp / "latents", small(4))],
        "makes latents of 4 channels: say --codec PATH",
    ),
    "image": (lambda tmp: ["--image", tmp / "nowhere.png"], "nowhere.png does not exist"),
    "text as image": (lambda tmp: ["--image", _text(tmp / "text.png")], "text.png is no image that can be read"),
    "text as mask": (lambda tmp: ["--mask", _text(tmp / "text.png")], "text.png is no image that can be read"),
    "folder as mask": (lambda tmp: ["--mask", tmp], "a folder of masks goes with one of images"),
    "empty folder": (lambda tmp: ["--image", _folder(tmp / "images")], "images has no images"),
    "mask of another shape": (lambda tmp: ["--mask", _flat(tmp, 9, 20, 255)], "the mask has 9×20 pixels"),
    "black mask": (
        lambda tmp: ["--mask", _flat(tmp, 8, 8, 0)],
        "hides nothing: paint white what is to be painted anew",
    ),
    "white mask": (lambda tmp: ["--mask", _flat(tmp, 8, 8, 255), "--invert"], "paint black what is"),
    "grow": (lambda tmp: ["--dilate", -1], "--dilate must be from 0 to 1000, got -1"),
    "pad": (lambda tmp: ["--pad", "1,2"], "--pad is a number of pixels, as in 16, or top,right,bottom,left, got '1,2'"),
    "negative pad": (lambda tmp: ["--pad=-3"], "--pad is a number of pixels"),
    "huge pad": (lambda tmp: ["--pad", "99999999"], "canvas of 200000006×200000006 pixels is too large"),
    "candidates": (lambda tmp: ["--candidates", 0], "--candidates must be at least 1, got 0"),
    "batch": (lambda tmp: ["--batch", 0], "--batch must be at least 1, got 0"),
    "threads": (lambda tmp: ["--threads", 0], "--threads must be at least 1, got 0"),
    "both": (lambda tmp: ["--candidates", 2, "--seeds", 3], "--candidates and --seeds both say"),
    "seeds": (lambda tmp: ["--seeds", "a"], "seeds are numbers and ranges"),
    "class": (lambda tmp: ["--class", "zebra"], "there is no class 'zebra'; this model has a, b, c"),
    "guidance": (lambda tmp: ["--guidance", 2], "--guidance is of guidance by a class: say which, with --class NAME"),
    "interval": (lambda tmp: ["--guidance-interval", 0, 0.5], "--guidance-interval is of guidance by a class: say"),
    "many seeds": (lambda tmp: ["--seeds", "0-99999"], "--seeds must be at most 10000, got 100000"),
    "steps": (lambda tmp: ["--steps", "1" + 400 * "0"], "steps must be from 1 to 100,000, got far more"),
    "method": (lambda tmp: ["--method", "copy"], "native, repaint, replacement"),
    "soft": (lambda tmp: ["--soft", "--method", "replacement"], "--soft goes with --method native"),
    "recipe": (lambda tmp: ["--cells", 2], "cells has no meaning here"),
    "order": (lambda tmp: ["--order", "drawn"], "say --order-image FILE"),
    "two orders": (lambda tmp: ["--order", "raster", "--order-image", _flat(tmp, 2, 2, 0)], "leave one of them out"),
    "weak": (lambda tmp: ["--autoguidance", 2], "--autoguidance-model DIR go together"),
    "another weak": (
        lambda tmp: ["--autoguidance", 2, "--autoguidance-model", saved(tmp / "grey", small(1))],
        "is of other images or classes than --model",
    ),
    "input guidance": (lambda tmp: ["--input-guidance", 1], "none are known"),
    "out": (lambda tmp: ["--out", _text(tmp / "file")], "file cannot be a folder"),
    "no permission": (lambda tmp: ["--out", "/proc/no/images"], "cannot be"),
}


def _text(file: Path) -> Path:
    file.write_text("no image")
    return file


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _flat(tmp: Path, width: int, height: int, value: int) -> Path:
    Image.new("L", (width, height), value).save(tmp / "flat.png")
    return tmp / "flat.png"


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input(
    model: Path,
    files: tuple[Path, Path],
    tmp_path: Path,
    options: Callable[[Path], list[object]],
    message: str,
) -> None:
    given = ("--model", model, "--image", files[0], "--mask", files[1], "--out", tmp_path / "out", "--steps", 1)
    done = app_here("inpaint", *given, *options(tmp_path))
    assert_refused(done, message)
    assert not (tmp_path / "out").exists()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_no_mask(model: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("--model", model, "--image", files[0], "--out", tmp_path / "out")
    assert_refused(app_here("inpaint", *given), "nothing says what is to be painted: pass --mask FILE")
    assert_refused(app_here("inpaint", *given, "--pad", 0), "nothing is to be painted")
    assert_refused(app_here("inpaint", *given, "--pad", 3, "--invert"), "there is no --mask")


def test_a_model_that_gives_no_numbers(files: tuple[Path, Path], tmp_path: Path) -> None:
    broken = small(3)
    with torch.no_grad():
        next(iter(broken.model.parameters())).fill_(float("nan"))
    folder = saved(tmp_path / "model", broken)
    given = ("--model", folder, "--image", files[0], "--mask", files[1], "--out", tmp_path / "out")
    assert_refused(app_here("inpaint", *given, "--steps", 1), "gives no images")
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_what_was_there(
    model: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--model", model, "--image", files[0], "--mask", files[1], "--out", tmp_path / "out", "--steps", 1)
    assert app_here("inpaint", *given, "--seeds", 0).returncode == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    done = app_here("inpaint", *given, "--seeds", 1, "--overwrite")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"apps/inpaint: the completions cannot be written to {tmp_path / 'out'}: No space left on device"
    ]
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_help_teaches_by_example() -> None:
    done = app_here("inpaint", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.replace("│", " ").split())
    for part in (
        "--image cat.png --mask hole.png",
        "White is painted anew",
        "--input-guidance",
        "Paint beyond the image",
    ):
        assert part in text
