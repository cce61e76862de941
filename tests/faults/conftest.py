"""Images of 8×8, and starts of `apps/train` on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.starts import Starts
from image_files import encoded, pixels


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starts]:
    starts = Starts(tmp_path_factory.mktemp("starts"))
    yield starts
    starts.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty of them, in two classes."""
    place = tmp_path_factory.mktemp("images")
    for k in range(40):
        folder = place / ("cats", "dogs")[k % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{k}.png").write_bytes(encoded(pixels(k, 8, 8)))
    return place
