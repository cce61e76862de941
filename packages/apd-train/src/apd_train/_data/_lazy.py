"""Images that are read when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Generator, Tensor


class UnreadableError(ValueError):
    """An entry that is no image that can be used. The message is one line, without the entry's name."""


class Encoding(NamedTuple):
    """What an autoencoder made of an image: normal with this mean and deviation, at the scale that is trained on.

    Args:
        mean, std: of the image; a ``std`` of None is zero.
        mirrored: likewise of the image mirrored left and right, which is not the mirrored encoding.
    """

    mean: Float[Tensor, "c h w"]
    std: Float[Tensor, "c h w"] | None
    mirrored: tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"] | None] | None

    def draw(self, flip: bool, generator: Generator | None) -> Float[Tensor, "c h w"]:
        """A sample of the encoding; without a generator its mean."""
        if flip and self.mirrored is None:
            raise ValueError("an encoding cannot be mirrored without the encoding of the mirror image")
        mean, std = self.mirrored if flip and self.mirrored is not None else (self.mean, self.std)
        if std is None or generator is None:
            return mean
        return mean + std * torch.randn(mean.shape, generator=generator)


@runtime_checkable
class Store(Protocol):
    """Where images lie; entries are numbered in the order of their names. It holds no open file that a forked process
    could not share.
    """

    @property
    def channels(self) -> int:
        """Of an image when it is trained on; a grey image of an RGB store is repeated."""
        ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Of an entry, as text, relative to the store: what it is held out by."""
        ...

    def read(self, row: int) -> UInt8[Tensor, "_c _h _w"] | Encoding:
        """Raises :class:`UnreadableError`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Lazy:
    """Some entries of a store, in some order.

    Args:
        rows: which entries.
        keys: for each entry of the store, in place of the SHA-256 of its name, what it is held out by; entries with the
            same are copies of each other.
    """

    store: Store
    rows: Int64[np.ndarray, " n"]
    keys: UInt8[np.ndarray, "all 32"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Shaped[Tensor, "c _h _w"]:
        """As :meth:`read`, the mean of an encoding."""
        item = self.read(index)
        return item.mean if isinstance(item, Encoding) else item

    def read(self, index: int) -> UInt8[Tensor, "c _h _w"] | Encoding:
        """Raises :class:`UnreadableError`."""
        item = self.store.read(int(self.rows[index]))
        return item if isinstance(item, Encoding) else item.expand(self.channels, -1, -1)

    @property
    def channels(self) -> int:
        return self.store.channels

    def name(self, index: int) -> str:
        return self.store.name(int(self.rows[index]))

    def subset(self, indices: Sequence[int]) -> "Lazy":
        return replace(self, rows=self.rows[np.asarray(indices, dtype=np.int64)])
