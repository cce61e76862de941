"""Files and folders that a user may not read: one line from each loader, seen by a user who is not root."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apd_models import ModelFolderError, from_pretrained
from apd_train import (
    DataError,
    DataSource,
    ImageArrays,
    ImageFolder,
    ImageLmdb,
    ImageParquet,
    ImageZip,
    Latents,
    RunFolder,
    RunFolderError,
    load_folder,
    source_of,
)

NOBODY = 65534


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder without any permission, and beside it such a file; root gives up its rights for the test."""
    was_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        folder, file = Path(place) / "folder", Path(place) / "file"
        folder.mkdir(mode=0o000)
        file.touch(mode=0o000)
        if was_root:
            os.seteuid(NOBODY)
        try:
            yield Path(place)
        finally:
            if was_root:
                os.seteuid(0)
            folder.chmod(0o700)


def test_data(forbidden: Path) -> None:
    for path in (forbidden / "folder", forbidden / "folder" / "inside"):
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            load_folder(path, 8)


def test_run(forbidden: Path) -> None:
    for path in (forbidden / "folder", forbidden / "folder" / "inside"):
        with pytest.raises(RunFolderError, match=r"cannot be written: (no permission|Permission denied)"):
            RunFolder(path).check()


def test_model(forbidden: Path) -> None:
    with pytest.raises(ModelFolderError, match="cannot be read: Permission denied"):
        from_pretrained(forbidden / "folder")


SOURCES: dict[Callable[[Path], DataSource], list[str]] = {
    ImageFolder: ["folder", "folder/x"],
    ImageZip: ["file", "folder/x"],
    ImageLmdb: ["folder", "folder/x"],
    ImageParquet: ["folder", "folder/x", "file"],
    ImageArrays: ["file", "folder/x"],
    Latents: ["folder", "folder/x", "file"],
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_says_so(forbidden: Path, source: Callable[[Path], DataSource]) -> None:
    for name in SOURCES[source]:
        with pytest.raises(DataError, match=r"(cannot be read.*|damaged one): .*Permission denied"):
            source(forbidden / name).load(8)


def test_so_does_guessing(forbidden: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        source_of(forbidden / "folder")
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        source_of(forbidden / "folder" / "x.zip")
