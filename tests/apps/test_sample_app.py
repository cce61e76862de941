"""`apps/sample` as a user runs it."""

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

import apd_generate
from apd_generate import parse_seeds
from apd_models import DiT, DiTConfig, Patchify, save_pretrained
from apd_train import RunFolder
from app_runner import ROOT, app, app_here, assert_refused
from small_disks import small_disk


@pytest.fixture(scope="module")
def model(short_run: Path) -> Path:
    return short_run / "model"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, of grey images of 8×8 pixels, with three classes and an error head."""
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


def write_model(folder: Path, seed: int = 0, names: tuple[str, ...] = ("ant", "bee", "cow")) -> Path:
    patchify = Patchify(8, 8, 1, 2)
    model = DiT(DiTConfig(patchify.grid, 4, width=16, depth=1, heads=2, classes=len(names), error_head=True))
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_pretrained(folder, model, patchify, names, f"random {seed}")
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def images_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("seed-*.png"))}


def record_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "sampling.json").read_text())


def draw(model: Path, out: Path, *more: object, steps: int = 3) -> subprocess.CompletedProcess[str]:
    done = app_here("sample", "--model", model, "--out", out, "--steps", steps, *more)
    assert done.returncode == 0, done.stderr
    return done


def test_a_seed_is_an_image_whatever_the_others_and_the_batch(model: Path, tmp_path: Path) -> None:
    many, few = tmp_path / "many", tmp_path / "few"
    draw(model, many, steps=6)
    draw(model, few, "--seeds", "11,3", "--batch", 1, steps=6)
    assert [*images_of(many)] == [f"seed-{seed:06}.png" for seed in range(16)]
    assert [*images_of(few)] == ["seed-000003.png", "seed-000011.png"]
    assert images_of(few).items() <= images_of(many).items()
    assert np.abs(pixels(many / "seed-000003.png") - pixels(many / "seed-000011.png")).max() > 10


SAMPLING = [
    ["--scheduler", "synchronous", "--solver", "heun", "--shift", 1],
    ["--order", "raster", "--cells", 2, "--solver", "euler"],
    ["--order", "random", "--order-seed", 3, "--noise-schedule", "cosine"],
    ["--order", "checkerboard", "--solver", "dpm-solver++"],
    ["--order", "coarse-to-fine", "--solver", "adams", "--adams-order", 3],
    ["--order", "spiral", "--groups", 3, "--eta", 1],
    ["--order", "hilbert", "--scheduler", "staggered", "--width", 0.3, "--churn", 0.3],
    ["--scheduler", "sliding-window", "--active", 3, "--noise-schedule", "edm"],
    ["--scheduler", "round-robin", "--groups", 2, "--steps", 8, "--guidance-interval", 0.2, 0.8],
    ["--scheduler", "uncertainty-guided", "--patience", 0.2, "--restarts", 1, "--restart-steps", 3],
    ["--scheduler", "uncertainty-guided", "--uncertainty", "random"],
    ["--scheduler", "most-certain-first", "--groups", 4, "--overlap", 0.5, "--uncertainty", "predicted"],
    ["--scheduler", "dual-loop", "--inner", 2, "--uncertainty", "changing"],
    ["--look-ahead", "--share", 0.3, "--guidance", 1],
]


@pytest.mark.parametrize("options", SAMPLING, ids=lambda options: "_".join(map(str, options)))
def test_every_way_of_sampling_gives_a_seed_its_image(tiny: Path, tmp_path: Path, options: list[object]) -> None:
    """Alone, among others, later, in another order; and the record says how."""
    steps = [] if "--steps" in options else ["--steps", 6]
    for out, more in (("many", ["--seeds", "0-5"]), ("few", ["--seeds", "4,1", "--batch", 1])):
        done = app_here("sample", "--model", tiny, "--out", tmp_path / out, *options, *steps, *more)
        assert done.returncode == 0, done.stderr
    many, few = images_of(tmp_path / "many"), images_of(tmp_path / "few")
    assert len(many) == 6
    assert len(few) == 2
    assert few.items() <= many.items()
    recipe = record_of(tmp_path / "many")["recipe"]
    for flag, value in itertools.pairwise(options):
        if isinstance(flag, str) and flag.startswith("--") and flag not in ("--look-ahead", "--guidance-interval"):
            assert recipe[flag[2:].replace("-", "_")] == value


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--order", "raster"], 128),
        (["--order", "random", "--cells", 2], 32),
        (["--scheduler", "staggered", "--steps", 9], 9),
    ],
)
def test_the_record_says_what_was_done_and_what_it_cost(
    model: Path, tmp_path: Path, options: list[object], steps: int
) -> None:
    done = app_here("sample", "--model", model, "--out", tmp_path, "--seeds", "4-5", "--class", "giraffe", *options)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "sampling.json").read_text())
    assert record["seeds"] == "4-5"
    assert record["classes"] == ["giraffe"]
    assert record["recipe"][str(options[0])[2:]] == options[1]
    assert record["recipe"]["steps"] == steps
    assert record["recipe"]["guidance"] == 2.0
    assert record["network_evaluations"] == 2 * steps  # with and without the class
    assert record["token_evaluations"] == 2 * steps * 49
    assert record["seconds"] > 0
    assert record["weights"] == "ema(sigma_rel=0.05) at step 20"
    assert record["device"] == "cpu"
    assert record["packages"]["torch"] == torch.__version__.partition("+")[0]
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
        (["--order", "zigzag"], "zigzag"),
        (["--seeds", "5-2"], "numbers and ranges such as 0-15"),
        (["--seeds", "a"], "numbers and ranges such as 0-15"),
        (["--seeds", str(2**63)], "below 2^63"),
        (["--steps", 0], "steps must be from 1 to 100,000, got 0"),
        (["--batch", 0], "--batch must be at least 1"),
        (["--threads", 0], "--threads must be at least 1"),
        (["--processes", 0], "--processes must be at least 1"),
        (["--order", "raster", "--cells", 0], "cells must be from 1 to 100,000, got 0"),
        (["--guidance", "nan"], "guidance must be from -1000 to 1,000, got nan"),
        (["--scheduler", "staggered", "--width", 0], "width is a part of something, above 0, got 0"),
        (["--width", 0.5], "width has no meaning here: it is for the scheduler staggered"),
        (["--order", "random", "--order-seed", -1], "order_seed must be from 0 to "),
        (["--uncertainty", "predicted", "--scheduler", "dual-loop"], "does not predict its error"),
        (["--order-image", "nowhere.png"], "nowhere.png "),
        (["--order", "drawn"], "say --order-image FILE"),
        (["--order", "raster", "--order-image", ROOT / "docs/images/samples.png"], "so is --order raster"),
        (["--autoguidance", 2], "--autoguidance SCALE and --autoguidance-model DIR go together"),
        (["--film", "avi"], "--film"),
        (["--method", "repaint"], "Unrecognized options: --method"),
        (["--model", "nowhere"], "holds no model"),
        (["--autoguidance", 2, "--autoguidance-model", "nowhere"], "nowhere holds no model"),
        (["--out", "/proc/no/images"], "cannot be"),
        (["--out", "/proc/version"], "cannot be"),
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
    """What is there is kept by the same command, and refused by another one."""
    draw = lambda *more: app_here("sample", "--model", model, "--out", tmp_path, "--seeds", 1, "--steps", 1, *more)
    file = tmp_path / "seed-000001.png"
    assert draw().returncode == 0
    before = file.stat().st_mtime_ns
    done = draw()
    assert done.returncode == 0
    assert "1 images, 1 of them there already" in done.stdout
    assert_refused(draw("--guidance", 1), "already holds images drawn otherwise, with guidance 2.0, not 1.0: pass")
    assert file.stat().st_mtime_ns == before
    assert draw("--overwrite").returncode == 0
    assert file.stat().st_mtime_ns > before
    (tmp_path / "sampling.json").unlink()
    (tmp_path / "seed-000002.png").write_bytes(b"nobody knows how it was drawn")
    before = file.stat().st_mtime_ns
    assert_refused(draw(), "already holds seed-000001.png")
    assert file.stat().st_mtime_ns == before
    assert draw("--overwrite").returncode == 0
    assert [*images_of(tmp_path)] == ["seed-000001.png"]


def test_images_of_another_recipe_go_all_at_once(tiny: Path, tmp_path: Path) -> None:
    """A folder holds images of one kind: seeds that are not drawn anew would be taken for such."""
    draw(tiny, tmp_path, "--seeds", "0-5", "--npz", "--film", "gif")
    (tmp_path / "seed-000099.png").write_bytes(b"of a round that was killed before it was recorded")
    (tmp_path / "mine.png").write_bytes(b"mine")
    draw(tiny, tmp_path, "--seeds", "1-2", "--solver", "heun", "--overwrite")
    names = ["grid.png", "mine.png", "sampling.json", "seed-000001.png", "seed-000002.png"]
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith(".")) == names


def test_only_what_is_missing_is_drawn(tiny: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    draw(tiny, whole, "--seeds", "0-7")
    draw(tiny, out, "--seeds", "1-4")
    (out / "seed-000003.png").unlink()
    kept = {name: (out / f"seed-00000{name}.png").stat().st_mtime_ns for name in (1, 2, 4)}
    seconds = record_of(out)["seconds"]
    done = draw(tiny, out, "--seeds", "0-7", "--batch", 3)
    assert "8 images, 3 of them there already" in done.stdout
    assert {name: (out / f"seed-00000{name}.png").stat().st_mtime_ns for name in kept} == kept
    assert images_of(out) == images_of(whole)
    assert (out / "grid.png").read_bytes() == (whole / "grid.png").read_bytes()
    same = {name: value for name, value in record_of(out).items() if name != "seconds"}
    assert same == {name: value for name, value in record_of(whole).items() if name != "seconds"}
    assert record_of(out)["seconds"] > seconds  # of both runs


def test_nothing_of_others_is_removed(tiny: Path, tmp_path: Path) -> None:
    """In a folder of something else, such as a run of training, whose pictures have names that ours have too."""
    (out := tmp_path / "run").mkdir()
    (out / "levels.png").write_text("of a training")
    draw(tiny, out, "--seeds", "0-1")
    refused = app_here("sample", "--model", tiny, "--out", out, "--seeds", "0-1", "--steps", 2, "--film", "gif")
    assert_refused(refused, "already holds levels.png, which is of something else: pass --overwrite")
    draw(tiny, out, "--seeds", "0-2")
    assert (out / "levels.png").read_text() == "of a training"
    (other := tmp_path / "other").mkdir()
    (other / "seed-999999.png").write_text("mine")
    refused = app_here("sample", "--model", tiny, "--out", other, "--seeds", "0-1")
    assert_refused(refused, "already holds seed-999999.png, and no sampling.json")
    assert (other / "seed-999999.png").read_text() == "mine"


def test_an_image_that_is_cut_short_is_drawn_anew(tiny: Path, tmp_path: Path) -> None:
    """As by a full disk, or a copy that was stopped."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    draw(tiny, whole, "--seeds", "0-3")
    draw(tiny, out, "--seeds", "0-3")
    (out / "seed-000001.png").write_bytes(b"")
    (out / "seed-000002.png").write_bytes((out / "seed-000002.png").read_bytes()[:-5])
    done = draw(tiny, out, "--seeds", "0-3")
    assert "4 images, 2 of them there already" in done.stdout
    assert images_of(out) == images_of(whole)


