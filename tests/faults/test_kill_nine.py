"""`kill -9` at any moment of a run, again and again: in the end all is as if it had never happened."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from faults.runs import assert_same, assert_sound, metrics, newest_step, options
from faults.starts import Starts

EVERY = 4


def writing(run: Path) -> bool:
    """A checkpoint, or the model's folder, is being written now."""
    return any((run / "checkpoints").glob("*.tmp")) or any(run.glob(".model-*"))


@pytest.mark.parametrize(
    ("kills", "steps", "seed"),
    [(5, 28, 0), pytest.param(30, 120, 1, marks=pytest.mark.slow)],
)
def test_killed_at_random_moments(start: Starts, data: Path, tmp_path: Path, kills: int, steps: int, seed: int) -> None:
    """Every other one while something is being written, the rest at any time from the first moment on."""
    rng = random.Random(seed)
    whole, run = tmp_path / "whole", tmp_path / "run"
    began = time.monotonic()
    undisturbed = start(*options(data, whole, steps, EVERY))
    undisturbed.until((whole / "checkpoints" / "LATEST").exists)
    first = time.monotonic() - began
    assert undisturbed.wait() == 0, undisturbed.err
    lines = metrics(whole)

    at, done, progress = 0, 0, set()
    while done < kills:
        process = start(*options(data, run, steps, EVERY, "--resume"))
        if done % 2:
            for _ in range(rng.randrange(1, 3)):
                shutil.rmtree(run / "nothing", ignore_errors=True)
                process.until(lambda: writing(run) or newest_step(run) == steps)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 1.5 * first))
        process.signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        assert process.status == -signal.SIGKILL, process.err
        done += 1
        at = assert_sound(run, lines, least=at)
        progress.add(at)
    assert done >= 0.8 * kills
    assert len(progress) > 2
    last = start(*options(data, run, steps, EVERY, "--resume"))
    assert last.wait() == 0, last.err
    assert_same(run, whole)
