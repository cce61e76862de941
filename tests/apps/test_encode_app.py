"""`apps/encode` as a user runs it: from the layouts that data come in to a set that can be trained on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apd_train import source_of
from app_runner import ROOT, app_here, assert_refused
from image_files import write_lsun
from latent_sets import assert_same_set, tiny_codec, write_images


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_images(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder") / "codec"
    tiny_codec().save(folder)
    return folder


def test_a_folder_of_classes(raw: Path, codec: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = ["--data", raw, "--codec", codec, "--size", 8, "--out", out, "--shard", 4, "--workers", 0]
    done = app_here("encode", *command)
    assert done.returncode == 0, done.stderr
    first, problem, pace, quality, advice = done.stdout.splitlines()
    assert first == f"10 images of 8×8 pixels, 2 classes; latents of 2×4×4, float16, also of mirror images; cpu → {out}"
    assert problem == "left out a/004.png: cannot identify image file"
    assert pace.startswith("9 images in ")
    assert pace.endswith("a second; 9 in the set, 1 unreadable ones left out")
    assert "decoded again, 9 of them have a PSNR of " in quality
    assert advice == f"  uv run apps/train emoji64-latent --data {out} --size 4"
    images = source_of(out).load(4)
    assert (len(images), images.class_names, images.can_flip) == (9, ("a", "b"), True)
    assert json.loads((out / "encoding.json").read_text())["source"] == str(raw)

    assert_refused(app_here("encode", *command), "already holds a set of latents: pass --resume")
    assert_refused(app_here("encode", *command, "--resume", "--no-mirror"), "mirror is True there and False here")
    assert_refused(app_here("encode", *command[:-4], "--shard", 5, "--resume"), "shard is 4 there and 5 here")
    again = app_here("encode", *command, "--resume")
    assert "0 images in 0 s" in again.stdout

    sound = app_here("encode", "--out", out, "--verify")
    assert sound.stdout == f"{out} is what was written, and complete\n", sound.stderr
    file = out / "latents-00001.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    faulty = app_here("encode", "--out", out, "--verify")
    assert_refused(faulty, f"{out} has 1 fault: it cannot be relied on")
    assert f"{file} is damaged" in faulty.stdout
    file.unlink()
    mended = app_here("encode", *command, "--resume")
    assert "3 images in" in mended.stdout, mended.stderr
    assert "none is encoded anew" not in app_here("encode", "--out", out, "--verify").stdout
    raw.rename(tmp_path / "moved")
    assert "the images are not where they were" in app_here("encode", "--out", out, "--verify").stdout
    moved = app_here("encode", "--out", out, "--verify", "--data", tmp_path / "moved")
    assert moved.stdout == f"{out} is what was written, and complete\n"


def test_lsun_in_parts_without_mirror_images(codec: Path, tmp_path: Path) -> None:
    write_lsun(tmp_path / "lsun", 7)
    out, whole = tmp_path / "set", tmp_path / "whole"
    command = ["--data", tmp_path / "lsun", "--codec", codec, "--size", 8, "--shard", 2, "--no-mirror"]
    command += ["--dtype", "float32", "--workers", 0]
    first = app_here("encode", *command, "--out", out, "--part", "1/2")
    assert "7 images of 8×8 pixels, no classes; latents of 2×4×4, float32; cpu, part 1/2" in first.stdout, first.stderr
    assert "2 of 4 files are for the other parts to make" in first.stdout
    run = ["emoji64-latent", "--data", out, "--size", 4, "--out", tmp_path / "run"]
    assert_refused(app_here("train", *run), "still being made")
    last = app_here("encode", *command, "--out", out, "--part", "0/2")
    assert "7 in the set" in last.stdout, last.stderr
    assert app_here("encode", *command, "--out", whole).returncode == 0
    assert_same_set(out, whole)


def test_pixels_as_they_are(raw: Path, tmp_path: Path) -> None:
    done = app_here(
        "encode", "--data", raw, "--codec", "identity", "--size", 8, "--out", tmp_path / "set", "--workers", 0
    )
    assert "latents of 3×8×8" in done.stdout
    assert "PSNR of inf dB" in done.stdout
    assert source_of(tmp_path / "set").load(8).channels == 3


WRONG = {
    "nothing to encode": ([], "say what to encode: --data, --codec, --size"),
    "no size": (["--data", "RAW", "--codec", "CODEC"], "say what to encode: --size"),
    "no data": (["--data", "nowhere", "--codec", "CODEC", "--size", 8], "data nowhere does not exist"),
    "no codec": (["--data", "RAW", "--codec", "nowhere", "--size", 8], "nowhere is no autoencoder"),
    "odd size": (["--data", "RAW", "--codec", "CODEC", "--size", 9], "multiples of 2, got 9"),
    "no part": (["--data", "RAW", "--codec", "CODEC", "--size", 8, "--part", "2/2"], "--part is one of 0/N to N-1/N"),
    "no number": (["--data", "RAW", "--codec", "CODEC", "--size", 8, "--part", "a"], "--part is one of 0/N to N-1/N"),
    "no batch": (["--data", "RAW", "--codec", "CODEC", "--size", 8, "--batch", 0], "--batch must be at least 1, got 0"),
    "less than no worker": (["--workers", -1], "--workers must be at least 0, got -1"),
    "two things at once": (["--verify", "--resume"], "--resume goes without --verify"),
    "what is there already": (["--verify", "--no-mirror"], "--no-mirror goes without --verify"),
    "verify what": (["--verify"], "encoding.json cannot be read"),
    "both": (
        ["--data", "RAW", "--codec", "CODEC", "--size", 8, "--resume", "--overwrite"],
        "a set is overwritten as a",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case: str, raw: Path, codec: Path, tmp_path: Path) -> None:
    arguments, message = WRONG[case]
    given = [{"RAW": raw, "CODEC": codec}.get(str(each), each) for each in arguments]
    assert_refused(app_here("encode", "--out", tmp_path / "set", *given), message)
    assert not (tmp_path / "set").exists()


def test_help_teaches() -> None:
    done = app_here("encode", "--help")
    assert done.returncode == 0
    said = " ".join(done.stdout.replace("│", " ").split())
    for text in ("uv run apps/encode --data imagenet/train --codec", "--part I/N", "--verify", "goes on with the same"):
        assert text in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_again_and_again(codec: Path, tmp_path: Path) -> None:
    """The app itself, by SIGKILL at the moment when another file is there."""
    write_images(tmp_path / "raw", 40)
    out, whole = tmp_path / "set", tmp_path / "whole"
    command = [sys.executable, str(ROOT / "apps" / "encode"), "--data", str(tmp_path / "raw"), "--codec", str(codec)]
    command += ["--size", "8", "--shard", "12", "--batch", "2", "--workers", "2", "--threads", "1", "--resume", "--out"]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    there, kills, status = 0, 0, None
    while status != 0:
        with subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and len([*out.glob("*.safetensors")]) <= there:
                time.sleep(0.001)
            process.kill()
        status = process.returncode
        assert status in (0, -signal.SIGKILL)
        there, kills = len([*out.glob("*.safetensors")]), kills + 1
    assert kills >= 3
    assert_same_set(out, whole)
