"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A place to write a file to, beside it and with the same ending. At the end it is flushed to the disk and takes
    the file's name.

    At no moment is there a part of the file under its own name, nor after a failure anything of it under the other.
    One process at a time may write a file.
    """
    aside = file.with_name(f".{file.stem}.tmp{file.suffix}")
    try:
        yield aside
        with aside.open("rb+") as content:
            os.fsync(content.fileno())
        aside.replace(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
