"""A disk that is full, a real one: whatever was being written, one line says so, and the last checkpoint stays.

Skipped where file systems cannot be mounted.
"""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apd_models import from_pretrained
from faults.runs import assert_same, newest_step, options
from faults.starts import Start, Starts
from small_disks import small_disk

STEPS = 24


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Room for four checkpoints and what belongs to them."""
    with small_disk(tmp_path / "disk", "1m") as place:
        yield place


@pytest.fixture(scope="module")
def whole(start: Starts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("full") / "whole"
    assert start(*options(data, run, STEPS, 4)).wait() == 0
    return run


def says(process: Start, status: int, *parts: str) -> None:
    assert process.wait() == status, (process.out, process.err)
    assert len(process.err.splitlines()) == 1, process.err
    for part in (*parts, "No space left on device"):
        assert part in process.err


def goes_on(start: Starts, data: Path, disk: Path, whole: Path) -> None:
    """When there is room again."""
    (disk / "ballast").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    process = start(*options(data, disk / "run", STEPS, 4, "--resume"))
    assert process.wait() == 0, process.err
    assert_same(disk / "run", whole)


def test_in_a_checkpoint(start: Starts, data: Path, disk: Path, whole: Path) -> None:
    """Too many are kept for the disk."""
    run = disk / "run"
    process = start(*options(data, run, STEPS, 4, "--keep-last", 100), folder=disk)
    assert process.wait() == 1
    step = newest_step(run) + 4
    says(process, 1, f"apps/train: the checkpoint of step {step} cannot be written to {run}/checkpoints")
    assert 12 <= step <= STEPS
    assert not [*run.rglob("*.tmp")]
    assert from_pretrained(run / "model").weights == f"ema(sigma_rel=0.05) at step {step - 4}"
    goes_on(start, data, disk, whole)


def test_in_the_metrics(start: Starts, data: Path, disk: Path, whole: Path) -> None:
    run = disk / "run"
    assert start(*options(data, run, STEPS, 4), dies_at_step=5).wait() == -signal.SIGKILL
    process = start(*options(data, run, STEPS, 100, "--resume"), folder=disk, full_at_step=6)
    says(process, 1, "metrics.jsonl cannot be written")
    assert newest_step(run) == 4
    goes_on(start, data, disk, whole)


def test_in_the_model(start: Starts, data: Path, disk: Path, whole: Path) -> None:
    """The checkpoint before it is complete."""
    run = disk / "run"
    process = start(*options(data, run, STEPS, 4), folder=disk, full_at_model=2)
    says(process, 1, "model")
    assert newest_step(run) == 8
    assert from_pretrained(run / "model").weights == "ema(sigma_rel=0.05) at step 4"
    assert not [*run.glob(".*")]
    goes_on(start, data, disk, whole)


def test_in_a_snapshot(start: Starts, data: Path, disk: Path, whole: Path) -> None:
    run = disk / "run"
    process = start(*options(data, run, STEPS, 4, "--snapshot-every", 6), folder=disk, full_at_step=5)
    says(process, 1, "averages/step-00000006.safetensors cannot be written")
    assert newest_step(run) == 4
    assert not [*(run / "averages").iterdir()]
    goes_on(start, data, disk, whole)


def test_in_pictures_under_way(start: Starts, data: Path, tmp_path: Path, whole: Path) -> None:
    """They are no reason to stop."""
    run = tmp_path / "run"
    assert start(*options(data, run, STEPS, 4), dies_at_step=5).wait() == -signal.SIGKILL
    with small_disk(run / "grids", "4k"):
        process = start(*options(data, run, STEPS, 4, "--resume", "--grid-every", 12))
        assert process.wait() == 0, process.err
        assert process.out.count("png cannot be written: No space left on device") >= 2
        assert not [*(run / "grids").glob("*.tmp")]
        assert_same(run, whole)


def test_in_the_pictures_at_the_end(start: Starts, data: Path, disk: Path, whole: Path) -> None:
    """All that was learned is there."""
    run = disk / "run"
    process = start(*options(data, run, STEPS, 4), folder=disk, pictures=True, full_at_pictures=1)
    assert process.wait() in (0, 1, 2)
    assert "Traceback" not in process.err
    assert "No space left on device" in process.out + process.err
    assert_same(run, whole)


def test_from_the_start(start: Starts, data: Path, disk: Path, whole: Path) -> None:
    run = disk / "run"
    (disk / "ballast").write_bytes(bytes(2**20))
    says(start(*options(data, run, STEPS, 4)), 1, f"{run}/config.json cannot be written")
    (disk / "ballast").unlink()
    assert start(*options(data, run, STEPS, 4), dies_at_step=5).wait() == -signal.SIGKILL
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
    says(start(*options(data, run, STEPS, 4, "--resume")), 1, f"{run}/config.json cannot be written")
    assert newest_step(run) == 4
    goes_on(start, data, disk, whole)
