"""Squares to encode, read in processes of their own."""

import errno
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from .._data import DataError
from .._data._image_set import cut
from .._data._lazy import Encoding, Lazy, UnreadableError
from .._data._split import content_digest, name_digest
from .._loader import loader
from ._to_encode import ToEncode

_GONE = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ENOENT", "ENOTCONN", "ENODEV", "ENXIO", "ETIMEDOUT", "EHOSTDOWN", "EMFILE", "ENFILE")
    if hasattr(errno, name)
)
"""Faults of the system and not of an image: what cannot be read now may be readable later."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Which images these are.

    Args:
        numbers: of those that could be read, counted over all data.
        keys: what each of them is held out by, 32 bytes.
        skipped: number, and name with the reason, of each that could not be read.
    """

    numbers: list[int]
    keys: list[bytes]
    skipped: list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Squares:
    """Images that are encoded together.

    Args:
        pixels: central squares, with the channels that the autoencoder takes.
    """

    pixels: UInt8[Tensor, "n c size size"]
    entries: Entries

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.pixels,)

    @property
    def unreadable(self) -> tuple[str, ...]:
        return tuple(reason for _, reason in self.entries.skipped)

    def pin_memory(self) -> "Squares":
        """In page-locked memory, from which a GPU copies without waiting; torch's ``DataLoader`` looks for this."""
        return Squares(self.pixels.pin_memory(), self.entries)


def squares_of(
    wanted: ToEncode,
    batches: Sequence[Sequence[int]],
    workers: int = 0,
    pin: bool = False,
    on_unreadable: Callable[[str], None] = lambda problem: None,
) -> Generator[Squares, None, None]:
    """The images of each list of numbers, in order.

    Args:
        workers, pin, on_unreadable: see :func:`loader`.

    Raises:
        DataError: an image is in colour and the autoencoder takes grey ones, or a process died.
    """
    reader = _Reader(wanted, wanted.by_content, batches)
    return loader(reader, steps=len(batches), workers=workers, pin=pin, on_unreadable=on_unreadable)


@dataclass(frozen=True, slots=True)
class _Reader:
    wanted: ToEncode
    by_content: bool
    batches: Sequence[Sequence[int]]

    def __call__(self, step: int, rank: int, world: int) -> Squares:
        channels, size = self.wanted.codec.image_channels, self.wanted.images.size
        pixels: list[Tensor] = []
        kept: list[int] = []
        keys: list[bytes] = []
        skipped: list[tuple[int, str]] = []
        for number in self.batches[step]:
            try:
                image = self._image(number)
            except UnreadableError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in _GONE:
                    raise DataError(
                        f"{self._name(number)}: {error}: is the data still there? Go on by --resume"
                    ) from error
                skipped.append((number, f"{self._name(number)}: {error}"))
                continue
            if len(image) != channels and len(image) != 1:
                raise DataError(f"{self._name(number)} is in colour, and the autoencoder takes grey images")
            image = image.expand(channels, -1, -1)
            pixels.append(cut(image, size))
            kept.append(number)
            keys.append(content_digest(image) if self.by_content else name_digest(self._name(number)))
        together = torch.stack(pixels) if pixels else torch.empty(0, channels, size, size, dtype=torch.uint8)
        return Squares(together, Entries(kept, keys, skipped))

    def _image(self, number: int) -> UInt8[Tensor, "_c _h _w"]:
        """As it is stored, grey where it is grey."""
        images = self.wanted.images.images
        if not isinstance(images, Lazy):
            return images[number]
        found = images.store.read(int(images.rows[number]))
        assert not isinstance(found, Encoding)
        return found

    def _name(self, number: int) -> str:
        images = self.wanted.images.images
        return images.name(number) if isinstance(images, Lazy) else str(number)
