"""What a set of latents is to be."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from apd_models import Codec, CodecError

from .._data import DataError, DataSource, ImageSet
from .._data._arrays import ArrayStore
from .._data._latent_set import CROP, FORMAT, VERSION
from .._data._lazy import Lazy
from .._data._reading import fits

DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True, eq=False)
class ToEncode:
    """The latents of a set of images: two that have the same :meth:`record` are the same set.

    Args:
        images: of pixels; of an oblong one the central square is encoded.
        mirror: encode the mirror image of each too.
        dtype: of the latents, ``"float16"`` or ``"float32"``.
        shard: images in a file. Images that cannot be read are left out, so it may be of fewer.

    Raises:
        CodecError: the autoencoder does not take such images.
        DataError: they are latents already, or an option is out of range.
    """

    images: ImageSet
    codec: Codec
    mirror: bool = True
    dtype: str = "float16"
    shard: int = 2048

    def __post_init__(self) -> None:
        if self.images.latents is not None:
            raise DataError("the data are latents already: give images to encode")
        if self.shard < 1:
            raise DataError(f"a shard has 1 image at least, got {self.shard}")
        if self.dtype not in DTYPES:
            raise DataError(f"latents are kept as {' or '.join(DTYPES)}, not {self.dtype}")
        if self.images.size % self.codec.factor:
            raise CodecError(
                f"the autoencoder takes images whose sides are multiples of {self.codec.factor}, got {self.images.size}"
            )

    @property
    def shards(self) -> int:
        return -(-len(self.images) // self.shard)

    def numbers(self, shard: int) -> range:
        """Of the images of a shard, counted over all data."""
        return range(shard * self.shard, min((shard + 1) * self.shard, len(self.images)))

    @property
    def by_content(self) -> bool:
        """Whether the images themselves would be held out by their content, rather than by their names."""
        images = self.images.images
        if isinstance(images, Lazy):
            return not isinstance(images.store, ArrayStore) and fits(len(images), self.images.size)
        return True

    def record(self) -> dict[str, Any]:
        """In terms of JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "codec": self.codec.digest,
            "codec_config": {**self.codec.config},
            "images": len(self.images),
            "images_sha256": _fingerprint(self.images),
            "class_names": [*self.images.class_names],
            "size": self.images.size,
            "crop": CROP,
            "mirror": self.mirror,
            "dtype": self.dtype,
            "shard": self.shard,
            "held_out_by": "content" if self.by_content else "name",
        }


def load_to_encode(source: DataSource, size: int) -> ImageSet:
    """The images of a source, each read when it is needed."""
    return (replace(source, in_memory=False) if hasattr(source, "in_memory") else source).load(size)  # pyrefly: ignore


def digest_of(record: Mapping[str, Any]) -> str:
    """Of what :meth:`ToEncode.record` says, in hexadecimal."""
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What of two records differs, in words; nothing where they are the same."""
    return ", ".join(
        f"{name} is {there.get(name)!s:.60} there and {here[name]!s:.60} here"
        for name in here
        if there.get(name) != here[name]
    )


def _fingerprint(images: ImageSet) -> str:
    """SHA-256 of the labels and, of images that are read when needed, of their names, else of their pixels."""
    total = hashlib.sha256(images.labels.numpy().tobytes())
    for i in range(len(images)):
        if isinstance(images.images, Lazy):
            total.update(images.images.name(i).encode() + b"\0")
        else:
            total.update(f"{tuple(images.images[i].shape)}".encode() + images.images[i].contiguous().numpy().tobytes())
    return total.hexdigest()
