"""Signals to a real process, and the processes that read data for it."""

import os
import signal
import time
from pathlib import Path

import pytest

from faults.runs import newest_step, options
from faults.starts import Start, Starts

STEPS = 100_000


def under_way(start: Starts, data: Path, run: Path, *more: object, every: int = 20) -> Start:
    """A run whose first checkpoint is complete."""
    process = start(*options(data, run, STEPS, every, *more))
    assert process.until((run / "checkpoints" / "LATEST").exists), process.err
    return process


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cluster_ends_a_run(start: Starts, data: Path, tmp_path: Path, number: signal.Signals, workers: int) -> None:
    """Status 75, a checkpoint of the last step, and no process is left."""
    run = tmp_path / "run"
    process = under_way(start, data, run, "--workers", workers)
    readers = process.children()
    assert len(readers) == workers
    process.signal(number)
    assert process.wait() == 75, process.err
    assert gone(readers, 5)
    step = newest_step(run)
    assert f"stopped by {number.name} after {step} of {STEPS} steps; go on with the same command" in process.out
    assert process.err == ""


def test_a_signal_to_the_whole_group(start: Starts, data: Path, tmp_path: Path) -> None:
    """As clusters and terminals send it, to the processes that read data as well."""
    process = under_way(start, data, tmp_path / "run", "--workers", 2)
    readers = process.children()
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 75, process.err
    assert gone(readers, 5)
    assert process.err == ""


def test_ctrl_c_once_keeps_what_was_learned(start: Starts, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = under_way(start, data, run, "--workers", 2)
    readers = process.children()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 0, process.err
    assert f"stopped after {newest_step(run)} of {STEPS} steps; the model is kept" in process.out
    assert gone(readers, 5)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGUSR1, -signal.SIGUSR1)]
)
def test_a_second_one_ends_it_at_once(
    start: Starts, data: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """In the middle of a step, which is held up until then; what was saved before stays."""
    run = tmp_path / "run"
    process = start(*options(data, run, STEPS, 4), hangs_at_step=10)
    assert process.until(lambda: "hanging" in process.err), process.err
    process.signal(number)
    time.sleep(1.2)  # what follows within a second is taken for the same
    process.signal(number)
    assert process.wait() == status
    assert newest_step(run) == 8
    said = process.err.replace("hanging\n", "")
    assert said == ("apps/train: interrupted\n" if number == signal.SIGINT else "")


@pytest.mark.slow
def test_kill_nine_leaves_no_readers(start: Starts, data: Path, tmp_path: Path) -> None:
    """They look every five seconds whether somebody still needs them."""
    process = under_way(start, data, tmp_path / "run", "--workers", 2)
    readers = process.children()
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert gone(readers, 15)


def test_a_reader_that_is_killed(start: Starts, data: Path, tmp_path: Path) -> None:
    """As the kernel does it when memory runs out: one line; the run can go on from its last checkpoint."""
    run = tmp_path / "run"
    process = under_way(start, data, run, "--workers", 2)
    readers = process.children()
    os.kill(readers[0], signal.SIGKILL)
    assert process.wait() == 1
    assert len(process.err.splitlines()) == 1, process.err
    assert "a process that reads data died, perhaps of too little memory" in process.err
    assert gone(readers, 5)
    step = newest_step(run)
    assert step >= 20
    again = start(*options(data, run, STEPS, 20, "--resume"))
    assert again.until(lambda: newest_step(run) > step), again.err
    again.signal(signal.SIGTERM)
    assert again.wait() == 75
