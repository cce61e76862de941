"""Parquet shards of encoded images, as Hugging Face's datasets write them. Needs pyarrow (``apd-train[parquet]``)."""

import json
import os
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ._arrays import labelled
from ._decode import decode
from ._image_set import DataError, ImageSet
from ._lazy import UnreadableError
from ._reading import OnImage, check_size, faults_of, image_set

_SPLIT = re.compile(r"(.+?)-\d{5}-of-\d{5}")


@dataclass(frozen=True, slots=True, eq=False)
class _ParquetStore:
    """Args:
    groups: (file, number in the file) of each row group.
    starts: number of the first row of each, and of all rows.
    """

    root: str
    files: tuple[str, ...]
    groups: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]
    column: str
    size: int
    channels: int = 3

    def __len__(self) -> int:
        return self.starts[-1]

    def name(self, row: int) -> str:
        group = bisect_right(self.starts, row) - 1
        file, number = self.groups[group]
        return f"{self.files[file]}/{number}/{row - self.starts[group]}"

    def read(self, row: int) -> UInt8[Tensor, "_c _h _w"]:
        import pyarrow as pa

        group = bisect_right(self.starts, row) - 1
        file, number = self.groups[group]
        try:
            found = _group(os.path.join(self.root, self.files[file]), number, self.column)
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(f"the row group cannot be read: {str(error).splitlines()[0]}") from error
        content = found[row - self.starts[group]].as_py()
        if content is None:
            raise UnreadableError("there are no bytes, perhaps only the path of a file elsewhere")
        return decode(content, self.size)


def load_parquet(
    path: str | Path,
    size: int,
    on_image: OnImage = None,
    in_memory: bool | None = None,
    image: str = "image",
    label: str = "label",
    split: str | None = None,
) -> ImageSet:
    """The images of a Parquet file, or of all below a folder, in the order of their paths.

    A column has encoded images, as bytes or in a struct with ``bytes``; an optional one has class numbers. Names of the
    classes are those that Hugging Face's datasets write into the metadata of the schema, else the numbers.

    Reading an image reads its row group, of which each process keeps the last four: of a set that does not fit into
    memory the groups should be small, a hundred images or so.

    Args:
        size, on_image, in_memory: see :func:`load_folder`.
        image, label: names of the columns.
        split: reads the files ``SPLIT-00000-of-00001.parquet`` and the like; needed where there are several splits.

    Raises:
        DataError: pyarrow is not installed, or there are no such files with such columns.
    """
    check_size(size)
    root = Path(path)
    with faults_of(root):
        if not root.exists():
            raise DataError(f"Parquet data {root} does not exist")
        found = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.suffix.lower() == ".parquet")
        os.listdir(root if root.is_dir() else root.parent)  # where reading is not allowed, a search finds nothing
    found = _of_split(found, split, root)
    groups: list[tuple[int, int]] = []
    starts = [0]
    labels: list[Any] = []
    names: tuple[str, ...] = ()
    for i, file in enumerate(found):
        opened = _opened(str(file))
        _check_columns(opened.schema_arrow, file, image)
        names = names or _names(opened.schema_arrow.metadata, label)
        for k in range(opened.num_row_groups):
            groups.append((i, k))
            starts.append(starts[-1] + opened.metadata.row_group(k).num_rows)
        if label in opened.schema_arrow.names:
            labels += opened.read([label], use_threads=False)[label].to_pylist()
    if not starts[-1]:
        raise DataError(f"{root} has no rows")
    folder = str(root.parent if root.is_file() else root)
    files = tuple(os.path.relpath(file, folder) for file in found)
    store = _ParquetStore(folder, files, tuple(groups), tuple(starts), image, size)
    told, classes = labelled(_whole(labels, starts[-1], root, label), names, starts[-1], str(root))
    return image_set(store, told.numpy(), classes, size, str(root), in_memory, on_image)


@lru_cache(maxsize=64)
def _opened(file: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError('Parquet needs the package pyarrow: pip install "apd-train[parquet]"') from error
    try:
        return pq.ParquetFile(file, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file} cannot be read as Parquet: {reason}") from error


@lru_cache(maxsize=4)
def _group(file: str, number: int, column: str) -> Any:
    """The encoded images of a row group."""
    import pyarrow.types as types

    opened = _opened(file)
    nested = types.is_struct(opened.schema_arrow.field(column).type)
    table = opened.read_row_group(number, [f"{column}.bytes" if nested else column], use_threads=False)
    array = table[column].combine_chunks()
    return array.field("bytes") if nested else array


if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(before=_group.cache_clear)  # each process opens and keeps its own
    os.register_at_fork(before=_opened.cache_clear)


def _of_split(files: list[Path], split: str | None, root: Path) -> list[Path]:
    splits = {found[1] if (found := _SPLIT.match(file.name)) else None for file in files}
    names = sorted(name for name in splits if name is not None)
    if split is not None:
        if split not in names:
            raise DataError(f"{root} has no split {split!r}; it has {', '.join(names) or 'none'}")
        return [file for file in files if (found := _SPLIT.match(file.name)) and found[1] == split]
    if len(splits) > 1:
        raise DataError(f"{root} has the splits {', '.join(names)}: choose one, or give a folder or file of one")
    if not files:
        raise DataError(f"no .parquet files in {root}")
    return files


def _check_columns(schema: Any, file: Path, image: str) -> None:
    import pyarrow.types as types

    if image not in schema.names:
        raise DataError(f"{file} has no column {image!r}; it has {', '.join(schema.names)}")
    kind = schema.field(image).type
    if types.is_struct(kind):
        inner = [kind.field(i) for i in range(kind.num_fields)]
        kind = next((field.type for field in inner if field.name == "bytes"), kind)
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise DataError(f"the column {image!r} of {file} is {kind}: expected encoded images, as bytes")


def _names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...]:
    """Of classes, as Hugging Face's datasets write them."""
    try:
        said = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(str(name) for name in said)
    except (KeyError, ValueError, TypeError):
        return ()


def _whole(labels: list[Any], count: int, root: Path, label: str) -> Tensor | None:
    """Labels as integers; None where there are none, or all are -1, which says that they are not known."""
    if not labels or all(each == -1 for each in labels):
        return None
    if len(labels) != count:
        raise DataError(f"some files of {root} have no column {label!r}, and others have")
    if bad := [each for each in labels if type(each) is not int]:
        raise DataError(f"the column {label!r} of {root} has class numbers, not {bad[0]!r}")
    return torch.from_numpy(np.array(labels, dtype=np.int64))
