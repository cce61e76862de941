"""The core of `apps/experiments`: what is done is kept and found again, and nothing else is taken for it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
import experiment_jobs
import experiment_tables
from experiment_jobs import Job, StoppedError, run_jobs
from experiment_setting import Setting
from experiment_table import grid, number

from app_runner import ROOT, app_here, assert_refused
from made_up_jobs import die, double, fail, noted, parity


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(True, tmp_path / "work")


def job(name: str, value: float = 1, needs: tuple[str, ...] = (), work: Callable[..., Any] = double) -> Job:
    return Job(name, work, {"name": name, "value": value}, needs)


def do(jobs: Sequence[Job], setting: Setting, processes: int = 1) -> dict[str, Any]:
    return {name: each.result["value"] for name, each in run_jobs(jobs, setting, processes, "a1b2").items()}


# Jobs.


@pytest.mark.usefixtures("here")
def test_what_is_done_is_kept_and_found_again(setting: Setting) -> None:
    jobs = [job("a"), job("b/c", 2, ("a",)), job("d", 3)]
    told: list[tuple[str, bool, int]] = []
    first = run_jobs(jobs, setting, 1, "a1b2", lambda job, done, left: told.append((job.name, done.fresh, left)))
    assert {name: done.result for name, done in first.items()} == {
        "a": {"value": 2},
        "b/c": {"value": 4},
        "d": {"value": 6},
    }
    assert sorted(told, key=lambda each: -each[2]) == told == [("a", True, 2), *told[1:]]
    assert all(fresh for _, fresh, _ in told)
    assert sorted(noted(setting)) == ["a", "b/c", "d"]
    again = run_jobs(jobs, setting, 1, "c3d4", lambda job, done, left: told.append((job.name, done.fresh, left)))
    assert len(noted(setting)) == 3
    assert told[3:] == [("a", False, 2), ("b/c", False, 1), ("d", False, 0)]
    assert again == {
        name: replace(done, fresh=False) for name, done in first.items()
    }  # seconds, machine and commit too
    assert {done.commit for done in again.values()} == {"a1b2"}
    kept = json.loads((setting.folder / "jobs" / "b" / "c.json").read_text())
    assert kept["given"] == {"name": "b/c", "value": 2}
    assert kept["needs"] == {"a": first["a"].digest}


@pytest.mark.usefixtures("here")
def test_another_job_redoes_what_depends_on_it_and_nothing_else(setting: Setting) -> None:
    def chain(value: int, work: Callable[..., Any] = parity) -> list[Job]:
        return [job("a", value, (), work), job("b", 1, ("a",)), job("c", 1, ("b",)), job("d")]

    assert do(chain(1), setting) == {"a": 1, "b": 2, "c": 2, "d": 2}
    assert do(chain(2), setting)["a"] == 0
    assert noted(setting)[4:] == ["a", "b"]  # the result of b is what it was, so c is as good as it was
    assert do(chain(4), setting)["a"] == 0
    assert noted(setting)[6:] == ["a"]
    assert do(chain(4, double), setting)["a"] == 8
    assert noted(setting)[7:] == ["a", "b"]
    assert do(chain(4, double), setting)["a"] == 8
    assert do([job("b", 1), job("d")], setting)["b"] == 2  # without what it needed it is another job
    assert noted(setting)[9:] == ["b"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"job": "a"}'])
def test_what_cannot_be_read_is_done_again(setting: Setting, damage: str) -> None:
    do([job("a")], setting)
    file = job("a").file(setting)
    file.write_text(damage)
    assert do([job("a")], setting) == {"a": 2}
    assert noted(setting) == ["a", "a"]
    assert do([job("a")], setting) == {"a": 2}
    assert len(noted(setting)) == 2


@pytest.mark.usefixtures("here")
def test_a_job_that_fails_takes_none_of_the_others_along(setting: Setting) -> None:
    failing = Job("fails", fail, {"name": "fails"})
    jobs = [job("a"), failing, job("b"), job("after", 1, ("fails",))]
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="made to fail"):
            do(jobs, setting, 2)
    assert noted(setting).count("a") == 1
    assert noted(setting).count("fails") == 2
    assert "after" not in noted(setting)
    assert not failing.file(setting).exists()
    with pytest.raises(ValueError, match="JSON"):  # what JSON cannot hold is not kept
        do([job("endless", float("inf"))], setting)
    assert [file.name for file in (setting.folder / "jobs").iterdir() if "endless" in file.name] == []


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([job("a"), job("a", 2)], "there are two jobs named a"),
        ([job("a", 1, ("b",)), job("b")], "a needs b, which is no job before it"),
        ([job("a", 1, ("a",))], "a needs a, which is no job before it"),
        ([job("a"), job("b", 1, ("a", "none"))], "b needs none, which is no job before it"),
    ],
)
def test_jobs_that_cannot_be(setting: Setting, jobs: list[Job], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        do(jobs, setting)
    assert not setting.work.exists()


# Numbers.


def test_numbers_have_two_digits_of_their_error() -> None:
    said = lambda value, error=None, scale=1.0: number({"value": value, "standard_error": error}, scale)
    assert said(0.123456, 0.0123) == "0.123 ± 0.012"
    assert said(12.34, 3.21) == "12.3 ± 3.2"
    assert said(1234.5, 123.4) == "1234 ± 123"  # digits before the point stay
    assert said(0.123456, 0.0123, 1000) == "123 ± 12"
    assert said(-0.0001, 0.1) == "0.00 ± 0.10"  # no negative nothing
    assert said(1.0, 3e-9) == "1.000000 ± 0.000000"  # six at most
    assert said(0.0123456) == said(0.0123456, 0.0) == "0.01235"
    assert number({"value": 2}) == "2"
    assert number(None) == ""


def test_tables_are_markdown() -> None:
    assert grid(["a", "b"], [["x", "1"], ["y", ""]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n| y |  |\n"


# The app.


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("elephants",), "there is no table 'elephants': name one of levels"),
        ((), "Which one, see the list above"),
        (("made-up", "--jobs", 0), "--jobs must be at least 1, got 0"),
        (("made-up", "--seeds", -1), "--seeds must be at least 1, got -1"),
        (("made-up", "--jobs", "many"), "--jobs"),
        (("made-up", "--data", "x.zip", "--size", 30), "--size is a multiple of 4, at least 8, got 30"),
        (("made-up", "--data", "x.zip", "--size", 4), "--size is a multiple of 4, at least 8, got 4"),
        (("made-up", "--size", 32), "--size is of --data: the embedded animals have 28 pixels"),
        (("own", "--data", "x.zip"), "--data is not for the tables that make their own images: own"),
        (("all", "--out", "x.json"), "--out x.json is the file of one table: name a folder for all"),
        (("made-up", "--out", "x.txt"), "--out is a file named .json, or a folder, got x.txt"),
        (("made-up", "--out", "there.json/x"), "there.json/x/made-up.json cannot be written"),
        (("made-up", "--out", "there.json"), "there.json is there already: pass --overwrite or another --out"),
        (("made-up", "--out", "with.json"), "with-more.png is there already: pass --overwrite or another --out"),
        (("made-up", "--out", "there.json/t.json"), "there.json/t.json cannot be written"),
        (("made-up", "--out", "folder.json", "--overwrite"), "folder.json is a folder, and no file for the table"),
        (("made-up", "--out", "of-more.json", "--overwrite"), "of-more-more.png is a folder, and no file for the tabl"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    options: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment_jobs, "run_jobs", lambda *of: pytest.fail("jobs were begun"))
    Path("there.json").write_text("kept")
    Path("folder.json").mkdir()
    Path("of-more-more.png").mkdir()
    Path("with-more.png").touch()
    assert_refused(app_here("experiments", *options), message)
    assert sorted(file.name for file in tmp_path.rglob("*")) == [
        *("folder.json", "of-more-more.png", "there.json", "with-more.png")
    ]
    assert Path("there.json").read_text() == "kept"


@pytest.mark.usefixtures("here", "tables")
def test_a_table_is_made_once(tmp_path: Path) -> None:
    out, setting = tmp_path / "results" / "table.json", Setting(True, tmp_path / "work")
    asked = ("made-up", "--quick", "--seeds", 2, "--work", setting.work, "--out", out)
    done = app_here("experiments", *asked)
    assert done.returncode == 0, done.stderr
    assert "made-up: 4 jobs" in done.stdout
    assert sorted(file.name for file in out.parent.iterdir()) == ["table-more.png", "table.json", "table.md"]
    assert (out.parent / "table-more.png").read_bytes() == b"a picture"
    record = json.loads(out.read_text())
    assert record["rows"] == [[0, 0.5], [2, 2.5]]
    assert record["command"].startswith("uv run apps/experiments made-up --quick --seeds 2")
    assert (record["table"], record["quick"], record["seeds"], record["images"]) == (
        "made-up",
        True,
        [0, 1],
        "animals28",
    )
    assert record["packages"].keys() >= {"torch", "apd-train"}
    page = out.with_suffix(".md").read_text()
    assert page == experiment_tables.page_of(record)
    assert "| 2 | 2.5 |" in page
    assert page.strip() in done.stdout
    assert_refused(app_here("experiments", *asked), "is there already")
    again = app_here("experiments", *asked, "--overwrite")
    assert again.returncode == 0, again.stderr
    assert len(noted(setting)) == 4
    assert {**json.loads(out.read_text()), "command": record["command"]} == record
    more = app_here("experiments", *asked, "--seeds", 3, "--overwrite")
    assert more.returncode == 0, more.stderr
    assert noted(setting)[4:] == ["first-2", "second-2"]


@pytest.mark.usefixtures("here", "tables")
def test_a_disk_that_fills_up_costs_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("made-up", "--quick", "--work", tmp_path / "work", "--out", tmp_path / "results" / "table.json")
    write_bytes = Path.write_bytes

    def into_a_full_disk(file: Path, content: bytes) -> int:
        if content.startswith(b"{"):  # the last of the files
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(file, content)

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", into_a_full_disk)
        assert_refused(app_here("experiments", *asked), "cannot be written: No space left on device")
    assert [*(tmp_path / "results").iterdir()] == []
    assert len(noted(Setting(True, tmp_path / "work"))) == 2
    assert app_here("experiments", *asked).returncode == 0
    assert len(noted(Setting(True, tmp_path / "work"))) == 2


# Processes.


@pytest.mark.slow
def test_a_process_that_dies_is_said_and_the_rest_goes_on(setting: Setting) -> None:
    jobs = [job("a"), Job("dies", die, {"name": "dies"}, ("a",)), job("b", 1, ("dies",))]
    with pytest.raises(StoppedError, match="was ended from outside, perhaps for want of memory: the same command goes"):
        do(jobs, setting)
    assert do(jobs, setting) == {"a": 2, "dies": 0, "b": 2}
    assert noted(setting) == ["a", "dies", "dies", "b"]


def started(place: Path, jobs: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tests" / "made_up_jobs.py"), "made-up", "--seeds", "6", "--jobs", str(jobs)]
    command += ["--work", str(place / "work"), "--out", str(place / "table.json"), "--overwrite"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def made(place: Path) -> dict[str, Any]:
    """What the table says that is no matter of how and when it was made."""
    record = json.loads((place / "table.json").read_text())
    return {name: record[name] for name in ("rows", "table", "seeds", "images")}


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    """Whatever the number of processes; and nobody goes on working for who is gone."""
    whole = started(tmp_path / "whole", 1)
    _, complaint = whole.communicate(timeout=300)
    assert whole.returncode == 0, complaint
    assert len(noted(Setting(False, tmp_path / "whole" / "work"))) == 12
    setting, place = Setting(False, tmp_path / "parts" / "work"), tmp_path / "parts"
    for enough in (3, 7):
        app = started(place, 2)
        until = time.monotonic() + 200
        while len(noted(setting)) < enough:
            assert time.monotonic() < until
            assert app.poll() is None, app.communicate()
            time.sleep(0.02)
        app.send_signal(signal.SIGKILL)
        app.communicate(timeout=200)  # which ends when none of its processes is left to write
        assert not (place / "table.json").exists()
    last = started(place, 2)
    out, complaint = last.communicate(timeout=300)
    assert last.returncode == 0, complaint
    assert "were done before" in out
    assert made(place) == made(tmp_path / "whole")
    assert (place / "table.md").exists()
    assert 12 <= len(noted(setting)) <= 12 + 4  # at most those that were at work when it was killed are done again
    assert [*place.rglob(".*")] == []
