"""A run whose newest checkpoint is damaged goes on from the one before, and ends as if nothing had happened."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.runs import assert_same, newest_step, options
from faults.starts import Starts

DAMAGED = "step-00000008"


@pytest.fixture(scope="module")
def whole(start: Starts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps, undisturbed."""
    run = tmp_path_factory.mktemp("damaged") / "whole"
    assert start(*options(data, run, 12, 4)).wait() == 0
    return run


@pytest.fixture(scope="module")
def killed(start: Starts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, killed in step 11, with checkpoints of steps 4 and 8."""
    run = tmp_path_factory.mktemp("damaged") / "run"
    assert start(*options(data, run, 12, 4), dies_at_step=10).wait() == -signal.SIGKILL
    assert newest_step(run) == 8
    return run


def shard(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


CASES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "truncated shard": (lambda f: os.truncate(shard(f), 1000), rf"{DAMAGED} .* has 1000 bytes instead of \d+", 4),
    "flipped byte": (lambda f: flip(shard(f), -5), f"{DAMAGED} .*safetensors is damaged: its digest differs", 4),
    "flipped byte of the header": (lambda f: flip(shard(f), 20), f"{DAMAGED} .* is damaged: its digest differs", 4),
    "missing shard": (lambda f: shard(f).unlink(), f"{DAMAGED} .*safetensors is missing", 4),
    "missing manifest": (lambda f: (f / "manifest.json").unlink(), f"{DAMAGED} .*manifest.json is missing", 4),
    "flipped byte of the manifest": (lambda f: flip(f / "manifest.json", 40), f"{DAMAGED} .*manifest.json is dam", 4),
    "empty folder": (lambda f: [file.unlink() for file in f.iterdir()], f"{DAMAGED} .*manifest.json is missing", 4),
    "no folder": (shutil.rmtree, "LATEST names 'step-00000008', which is not there", 4),
    "LATEST missing": (lambda f: (f.parent / "LATEST").unlink(), "LATEST is missing: looking at all", 8),
    "LATEST of nonsense": (lambda f: (f.parent / "LATEST").write_bytes(b"\xff\0../.."), "LATEST names .*, which is", 8),
    "LATEST of the step before": (lambda f: (f.parent / "LATEST").write_text("step-00000004\n"), "", 8),
    "metrics gone on": (lambda f: append(f.parents[1] / "metrics.jsonl", '{"step": 99}\n{"st'), "", 8),
}


@pytest.mark.parametrize("case", CASES)
def test_the_run_goes_on_from_what_is_whole(
    start: Starts, data: Path, tmp_path: Path, whole: Path, killed: Path, case: str
) -> None:
    damage, message, step = CASES[case]
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    damage(run / "checkpoints" / DAMAGED)
    process = start(*options(data, run, 12, 4, "--resume"))
    assert process.wait() == 0, process.err
    assert re.search(message, process.out)
    assert f"resuming from {run}/checkpoints/step-{step:08d}, step {step} of 12" in process.out
    assert process.err == ""
    assert_same(run, whole)


def test_without_a_whole_one_nothing_is_lost(start: Starts, data: Path, tmp_path: Path, killed: Path) -> None:
    """It does not begin anew by itself: perhaps a checkpoint can be put back."""
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    for folder in (run / "checkpoints").glob("step-*"):
        flip(shard(folder), -1)
    before = {file.relative_to(run): file.stat().st_mtime_ns for file in run.rglob("*")}
    process = start(*options(data, run, 12, 4, "--resume"))
    assert process.wait() == 2
    (line,) = process.err.splitlines()
    assert line.startswith(f"apps/train: {run} has no complete checkpoint")
    assert line.endswith("or begin anew with --overwrite")
    assert process.out.count("is passed over: ") == 2
    assert {file.relative_to(run): file.stat().st_mtime_ns for file in run.rglob("*")} == before
