"""`apps/train --resume` as a user or a cluster has it: ended by a signal, on more processes, on a full disk."""

import itertools
import json
import shutil
import signal
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
from safetensors.torch import load_file

from apd_models import from_pretrained
from apd_train import read_metrics
from apd_train._gradients import accumulate
from app_runner import ROOT, SMALL, app, app_here, assert_refused

PREEMPTED = 75


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (place / name).mkdir()
        for k in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / name / f"{k}.png")
    return place


def options(data: Path, out: Path, steps: int = 6, *more: object) -> tuple[object, ...]:
    # Muon orthogonalises in bfloat16, which makes of a rounding of the gradient up to 1/256 of a step: steps are short.
    given = ("--data", data, "--size", 8, "--steps", steps, "--batch-size", 4, "--learning-rate", 1e-3, *SMALL)
    return (*given, "--checkpoint-every", 3, "--out", out, *more)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints of steps 3 and 6."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = app_here("train", *options(data, out), "--threads", 1)
    assert done.returncode == 0, done.stderr
    return out


def learned(run: Path, step: int = 6) -> dict[str, torch.Tensor]:
    (file,) = (run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")
    return load_file(file)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_go_on_with_what_one_began(data: Path, whole: Path, tmp_path: Path, strategy: str) -> None:
    """The same images, noise and levels come in the same order, so weights agree to rounding."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    done = app("train", *options(data, run, 6, "--resume", "--devices", 2, "--strategy", strategy))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"resuming from {run}/checkpoints/step-00000003, step 3 of 6") == 1
    for a, b in zip(
        from_pretrained(run / "model").model.parameters(),
        from_pretrained(whole / "model").model.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    record = json.loads((run / "config.json").read_text())
    assert [(each["step"], each["devices"]) for each in record["resumed"]] == [(3, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_cluster_ends_a_run_and_starts_it_again(data: Path, tmp_path: Path, devices: int) -> None:
    """SIGTERM to one of the processes: a checkpoint, a status of its own, and the same command goes on."""
    run = tmp_path / "run"
    given = options(data, run, 100_000, "--resume", "--devices", devices, "--threads", 1)
    command = [sys.executable, str(ROOT / "apps" / "train"), *map(str, given)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(run / "checkpoints" / "LATEST", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == PREEMPTED, out
    (line,) = [line for line in out.splitlines() if "stopped by" in line]
    assert "stopped by SIGTERM after" in line
    assert "go on with the same command and --resume" in line
    latest = (run / "checkpoints" / "LATEST").read_text().strip()
    step = int(latest.removeprefix("step-"))
    assert from_pretrained(run / "model").weights == f"ema(sigma_rel=0.05) at step {step}"
    again = app("train", *options(data, run, step + 2, "--resume"))
    assert again.returncode == 0, again.stderr
    assert f"resuming from {run}/checkpoints/{latest}, step {step} of {step + 2}" in again.stdout


def test_a_run_that_was_stopped_before_its_report_gives_it(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    at_a_report = Disturbed(step=10)
    with patch("apd_train._loop.accumulate", at_a_report):
        done = app_here("train", *options(data, run, 12))
    assert done.returncode == PREEMPTED, done.stderr
    assert "step 10/12" not in done.stdout
    again = app_here("train", *options(data, run, 12, "--resume"))
    assert again.returncode == 0, again.stderr
    assert "step 10/12" in again.stdout
    assert [line["step"] for line in read_metrics(run) if "loss" in line] == [10, 12]


class Disturbed:
    """Gradients of a step, in the midst of which SIGTERM arrives.

    Args:
        step: counted from 1.
    """

    def __init__(self, step: int) -> None:
        self._steps = itertools.count(1)
        self._step = step

    def __call__(self, *args: Any) -> Any:
        if next(self._steps) == self._step:
            signal.raise_signal(signal.SIGTERM)
        return accumulate(*args)


def wait_for(file: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{file} has not come"
        time.sleep(0.05)


def test_what_cannot_be_resumed_is_said_in_one_line(data: Path, whole: Path, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*")}
    for more, message in (
        (("--one-way",), "was begun with one_way False, now it is True: resume with what it was begun with"),
        (("--seed", 1), "was begun with seed 0, now it is 1"),
        (("--steps", 5), "is at step 6 already: --steps 5 would go back"),
        (("--overwrite",), "leave out --resume or --overwrite"),
        (("--checkpoint-every", 0), "checkpoint_every must be at least 1, got 0"),
        (("--strategy", "fsdp"), "fsdp divides the model among processes and there is one"),
    ):
        assert_refused(app_here("train", *options(data, whole), "--resume", *more), message)
    assert_refused(app_here("train", *options(data, whole)), "already holds a run")
    fewer = tmp_path / "fewer"
    shutil.copytree(data, fewer)
    (fewer / "cats" / "3.png").unlink()
    assert_refused(app_here("train", *options(fewer, whole), "--resume"), "was begun with images 40, now it is 39")
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*")} == before


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_last_checkpoint_stays(data: Path, whole: Path, tmp_path: Path) -> None:
    """A quota on the size of a file stands for a full disk: the kernel refuses the write."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = learned(run)
    command = [
        sys.executable,
        str(ROOT / "apps" / "train"),
        *map(str, options(data, run, 9, "--resume", "--threads", 1)),
    ]
    room = 2 * (run / "model" / "model.safetensors").stat().st_size  # a checkpoint is more than three models
    limit = (
        "import resource, os, sys, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); os.execv(sys.argv[2], sys.argv[2:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit, str(room), *command], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "the checkpoint of step 9 cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["LATEST", "step-00000003", "step-00000006"]
    after = learned(run)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again = app_here("train", *options(data, run, 9, "--resume"))
    assert again.returncode == 0, again.stderr
