"""From a store of images to an :class:`ImageSet`: in memory where it fits, else read when asked for."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ._image_set import DataError, ImageSet
from ._lazy import Encoding, Lazy, Store, UnreadableError

MEMORY_LIMIT = 8 * 2**30
LARGEST = 8192
PROBES = 16

OnImage = Callable[[int, int], None] | None


@contextmanager
def faults_of(where: str | Path) -> Iterator[None]:
    """A file or folder that the system does not let be read is a :class:`DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{text(str(where))} cannot be read: {error.strerror or error}") from error


def check_size(size: int) -> None:
    if not 1 <= size <= LARGEST:
        raise DataError(f"images have 1 to {LARGEST} pixels a side, not {size}")


def fits(count: int, size: int) -> bool:
    """Whether so many images of this size are held in memory, unless told otherwise."""
    return _bytes(count, size) <= MEMORY_LIMIT


def _bytes(count: int, size: int) -> int:
    return count * 3 * size * size


def image_set(
    store: Store,
    labels: Sequence[int] | Int64[np.ndarray, " n"],
    class_names: tuple[str, ...],
    size: int,
    where: str,
    in_memory: bool | None,
    on_image: OnImage = None,
) -> ImageSet:
    """The images of a store of pixels.

    Args:
        labels: class of each entry; all 0 where there are no classes.
        where: the data, for messages.
        in_memory: by default if it fits. In memory, what cannot be read is left out and named, and the set is grey if
            every image is. A set that is read when asked for is RGB.
        on_image: called with (images read, images in all) as reading goes on.

    Raises:
        DataError: it does not fit, or no image can be read; lazily, none of some spread over the set.
    """
    if in_memory and not fits(len(store), size):
        need = _bytes(len(store), size)
        raise DataError(
            f"{len(store)} images of {size} pixels need {need / 2**30:.0f} GiB, over the {MEMORY_LIMIT >> 30} GiB that "
            "are held in memory: choose a smaller --size, fewer images, or have them read when needed"
        )
    if in_memory is False or not fits(len(store), size):
        return _lazily(store, labels, class_names, size, where)
    return _at_once(store, labels, class_names, size, where, on_image)


def _lazily(
    store: Store,
    labels: Sequence[int] | Int64[np.ndarray, " n"],
    class_names: tuple[str, ...],
    size: int,
    where: str,
) -> ImageSet:
    spread = sorted({i * len(store) // PROBES for i in range(PROBES)})
    if all(isinstance(_read(store, row), str) for row in spread):
        first = f"{store.name(0)}: {_read(store, 0)}"
        raise DataError(f"none of {len(spread)} entries looked at in {where} can be read; the first is {first}")
    rows = np.arange(len(store), dtype=np.int64)
    return ImageSet(Lazy(store, rows), torch.as_tensor(labels, dtype=torch.long), class_names, size)


def _at_once(
    store: Store,
    labels: Sequence[int] | Int64[np.ndarray, " n"],
    class_names: tuple[str, ...],
    size: int,
    where: str,
    on_image: OnImage,
) -> ImageSet:
    images: list[Tensor] = []
    kept: list[int] = []
    skipped: list[str] = []
    pool = ThreadPoolExecutor()
    try:
        for row, item in enumerate(pool.map(lambda row: _read(store, row), range(len(store)))):
            if isinstance(item, str):
                skipped.append(f"{store.name(row)}: {item}")
            else:
                images.append(item)
                kept.append(int(labels[row]))
            if on_image is not None:
                on_image(row + 1, len(store))
    finally:
        pool.shutdown(cancel_futures=True)
    if not images:
        raise DataError(f"none of the {len(store)} images in {where} can be read; the first is {skipped[0]}")
    found = sorted(set(kept)) if class_names else [0]  # a class without a readable image is no class
    channels = max(len(image) for image in images)
    return ImageSet(
        [image.expand(channels, -1, -1) for image in images],
        torch.tensor([found.index(label) for label in kept]),
        tuple(class_names[label] for label in found) if class_names else (),
        size,
        tuple(skipped),
    )


def _read(store: Store, row: int) -> Tensor | str:
    """The image, or why it cannot be used."""
    try:
        item = store.read(row)
    except UnreadableError as error:
        return str(error)
    assert not isinstance(item, Encoding)
    return item


def by_first_folder(names: Iterable[Sequence[str]], where: str) -> tuple[list[int], tuple[str, ...]]:
    """Labels and class names of images by their path, in parts: a class is the first folder.

    Images that lie in no folder, where there are no others, have no classes.

    Raises:
        DataError: some images lie in folders and some beside them.
    """
    loose: str | None = None
    labels: list[int] = []
    classes: dict[str, int] = {}
    beside = 0
    for parts in names:
        if len(parts) == 1:
            loose, beside = loose or parts[0], beside + 1
            labels.append(0)
        else:
            labels.append(classes.setdefault(parts[0], len(classes)))
    if loose is not None and classes:
        raise DataError(
            f"{where} has both classes (sub-folders) and {beside} images beside them, such as {text(loose)}: move "
            "these into a sub-folder, or train on one of the two"
        )
    order = {name: rank for rank, name in enumerate(sorted(classes))}
    rank = [order[name] for name in classes]
    return [rank[label] for label in labels] if classes else labels, tuple(map(text, order))


def text(name: str) -> str:
    """A file's name as text that can be written, also where it is not valid UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")
