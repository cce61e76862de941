"""Clocks, locales, paths and folders as few machines have them: runs are the same there."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from app_runner import app
from faults.runs import assert_same, metrics, options
from faults.starts import Starts
from small_disks import small_disk


@pytest.fixture(scope="module")
def whole(start: Starts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("odd") / "whole"
    assert start(*options(data, run, 12, 4)).wait() == 0
    return run


def test_a_clock_that_goes_back(start: Starts, data: Path, tmp_path: Path, whole: Path) -> None:
    """Decades back, with files from the future lying there, and to a place whose clocks are 26 hours apart."""
    run = tmp_path / "run"
    first = start(*options(data, run, 12, 4), environment={"TZ": "XYZ-14"}, clock_at=2037, dies_at_step=10)
    assert first.wait() == -signal.SIGKILL
    for file in run.rglob("*"):
        os.utime(file, (2**33, 2**33))  # the year 2242
    again = start(*options(data, run, 12, 4, "--resume"), environment={"TZ": "ZYX+12"}, clock_at=1999)
    assert again.wait() == 0, again.err
    assert_same(run, whole)
    assert all(line.get("seconds", 0) >= 0 for line in metrics(run))


def test_a_path_of_many_letters(start: Starts, data: Path, tmp_path: Path, whole: Path) -> None:
    """Blanks, quotes, letters beyond ASCII and beyond the basic plane; from a folder that is not writable."""
    place = tmp_path / "İki güzel ağaç «Ωmega» 'x' \U0001f98a"
    place.mkdir()
    images = place / "дані"
    os.symlink(data, images)
    here = tmp_path / "here"
    with small_disk(here, "4k"):
        subprocess.run(["mount", "-o", "remount,ro", str(here)], check=True)
        first = start(*options(images, place / "run", 12, 4), folder=here, dies_at_step=10)
        assert first.wait() == -signal.SIGKILL
        again = start(*options(images, place / "run", 12, 4, "--resume"), folder=here, pictures=True)
        assert again.wait() == 0, again.err
        assert_same(place / "run", whole)
        refused = start("tiny", "--data", images, "--steps", 4, folder=here)
        assert refused.wait() == 2
        assert re.fullmatch(r"apps/train: runs/tiny cannot be written: .*\n", refused.err)


@pytest.mark.parametrize(
    "encoding",
    ["ascii", *(pytest.param(more, marks=pytest.mark.slow) for more in ("latin-1", "iso-8859-9", "utf-8"))],
)
def test_a_terminal_that_lacks_letters(start: Starts, data: Path, tmp_path: Path, whole: Path, encoding: str) -> None:
    process = start(*options(data, tmp_path / "run", 12, 4), pictures=True, stdout_encoding=encoding)
    assert process.wait() == 0, process.err
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"LC_ALL": "", "LANG": "", "LC_CTYPE": ""},
        {"HOME": "/nonexistent", "TZ": "Antarctica/Troll", "PYTHONIOENCODING": "ascii"},
    ],
    ids=str,
)
def test_a_locale(data: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """A whole start of the app, since Python looks at these when it begins."""
    out = tmp_path / "çözüm"
    given = ("--data", data, "--size", 8, "--steps", 2, "--batch-size", 4, "--out", out)
    done = app("train", *given, **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "samples.png").exists()
