"""Folders that a user may not enter: one line from each loader, seen by a user who is not root."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from apd_models import ModelFolderError, from_pretrained
from apd_train import DataError, RunFolder, RunFolderError, load_folder

NOBODY = 65534


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder without any permission; root gives up its rights for the test."""
    was_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        folder = Path(place) / "forbidden"
        folder.mkdir(mode=0o000)
        if was_root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if was_root:
                os.seteuid(0)
            folder.chmod(0o700)


def test_data(forbidden: Path) -> None:
    for path in (forbidden, forbidden / "inside"):
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            load_folder(path, 8)


def test_run(forbidden: Path) -> None:
    for path in (forbidden, forbidden / "inside"):
        with pytest.raises(RunFolderError, match=r"cannot be written: (no permission|Permission denied)"):
            RunFolder(path).check()


def test_model(forbidden: Path) -> None:
    with pytest.raises(ModelFolderError, match="cannot be read: Permission denied"):
        from_pretrained(forbidden)
