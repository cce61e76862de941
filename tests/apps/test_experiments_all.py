"""`apps/experiments all`: the jobs of all tables are one queue."""

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

sys.path.append(str(Path(__file__).parents[2] / "apps" / "experiments"))  # apps are folders of flat modules
from experiment_jobs import Job, merged
from experiment_setting import Setting
from experiment_tables import TABLES

from app_runner import app_here, assert_refused
from made_up_jobs import TABLE, double, noted


def test_tables_that_share_jobs_ask_for_the_same() -> None:
    for quick in (False, True):
        tables = [table.jobs(Setting(quick, Path("work")), 3) for table in TABLES.values()]
        jobs = merged(tables)
        names = [each.name for each in jobs]
        assert all(len({each.name for each in of}) == len(of) for of in tables)
        assert len(names) < sum(map(len, tables))
        assert all(names.index(need) < names.index(each.name) for each in jobs for need in each.needs)


def test_one_name_is_one_job() -> None:
    a, b = (Job(name, double, {"name": name, "value": 1}) for name in "ab")
    assert merged([[a], [b, a], []]) == [a, b]
    with pytest.raises(ValueError, match="there are two jobs named a that are not the same"):
        merged([[a], [b, replace(a, given={"name": "a", "value": 2})]])


@pytest.mark.usefixtures("here")
def test_each_table_is_written_when_its_last_job_is_done(tmp_path: Path) -> None:
    """What tables share is done once."""
    setting, seen = Setting(True, tmp_path / "work"), dict[str, list[str]]()

    def noting(name: str, seeds: int) -> Callable[..., Mapping[str, Any]]:
        def record(setting: Setting, _: int, results: Mapping[str, Any]) -> Mapping[str, Any]:
            seen[name] = noted(setting)
            return TABLE.record(setting, seeds, results)

        return record

    of = {
        "made-up": replace(TABLE, record=noting("made-up", 2)),
        "less": replace(TABLE, name="less", jobs=lambda setting, _: TABLE.jobs(setting, 1), record=noting("less", 1)),
    }
    for_a_gpu = {"alone": replace(TABLE, name="alone", in_all=False)}
    with patch.dict(TABLES, {**of, **for_a_gpu}, clear=True):
        asked = ("all", "--quick", "--seeds", 2, "--jobs", 1, "--work", setting.work)
        done = app_here("experiments", *asked)
        first = {**seen}
        elsewhere = app_here("experiments", *asked, "--out", tmp_path / "mine")
    assert done.returncode == elsewhere.returncode == 0, done.stderr + elsewhere.stderr
    assert "made-up, less: 4 jobs" in done.stdout
    assert "| first |" not in done.stdout  # nine pages are too much to read there
    assert first == {
        "less": ["first-0", "second-0"],
        "made-up": ["first-0", "second-0", "first-1", "second-1"],
    }
    for place in (setting.folder, tmp_path / "mine"):
        rows = {name: json.loads((place / f"{name}.json").read_text())["rows"] for name in of}
        assert rows == {"made-up": [[0, 0.5], [2, 2.5]], "less": [[0, 0.5]]}


@pytest.mark.usefixtures("here")
def test_a_table_that_cannot_be_written_keeps_no_other_from_it(tmp_path: Path) -> None:
    """And the same command goes on, past what it has written."""
    setting, write_bytes = Setting(True, tmp_path / "work"), Path.write_bytes
    asked = ("all", "--quick", "--jobs", 1, "--seeds", 1, "--work", setting.work)
    first = replace(TABLE, name="first")
    there = lambda: sorted(file.name for file in setting.folder.glob("*.*"))

    def into_a_full_disk(file: Path, content: bytes) -> int:
        if b'"table": "first"' in content:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(file, content)

    with patch.dict(TABLES, {"first": first, "made-up": TABLE}, clear=True):
        with patch.object(Path, "write_bytes", into_a_full_disk):
            full = app_here("experiments", *asked)
        assert_refused(full, "cannot be written: No space left on device")
        assert "first is not written, the rest goes on" in full.stdout
        assert there() == ["made-up-more.png", "made-up.json", "made-up.md"]
        again = app_here("experiments", *asked)
        assert again.returncode == 0, again.stderr
        assert len(there()) == 6
        assert len(noted(setting)) == 2
        assert app_here("experiments", *asked, "--out", tmp_path / "mine").returncode == 0
        assert_refused(
            app_here("experiments", *asked, "--out", tmp_path / "mine"), "is there already: pass --overwrite"
        )
