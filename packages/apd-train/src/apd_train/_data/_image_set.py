"""Labelled images, in memory or read when they are asked for."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from apd_models import LatentScale

from ._lazy import Encoding, Lazy, UnreadableError

PATIENCE = 256
"""Unreadable images in a row that are put up with."""


class DataError(ValueError):
    """Data that cannot be trained on. The message is one line."""


def warn_unreadable(problem: str) -> None:
    """A warning, which Python shows once for each text."""
    text = f"{problem}; the next readable image of its class stands in"
    warnings.warn_explicit(text, UserWarning, "apd_train", 0)  # not where: in a thread that reads, somewhere


def cut(image: UInt8[Tensor, "c _h _w"], size: int, place: float = 0.5) -> UInt8[Tensor, "c size size"]:
    """A square of an image, whose longer side it lies along at ``place``: 0 is the start, 0.5 the centre, 1 the end."""
    top, left = (round(place * (length - size)) for length in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def values(pixels: UInt8[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """From 0 … 255 to [-1, 1]."""
    return pixels.float() / 127.5 - 1


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with their classes.

    Args:
        images: uint8 images ``(c, h, w)``, h and w at least ``size``; one of them more where the image is oblong.
        labels: class of each image.
        class_names: names of the classes.
        size: side of the square that :meth:`square` cuts.
        skipped: names of files that could not be read, each with the reason.
        latents: scale of pre-encoded images; None of pixels.
        can_flip: the mirror image of each is at hand.
        codec: folder of the autoencoder of latents, where it is at hand.
    """

    images: Lazy | Sequence[UInt8[Tensor, "c _h _w"]]
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    size: int
    skipped: tuple[str, ...] = ()
    latents: LatentScale | None = None
    can_flip: bool = True
    codec: Path | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return self.images.channels if isinstance(self.images, Lazy) else self.images[0].shape[0]

    @property
    def kind(self) -> str:
        """In words: ``"grey"``, ``"RGB"``, ``"latents of 4 channels"``."""
        if self.latents is not None:
            return f"latents of {self.channels} channels"
        return {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} channels")

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The images of the given indices, in their order."""
        images = self.images
        images = images.subset(indices) if isinstance(images, Lazy) else [images[i] for i in indices]
        return replace(self, images=images, labels=self.labels[list(indices)])

    def square(
        self,
        index: int,
        place: float = 0.5,
        flip: bool = False,
        generator: Generator | None = None,
        on_unreadable: Callable[[str], None] = warn_unreadable,
    ) -> Float[Tensor, "c size size"]:
        """A square of the image with values in [-1, 1], or its latents.

        An image that is read only now and cannot be is replaced by the next readable one of its class in this set, the
        first following the last: its label stays right, and whoever asks gets the same image.

        Args:
            place: where along the longer side the square is cut: 0 is the start, 0.5 the centre, 1 the end.
            flip: mirror left and right.
            generator: draws from the distribution that the autoencoder gave; without it, its mean. Pixels draw nothing.
            on_unreadable: gets the name of each image that could not be read, with the reason.

        Raises:
            DataError: no image of this class can be read, or ``PATIENCE`` in a row cannot.
        """
        image = self._readable(index, on_unreadable) if isinstance(self.images, Lazy) else self.images[index]
        if isinstance(image, Encoding):
            return image.draw(flip, generator)
        image = cut(image, self.size, place)
        return values(image.flip(-1) if flip else image)

    def squares(self, indices: Sequence[int] | None = None) -> Float[Tensor, "b c size size"]:
        """The central squares of the given images, by default of all."""
        chosen = range(len(self)) if indices is None else indices
        if not isinstance(self.images, Lazy):
            return torch.stack([self.square(i) for i in chosen])
        with ThreadPoolExecutor() as pool:
            return torch.stack([*pool.map(self.square, chosen)])

    def _readable(self, index: int, on_unreadable: Callable[[str], None]) -> UInt8[Tensor, "c _h _w"] | Encoding:
        assert isinstance(self.images, Lazy)
        for candidate in self._standing_in(index):
            try:
                return self.images.read(candidate)
            except UnreadableError as error:
                on_unreadable(f"{self.images.name(candidate)}: {error}")
        raise DataError(
            f"{self.images.name(index)} and the images of its class that follow it cannot be read: is the data damaged?"
        )

    def _standing_in(self, index: int) -> Iterator[int]:
        """The image itself, then those of its class in order, at most ``PATIENCE`` of them."""
        yield index
        same = (self.labels == self.labels[index]).nonzero()[:, 0]
        later, earlier = same[same > index], same[same < index]
        yield from torch.cat([later, earlier])[: PATIENCE - 1].tolist()
