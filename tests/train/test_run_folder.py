"""Run folders: refused before anything is written, replaced only when asked."""

import os
from pathlib import Path

import pytest

from apd_train import RunFolder, RunFolderError


def test_a_run_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create()
    folder.log(step=1, loss=2.0)
    (tmp_path / "a" / "b" / "mine.txt").write_text("keep")
    with pytest.raises(RunFolderError, match=r"already holds a run \(metrics\.jsonl\): pass --resume to go on with it"):
        folder.create()
    folder.model.mkdir()
    (folder.model / "config.json").touch()
    with pytest.raises(RunFolderError, match="but not of a run: nothing is overwritten"):
        RunFolder(folder.path, overwrite=True).create()
    (folder.path / "config.json").write_text('{"format": "apd-train/run"}')
    RunFolder(folder.path, overwrite=True).create()
    assert [entry.name for entry in folder.path.iterdir()] == ["mine.txt"]


def test_checking_changes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "x" / "y").check()
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "file" / "run").check()
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "file", overwrite=True).check()


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode, effective_ids: False)
    with pytest.raises(RunFolderError, match="no permission in"):
        RunFolder(tmp_path / "run").check()
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="cannot be written: File name too long"):
        RunFolder(tmp_path / ("x" * 300)).check()
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder("/proc/nobody-may-write-here").create()


def test_a_process_that_was_forked_off_does_not_hold_the_folder(tmp_path: Path) -> None:
    """Else the readers of a run that was killed would keep it from going on until they have noticed."""
    folder = RunFolder(tmp_path / "run")
    ready, wait = os.pipe(), os.pipe()
    with folder.held():
        child = os.fork()
        if not child:
            os.write(ready[1], b"1")
            os.read(wait[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    with folder.held():  # though the child lives on
        pass
    os.write(wait[1], b"1")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*ready, *wait):
        os.close(end)
