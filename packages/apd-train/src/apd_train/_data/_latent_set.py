"""What ``apps/encode`` says of a folder of latents that it made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._image_set import DataError, LatentScale

FORMAT, VERSION = "apd-train/latents", 1
ASKED = "encoding.json"
"""What the set is to be; written first."""
RECORD = "latents.json"
"""What it has become; written last."""
CODEC = "codec"
"""Folder of the autoencoder."""
CROP = "centre"
"""Which square of an oblong image is encoded."""


def shard_name(number: int) -> str:
    return f"latents-{number:05d}.safetensors"


@dataclass(frozen=True, slots=True)
class Shard:
    """Args:
    name: of the file.
    images: that it has latents of.
    size: in bytes.
    digest: of its tensors.
    """

    name: str
    images: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class LatentsRecord:
    """Args:
    scale: of the latents, with the digest of their autoencoder.
    size: side of the latents, in cells.
    image_size: side of the squares that were encoded, in pixels.
    skipped: names of images that could not be read, each with the reason.
    """

    scale: LatentScale
    class_names: tuple[str, ...]
    size: int
    image_size: int
    skipped: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def images(self) -> int:
        """That the set has latents of."""
        return sum(shard.images for shard in self.shards)

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "codec": self.scale.codec,
            "mean": [*self.scale.mean],
            "std": [*self.scale.std],
            "class_names": [*self.class_names],
            "size": self.size,
            "image_size": self.image_size,
            "crop": CROP,
            "images": self.images,
            "skipped": [*self.skipped],
            "shards": [
                {"name": shard.name, "images": shard.images, "bytes": shard.size, "digest": shard.digest}
                for shard in self.shards
            ],
        }


def is_encoded(folder: Path) -> bool:
    """Whether ``apps/encode`` made, or began, what is there."""
    return any((folder / name).is_file() for name in (ASKED, RECORD))


def read_latents_record(folder: Path) -> LatentsRecord:
    """Raises :class:`DataError`: the set is not complete, or does not say what it is."""
    if not (folder / RECORD).is_file():
        raise DataError(
            f"{folder} is a set of latents that is still being made: wait for apps/encode to end, or go on with it by "
            "the same command and --resume"
        )
    said = read_json(folder / RECORD)
    try:
        mean, std = (tuple(map(float, said[name])) for name in ("mean", "std"))
        shards = [Shard(str(s["name"]), int(s["images"]), int(s["bytes"]), str(s["digest"])) for s in said["shards"]]
        names, skipped = (tuple(map(str, said[name])) for name in ("class_names", "skipped"))
        size, image_size = (int(said[name]) for name in ("size", "image_size"))
        return LatentsRecord(
            LatentScale(mean, std, str(said["codec"])), names, size, image_size, skipped, tuple(shards)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / RECORD} does not say what apps/encode writes there: {error!r:.200}") from error


def read_json(file: Path) -> Mapping[str, Any]:
    """Of a file of this format."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split()):.200}") from error
    if not isinstance(said, Mapping) or (said.get("format"), said.get("version")) != (FORMAT, VERSION):
        raise DataError(f"{file} is not of a set of latents, {FORMAT} of version {VERSION}")
    return said
