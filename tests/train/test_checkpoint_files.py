"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from apd_train._files import digest, flush, remove_folder, rename_folder, write_text_atomically, written_aside


def test_a_text_replaces_another(tmp_path: Path) -> None:
    file = tmp_path / "LATEST"
    for text in ("old\n", "neu: ä\n"):
        write_text_atomically(file, text)
    assert file.read_bytes() == "neu: ä\n".encode()
    assert [*tmp_path.iterdir()] == [file]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(b"old")

    def write() -> None:
        with written_aside(file) as aside:
            aside.write_bytes(b"half a pic")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert file.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [file]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    seen: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        here = os.fstat(descriptor).st_ino
        seen.append((here == tmp_path.stat().st_ino, file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text_atomically(file, "text")
    assert seen == [(False, False), (True, True)]  # the file without its name, then the folder with it


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.ENOSPC, False)])
def test_folders_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passes: bool
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if passes:
        flush(tmp_path)
    else:
        with pytest.raises(OSError, match="No space left"):
            flush(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=os.strerror(number)):
        flush(tmp_path / "file")


def test_folders_move_and_go(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"1")
    assert rename_folder(tmp_path / "a", "b") == tmp_path / "b"
    assert (tmp_path / "b" / "file").read_bytes() == b"1"
    (tmp_path / "b.tmp").mkdir()  # left behind by a removal that was interrupted
    (tmp_path / "b.tmp" / "left").write_bytes(b"")
    remove_folder(tmp_path / "b")
    assert [*tmp_path.iterdir()] == []


def test_digest(tmp_path: Path) -> None:
    """BLAKE2b of the empty text at 128 bits is a known value."""
    (tmp_path / "file").write_bytes(b"")
    assert digest(tmp_path / "file") == "cae66941d9efbd404e4d88758ea67670"
    (tmp_path / "file").write_bytes(b"\x01")
    assert digest(tmp_path / "file") != "cae66941d9efbd404e4d88758ea67670"
