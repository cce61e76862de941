"""Real images: which are looked at, and the classes that a model knows them by."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluate_options import HELD_OUT
from torch import Tensor

from apd_models import Codec, Pretrained, image_patchify
from apd_train import (
    DataError,
    ImageSet,
    Latents,
    hold_out,
    load_animals28,
    source_of,
)
from apd_train.app import UsageError

AT_A_TIME = 64


@dataclass(frozen=True)
class Kind:
    """What images have to be.

    Args:
        channels: None if it does not matter.
        class_names: of the model, if it is to be told the class.
    """

    channels: int | None
    height: int
    width: int
    class_names: tuple[str, ...]

    @staticmethod
    def of(pretrained: Pretrained, codec: Codec | None, unconditional: bool) -> "Kind":
        patchify = pretrained.patchify if codec is None else image_patchify(codec, pretrained.patchify)
        names = () if unconditional else pretrained.class_names
        return Kind(patchify.channels, patchify.height, patchify.width, names)


@dataclass(frozen=True)
class Images:
    """Args:
    name: where they are from.
    part: which of them these are.
    chosen: these.
    rest: the others, if any: what training trains on.
    class_numbers: of each of their classes, as the model counts them; None where it is told none.
    """

    name: str
    part: str
    chosen: ImageSet
    rest: ImageSet | None
    class_numbers: tuple[int, ...] | None

    def evenly(self, count: int | None) -> list[int]:
        """So many of the chosen ones, evenly spread, by default all; sets are sorted by class."""
        total = len(self.chosen)
        if count is not None and count > total:
            raise UsageError(f"--images {count}: {self.name} has {total} {self.part} images")
        return list(range(total)) if count is None else [i * total // count for i in range(count)]

    def labels(self, indices: list[int]) -> Tensor | None:
        """As the model counts them."""
        if self.class_numbers is None:
            return None
        return torch.tensor(self.class_numbers)[self.chosen.labels[indices]]


def choose_images(
    kind: Kind, data: Path | None, everything: bool, on_image: Callable[[int, int], None], held_out: int = HELD_OUT
) -> Images:
    """The held-out images, or all, of some data or of the embedded animals.

    Args:
        held_out: how many training held out, at most.
    """
    name = "animals28" if data is None else str(data)
    images = _animals(kind) if data is None else _others(kind, data, on_image)
    numbers = _class_numbers(images, name, kind.class_names) if kind.class_names else None
    if everything:
        return Images(name, "all", images, None, numbers)
    rest, chosen = _split(images, held_out)
    return Images(name, "held-out", chosen, rest, numbers)


def batches_of(images: ImageSet, indices: list[int] | None = None) -> Iterator[Tensor]:
    """Squares of them, with values in [-1, 1]; few at a time, however many there are."""
    indices = list(range(len(images))) if indices is None else indices
    for first in range(0, len(indices), AT_A_TIME):
        yield images.squares(indices[first : first + AT_A_TIME])


class Digest:
    """SHA-256 of images: of the shape of one and of the 8-bit values of all, whatever the batches."""

    def __init__(self) -> None:
        self._hash: Any = None

    def through(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same batches, which are counted in as they go by."""
        for images in batches:
            if self._hash is None:
                self._hash = hashlib.sha256(repr(tuple(images.shape[1:])).encode())
            self._hash.update(eight_bits(images).contiguous().numpy().tobytes())
            yield images

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()


def sha256_of(images: Tensor) -> str:
    digest = Digest()
    list(digest.through([images]))
    return digest.hex


def eight_bits(images: Tensor) -> Tensor:
    """0 … 255."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _class_numbers(images: ImageSet, name: str, known: tuple[str, ...]) -> tuple[int, ...]:
    if not images.class_names:
        raise UsageError(f"{name} has no classes (sub-folders) to tell this model: pass --unconditional")
    unknown = [each for each in images.class_names if each not in known]
    if unknown:
        raise UsageError(
            f"{name} has the class {unknown[0]!r}, which this model does not know; it has {', '.join(known)}: rename "
            "the sub-folder or pass --unconditional"
        )
    return tuple(known.index(each) for each in images.class_names)


def _animals(kind: Kind) -> ImageSet:
    images = load_animals28()
    fits = (kind.height, kind.width) == (28, 28) and kind.channels in (1, None)
    if not fits or (kind.class_names and not {*images.class_names} <= {*kind.class_names}):
        whose = "this model is" if kind.channels is not None else "these samples are"
        raise UsageError(f"{whose} not of the embedded animals: say --data FOLDER, with images of the same kind")
    return images


def _others(kind: Kind, data: Path, on_image: Callable[[int, int], None]) -> ImageSet:
    if kind.height != kind.width:
        raise UsageError(f"--data is read as squares, and {kind.height}×{kind.width} pixels are none")
    source = source_of(data)
    if isinstance(source, Latents):
        raise UsageError(f"{data} holds latents: --data are images, here those that were encoded")
    images = source.load(kind.height, on_image)
    if kind.channels is not None and images.channels != kind.channels:
        kinds = {1: "grey", 3: "RGB"}
        raise UsageError(
            f"{data} has {kinds[images.channels]} images, and this model is of "
            f"{kinds.get(kind.channels, f'{kind.channels}-channel')} ones"
        )
    return images


def _split(images: ImageSet, most: int) -> tuple[ImageSet, ImageSet]:
    """By the rule of training: no held-out image, and no copy of one, was trained on."""
    try:
        return hold_out(images, max(1, min(most, len(images) // 20)))
    except DataError as error:
        raise UsageError(f"{error}; --all evaluates them all") from error


def file_sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
