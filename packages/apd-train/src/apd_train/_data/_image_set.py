"""Labelled images in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


class DataError(ValueError):
    """Data that cannot be trained on. The message is one line."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with their classes.

    Args:
        images: uint8 images ``(c, h, w)``, h and w at least ``size``; one of them more where the image is oblong.
        labels: class of each image.
        class_names: names of the classes.
        size: side of the square that :meth:`square` cuts.
        skipped: names of files that could not be read, each with the reason.
    """

    images: Sequence[UInt8[Tensor, "c _h _w"]]
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    size: int
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        return self.images[0].shape[0]

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The images of the given indices, in their order."""
        return replace(self, images=[self.images[i] for i in indices], labels=self.labels[list(indices)])

    def square(self, index: int, place: float = 0.5, flip: bool = False) -> Float[Tensor, "c size size"]:
        """A square of the image with values in [-1, 1].

        Args:
            place: where along the longer side the square is cut: 0 is the start, 0.5 the centre, 1 the end.
            flip: mirror left and right.
        """
        image = self.images[index]
        top, left = (round(place * (length - self.size)) for length in image.shape[1:])
        image = image[:, top : top + self.size, left : left + self.size]
        return (image.flip(-1) if flip else image).float() / 127.5 - 1

    def squares(self, indices: Sequence[int] | None = None) -> Float[Tensor, "b c size size"]:
        """The central squares of the given images, by default of all."""
        return torch.stack([self.square(i) for i in (range(len(self)) if indices is None else indices)])
