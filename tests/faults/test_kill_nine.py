"""`kill -9` at any moment of a run, again and again: in the end all is as if it had never happened."""

import contextlib
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from faults.runs import assert_same, assert_sound, metrics, newest_step, options
from faults.starts import Starts

EVERY = 5
"""Steps between checkpoints; no multiple of those between lines of metrics, so sums are kept in checkpoints."""


def drafts(run: Path) -> set[tuple[str, int]]:
    """Checkpoints that are being written now, or were when an earlier process ended."""
    found = set()
    for path in (run / "checkpoints").glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ctime_ns))
    return found


@pytest.mark.parametrize(
    ("kills", "steps", "seed"),
    [(5, 60, 0), pytest.param(30, 300, 1, marks=pytest.mark.slow)],
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

    at = done = 0
    while done < kills:
        process = start(*options(data, run, steps, EVERY, "--resume"))
        if done % 2:
            for _ in range(1 + done // 2 % 2):  # the second is begun when the first is complete
                before = drafts(run)
                process.until(lambda before=before: drafts(run) - before)
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(rng.uniform(0, 1.5 * first))
        process.signal(signal.SIGKILL)
        if process.wait() == 0:  # it was faster
            break
        assert process.status == -signal.SIGKILL, process.err
        done += 1
        at = assert_sound(run, lines, least=at)
    assert done >= 0.8 * kills
    assert at > 0
    last = start(*options(data, run, steps, EVERY, "--resume"))
    assert last.wait() == 0, last.err
    assert_same(run, whole)


@pytest.fixture(scope="module")
def halfway(start: Starts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """A run of ten steps, one that was killed when its checkpoint of step 5 was complete, and how many changes to the
    file system are between the start and the end of its second half.
    """
    place = tmp_path_factory.mktemp("halfway")
    whole, half, counted = place / "whole", place / "half", place / "counted"
    assert start(*options(data, whole, 10, EVERY)).wait() == 0
    process = start(*options(data, half, 10, EVERY), dies_at_step=7)
    assert process.wait() == -signal.SIGKILL
    assert newest_step(half) == 5
    shutil.copytree(half, counted)
    process = start(*options(data, counted, 10, EVERY, "--resume"), counts=1)
    assert process.wait() == 0
    return whole, half, int(process.err.split()[-1])


@pytest.mark.parametrize("part", [0.4, 0.7, 0.95, pytest.param(None, marks=pytest.mark.slow)])
def test_killed_before_each_change_to_the_file_system(
    start: Starts, data: Path, tmp_path: Path, halfway: tuple[Path, Path, int], part: float | None
) -> None:
    """Each in turn, or the one after so much of them: from the note that the run went on to the model's folder."""
    whole, half, changes = halfway
    lines = metrics(whole)
    assert changes > 25
    for number in range(changes) if part is None else [int(part * changes)]:
        run = tmp_path / f"{number}"
        shutil.copytree(half, run)
        process = start(*options(data, run, 10, EVERY, "--resume"), dies_at=number)
        assert process.wait() == -signal.SIGKILL, (number, process.err)
        assert_sound(run, lines, least=5)
        process = start(*options(data, run, 10, EVERY, "--resume"))
        assert process.wait() == 0, (number, process.err)
        assert_same(run, whole)
        assert not [*run.glob(".*")], number  # nothing is left of what was half done
        assert not [*run.rglob("*.tmp")], number