def test_a_run_that_was_stopped_goes_on(tiny: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    draw(tiny, whole, "--seeds", "0-7")
    of_all, calls = apd_generate.generate, 0

    def stopped(*given: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return of_all(*given, **named)  # type: ignore[arg-type]

    with patch.object(apd_generate, "generate", stopped):
        done = app_here("sample", "--model", tiny, "--out", out, "--steps", 3, "--seeds", "0-7", "--batch", 2)
    assert (done.returncode, done.stderr) == (130, "apps/sample: interrupted\n")
    assert record_of(out)["seeds"] == "0-3"
    assert sorted(file.name for file in out.iterdir()) == ["sampling.json", *[*images_of(whole)][:4]]
    assert "4 of them there already" in draw(tiny, out, "--seeds", "0-7").stdout
    assert images_of(out) == images_of(whole)


def test_what_was_being_replaced_counts_no_more(tiny: Path, tmp_path: Path) -> None:
    """Stopped among its images, a run leaves none of the other kind, and the record speaks of none of its own."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    draw(tiny, whole, "--seeds", "0-3", "--solver", "euler")
    draw(tiny, out, "--seeds", "0-3")
    written: list[Image.Image] = []

    def stopped(image: torch.Tensor) -> Image.Image:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(to_image(image))
        return written[-1]

    to_image = apd_generate.to_image
    given = ("--model", tiny, "--out", out, "--seeds", "0-3", "--steps", 3, "--solver", "euler")
    with patch.object(apd_generate, "to_image", stopped):
        assert app_here("sample", *given, "--overwrite").returncode == 130
    assert images_of(out)["seed-000001.png"] == images_of(whole)["seed-000001.png"]
    assert "seed-000002.png" not in images_of(out)
    assert (record_of(out)["recipe"]["solver"], record_of(out)["seeds"]) == ("euler", "")
    assert "0 of them there already" in app_here("sample", *given).stdout
    assert images_of(out) == images_of(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--solver", "euler"], "with solver ddim, not euler"),
        (["--order", "raster"], "with scheduler synchronous, not sequential"),
        (["--class", "bee"], "with classes ant, bee, cow, not bee"),
        (["--model"], "with other weights"),
        (["--autoguidance", 1.5, "--autoguidance-model"], "with autoguidance none, not 1.5"),
    ],
    ids=["solver", "order", "class", "model", "autoguidance"],
)
def test_images_drawn_otherwise_are_not_mixed(tiny: Path, tmp_path: Path, change: list[object], message: str) -> None:
    out, other = tmp_path / "out", write_model(tmp_path / "other", seed=1)
    draw(tiny, out, "--seeds", "0-3")
    before = {file: file.read_bytes() for file in out.iterdir()}
    change = [*change, other] if str(change[-1]).endswith("model") else change
    given = ("--out", out, "--seeds", "2-5", "--steps", 3, *([] if "--model" in change else ["--model", tiny]), *change)
    assert_refused(app_here("sample", *given), f"{out} already holds images drawn otherwise, {message}: pass")
    assert {file: file.read_bytes() for file in out.iterdir()} == before
    done = app_here("sample", *given, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert record_of(out)["seeds"] == "2-5"  # the others are of another recipe
    assert sorted(images_of(out)) == [f"seed-{seed:06}.png" for seed in range(2, 6)]
    assert images_of(out)["seed-000002.png"] != before[out / "seed-000002.png"]
    assert "4 of them there already" in app_here("sample", *given).stdout
    both = app_here("sample", *given, "--seeds", "0-5")
    assert "6 images, 4 of them there already" in both.stdout


def test_weights_of_another_training_are_told_by_their_hash(tiny: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny, moved)
    draw(tiny, tmp_path / "out", "--seeds", "0-1")
    assert "2 of them there already" in draw(moved, tmp_path / "out", "--seeds", "0-1").stdout
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    done = app_here("sample", "--model", moved, "--out", tmp_path / "out", "--seeds", "0-1", "--steps", 3)
    assert_refused(done, "with other weights")


WITHOUT_RECIPE = {"seeds": "", "seconds": 0, "network_evaluations": 0, "token_evaluations": 0, "recipe": None}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"format": "apd-generate/sampling"}', '{"format": "other", "seeds": ""}'),
        json.dumps({"format": "apd-generate/sampling", **WITHOUT_RECIPE}),
    ],
)
def test_a_record_of_something_else(tiny: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "sampling.json").write_text(text)
    done = app_here("sample", "--model", tiny, "--out", tmp_path, "--steps", 1)
    assert_refused(done, "already holds sampling.json")
    assert [file.name for file in tmp_path.iterdir()] == ["sampling.json"]
    assert (tmp_path / "sampling.json").read_text() == text


def test_classes_take_turns_by_seed(tiny: Path, tmp_path: Path) -> None:
    for name in ("bee", "ant", "ant,bee"):
        draw(tiny, tmp_path / name, "--seeds", "3-6", "--class", name)
    ants, bees, both = (images_of(tmp_path / name) for name in ("ant", "bee", "ant,bee"))
    assert both["seed-000003.png"] == bees["seed-000003.png"] != ants["seed-000003.png"]
    assert both["seed-000004.png"] == ants["seed-000004.png"] != bees["seed-000004.png"]
    assert record_of(tmp_path / "ant,bee")["classes"] == ["ant", "bee"]


def test_a_model_without_classes(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", names=())
    draw(model, tmp_path / "out", "--seeds", "0-1", "--npz")
    assert record_of(tmp_path / "out")["classes"] == []
    assert record_of(tmp_path / "out")["network_evaluations"] == 3
    with np.load(tmp_path / "out" / "samples.npz", allow_pickle=False) as found:
        assert found.files == ["arr_0"]
    done = app_here("sample", "--model", model, "--out", tmp_path / "no", "--class", "ant")
    assert_refused(done, "this model has no classes")


def test_all_images_in_one_file(tiny: Path, tmp_path: Path) -> None:
    draw(tiny, tmp_path, "--seeds", "9,2,5-7", "--npz", "--class", "cow,ant")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as found:
        images, labels = found["arr_0"], found["arr_1"]
    assert images.shape == (5, 8, 8, 3)
    assert labels.tolist() == [2, 0, 2, 0, 0]
    for seed, image in zip((2, 5, 6, 7, 9), images, strict=True):
        for channel in range(3):
            np.testing.assert_array_equal(image[..., channel], pixels(tmp_path / f"seed-{seed:06}.png"))


def test_a_grid_has_a_row_for_each_class_and_a_hundred_images(tiny: Path, tmp_path: Path) -> None:
    draw(tiny, tmp_path, "--seeds", "0-6", steps=1)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.height == 3 * (64 + 4) + 4  # of three classes
        # The third bee is seed 7, which is not there; the third ant is seed 6.
        ant = np.asarray(grid.crop((grid.width - 68, 4, grid.width - 4, 68)))
        np.testing.assert_array_equal(ant[::8, ::8, 0], pixels(tmp_path / "seed-000006.png"))
    draw(tiny, tmp_path / "one", "--seeds", "0-120", "--class", "bee", steps=1)
    with Image.open(tmp_path / "one" / "grid.png") as grid:
        assert grid.size == (10 * (64 + 4) + 4, 22 + 10 * (64 + 4) + 4)
    assert len(images_of(tmp_path / "one")) == 121


def test_a_drawn_order_goes_from_dark_to_bright(tiny: Path, tmp_path: Path) -> None:
    """A picture of the raster order is the raster order; upside down it is another."""
    bright = np.arange(16, dtype=np.uint8).reshape(4, 4).repeat(5, 0).repeat(3, 1) * 10
    Image.fromarray(bright).save(tmp_path / "order.png")
    Image.fromarray(bright[::-1]).convert("RGB").save(tmp_path / "back.png")
    given = ("--seeds", "0-1")
    draw(tiny, tmp_path / "raster", "--order", "raster", "--cells", 4, *given, steps=16)
    for name in ("order", "back"):
        draw(tiny, tmp_path / name, "--order-image", tmp_path / f"{name}.png", *given, steps=16)
    assert images_of(tmp_path / "order") == images_of(tmp_path / "raster")
    assert images_of(tmp_path / "back") != images_of(tmp_path / "raster")
    recipe = record_of(tmp_path / "order")["recipe"]
    assert (recipe["scheduler"], recipe["order"], len(recipe["drawn"])) == ("sequential", "drawn", 4)
    done = draw(tiny, tmp_path / "order", "--order-image", tmp_path / "order.png", *given, steps=16)
    assert "2 of them there already" in done.stdout
    other = ("--order-image", tmp_path / "back.png", "--steps", 16)
    assert_refused(app_here("sample", "--model", tiny, "--out", tmp_path / "order", *other), "otherwise, with drawn")


def test_a_weaker_model_guides(tiny: Path, tmp_path: Path) -> None:
    weak = write_model(tmp_path / "weak", seed=1)
    given = ("--seeds", "0-1", "--guidance", 1)
    draw(tiny, tmp_path / "alone", *given)
    draw(tiny, tmp_path / "guided", *given, "--autoguidance", 2, "--autoguidance-model", weak)
    draw(tiny, tmp_path / "itself", *given, "--autoguidance", 1, "--autoguidance-model", weak)
    assert images_of(tmp_path / "itself") == images_of(tmp_path / "alone") != images_of(tmp_path / "guided")
    assert record_of(tmp_path / "guided")["network_evaluations"] == 6
    again = app_here(
        *("sample", "--model", tiny, "--out", tmp_path / "guided", "--steps", 3, *given),
        *("--autoguidance", 2, "--autoguidance-model", write_model(tmp_path / "weaker", seed=2)),
    )
    assert_refused(again, "with another model of autoguidance")
    strange = write_model(tmp_path / "strange", names=("cat", "dog", "cow"))
    given = ("--autoguidance", 2, "--autoguidance-model", strange)
    done = app_here("sample", "--model", tiny, "--out", tmp_path / "no", *given)
    assert_refused(done, "is of other images or classes than --model")


@pytest.mark.parametrize("ending", ["webp", "gif", "png"])
def test_a_film(tiny: Path, tmp_path: Path, ending: str) -> None:
    """It can be had of images that are there already, which stay as they are."""
    draw(tiny, tmp_path, "--seeds", "3-8", "--order", "raster", steps=16)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in images_of(tmp_path)}
    done = draw(tiny, tmp_path, "--seeds", "3-8", "--order", "raster", "--film", ending, steps=16)
    assert "6 of them there already" in done.stdout
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before
    with Image.open(tmp_path / f"film.{ending}") as film:
        frames = getattr(film, "n_frames", 1)
        assert frames > 10
        film.seek(frames - 1)
        last = np.asarray(film.convert("RGB")).astype(int)
    with Image.open(tmp_path / "levels.png") as strip:
        assert strip.width > strip.height
    alone = tmp_path / "alone"
    draw(tiny, alone, "--seeds", "3-8", "--order", "raster", "--film", ending, steps=16)
    assert images_of(alone) == images_of(tmp_path)
    assert (alone / f"film.{ending}").read_bytes() == (tmp_path / f"film.{ending}").read_bytes()
    if ending == "png":  # without loss: the film ends with the image
        of_seed = pixels(tmp_path / "seed-000003.png")
        scale = 112 // 8
        np.testing.assert_array_equal(last[4 : 4 + 112 : scale, 4 : 4 + 112 : scale, 0], of_seed)


def test_a_folder_in_use_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "out").held():
        done = app_here("sample", "--model", tiny, "--out", tmp_path / "out", "--steps", 1)
        assert_refused(done, "is in use by another process")
        assert not any((tmp_path / "out").iterdir())
    draw(tiny, tmp_path / "out")


def test_a_full_disk_costs_only_what_is_not_written(tiny: Path, tmp_path: Path) -> None:
    draw(tiny, tmp_path / "whole", "--seeds", "0-39", steps=1)
    with small_disk(tmp_path / "disk", "64k") as disk:
        out = disk / "out"
        given = ("--model", tiny, "--out", out, "--steps", 1, "--seeds", "0-39", "--batch", 4)
        done = app_here("sample", *given)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert f"the images cannot be written to {out}: No space left on device" in done.stderr
        drawn = images_of(out)
        assert 4 <= len(drawn) < 20
        assert drawn.items() <= images_of(tmp_path / "whole").items()
        assert {f"seed-{seed:06}.png" for seed in parse_seeds(record_of(out)["seeds"])} <= drawn.keys()
        assert not [file for file in out.iterdir() if ".tmp" in file.name]
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert app_here("sample", *given).returncode == 0
        assert images_of(out) == images_of(tmp_path / "whole")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-4000:] = b"\xff" * 4000
    (model / "model.safetensors").write_bytes(weights)
    done = app_here("sample", "--model", model, "--out", tmp_path / "out", "--steps", 2)
    assert_refused(done, "gives no images: the denoiser's mean or log_var is not finite: first in step 1")
    assert not images_of(tmp_path / "out")


def test_help_teaches() -> None:
    done = app_here("sample", "--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.replace("│", " ").split())
    examples = ("--class cat,giraffe --seeds 0-15", "--order raster --film webp", "--order-image order.png")
    for part in (*examples, "the model chooses the order", "its seed modulo their number", "the dark parts first"):
        assert part in text


@pytest.mark.slow
def test_two_processes_draw_what_one_does(tiny: Path, tmp_path: Path) -> None:
    given = (
        "--model",
        tiny,
        "--seeds",
        "0-8",
        "--steps",
        3,
        "--batch",
        2,
        "--npz",
        "--scheduler",
        "uncertainty-guided",
    )
    alone = app_here("sample", *given, "--out", tmp_path / "one")
    assert alone.returncode == 0, alone.stderr
    done = app("sample", *given, "--out", tmp_path / "two", "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("9 images, 0 of them there already; uncertainty-guided, 3 steps, 2 × cpu") == 1
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / k).iterdir()} for k in ("one", "two"))
    for name in ("sampling.json", "samples.npz"):  # with times in them
        del one[name], two[name]
    assert two == one
    with np.load(tmp_path / "one" / "samples.npz") as a, np.load(tmp_path / "two" / "samples.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in ("arr_0", "arr_1"))
    assert record_of(tmp_path / "two")["processes"] == 2
    assert record_of(tmp_path / "two")["seeds"] == "0-8"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_killed_goes_on(tiny: Path, tmp_path: Path, processes: int) -> None:
    given = ("--model", tiny, "--seeds", "0-199", "--steps", 40, "--batch", 4, "--threads", 1)
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "apps" / "sample", *given, "--out", out, "--processes", processes]
    started = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(images_of(out)) < 10:
        assert started.poll() is None
        time.sleep(0.01)
    started.kill()
    started.wait()
    before = images_of(out)
    assert len(before) < 200
    deadline = time.monotonic() + 60
    while (done := app_here("sample", *given, "--out", out)).returncode:  # the other process ends a little later
        assert "is in use by another process" in done.stderr
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert app_here("sample", *given, "--out", tmp_path / "whole").returncode == 0
    assert images_of(out) == images_of(tmp_path / "whole")
    assert not [file for file in out.iterdir() if ".tmp" in file.name]
