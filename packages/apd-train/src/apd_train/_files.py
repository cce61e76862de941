"""Files and folders that are there whole or not at all, whatever happens while they are written."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".tmp"
"""How the names of files and folders end that are being written, or removed."""


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A place to write a file to, beside it. At the end it is flushed to the disk and takes the file's name.

    At no moment is there a part of the file under its own name, nor after a failure anything of it under the other.
    One process at a time may write a file.
    """
    aside = file.with_name(f"{file.name}{ASIDE}")
    try:
        yield aside
        flush(aside)
        aside.replace(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush(file.parent)


@contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """A new folder to write into, beside the one that it replaces at the end, flushed to the disk.

    At no moment is there a part of it under its own name. One process at a time may write a folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (folder.with_name(f".{folder.name}-{name}{ASIDE}") for name in ("new", "old"))
    for left in (aside, old):  # by a process that was killed while it wrote this folder
        shutil.rmtree(left, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        for path in (*aside.rglob("*"), aside):
            flush(path)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
    except BaseException:
        if not folder.exists() and old.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_text_atomically(file: Path, text: str) -> None:
    """Replaces a file by one with this text, in UTF-8; at no moment is there a part of it."""
    with written_aside(file) as aside:
        aside.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Waits until a file's contents, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder; they keep its names by other means.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def rename_folder(folder: Path, name: str) -> Path:
    """Renames a folder within its own, and waits until that is on the disk. No folder of that name may be there."""
    target = folder.rename(folder.with_name(name))
    flush(target.parent)
    return target


def remove_folder(folder: Path) -> None:
    """Removes a folder: at no moment is there a part of it under its name.

    What cannot be removed stays, with a name that ends in ``.tmp``.
    """
    aside = folder.with_name(f"{folder.name}{ASIDE}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(rename_folder(folder, aside.name), ignore_errors=True)


def digest(file: Path) -> str:
    """BLAKE2b of a file's contents, 128 bits in hexadecimal: against damage, not against a forger."""
    with file.open("rb") as contents:
        return hashlib.file_digest(contents, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
