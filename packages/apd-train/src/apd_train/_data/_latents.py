"""Images that an autoencoder has encoded: shards of ``.safetensors``."""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ._arrays import labelled, names_of, read_safetensors
from ._image_set import DataError, ImageSet, LatentScale
from ._latent_set import CODEC, RECORD, is_encoded, read_latents_record
from ._lazy import Encoding, Lazy, UnreadableError
from ._reading import check_size, faults_of

LOG_VAR = (-30.0, 20.0)
"""Where log-variances of autoencoders are cut off (Rombach et al. 2022, in their code)."""


@dataclass(frozen=True, slots=True, eq=False)
class _LatentStore:
    """Args:
    shards: names of the files.
    starts: number of the first entry of each, and of all entries.
    plain, mirrored: encodings in each file, mapped; ``mirrored`` is empty where there are none.
    """

    shards: tuple[str, ...]
    starts: tuple[int, ...]
    plain: tuple[Float[Tensor, "_n _k h w"], ...]
    mirrored: tuple[Float[Tensor, "_n _k h w"], ...]
    scale: LatentScale

    @property
    def channels(self) -> int:
        return self.scale.channels

    def __len__(self) -> int:
        return self.starts[-1]

    def name(self, row: int) -> str:
        shard = bisect_right(self.starts, row) - 1
        return f"{self.shards[shard]}/{row - self.starts[shard]}"

    def read(self, row: int) -> Encoding:
        shard = bisect_right(self.starts, row) - 1
        row -= self.starts[shard]
        mirrored = self._scaled(self.mirrored[shard][row]) if self.mirrored else None
        return Encoding(*self._scaled(self.plain[shard][row]), mirrored)

    def _scaled(self, stored: Float[Tensor, "_k h w"]) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"] | None]:
        mean, *log_var = stored.float().split(self.channels)
        mean, std = self.scale.standardise(mean), mean.new_tensor(self.scale.std)[:, None, None]
        spread = (0.5 * log_var[0].clamp(*LOG_VAR)).exp() / std if log_var else None
        if not (mean.isfinite().all() and (spread is None or spread.isfinite().all())):
            raise UnreadableError("the encoding is not finite")
        return mean, spread


def load_latents(path: str | Path, size: int) -> ImageSet:
    """Latents of images: a set that ``apps/encode`` made, mapped and read when needed.

    Or one made otherwise, a folder of ``.safetensors`` shards, or one of them. Each has ``latents`` (n, c, h, w), or
    ``moments`` (n, 2c, h, w), the mean and log-variance of the autoencoder's normal distribution, from which each
    training sample draws anew, in float16 or float32; optional ``mirrored``, the same of the images mirrored left and
    right, without which there is no flip; and optional ``labels``. The metadata of every shard has ``mean`` and
    ``std``, a JSON list with a number for each channel: what is trained on is ``(z - mean) / std``. Optional ``names``,
    a JSON list, are those of the classes, and optional ``codec`` is the digest of the autoencoder.

    Args:
        size: of the latents' side, not of the images that were encoded.

    Raises:
        DataError: a set is not complete, or a shard is missing something, is damaged, or does not agree with the
            others.
    """
    check_size(size)
    root = Path(path)
    with faults_of(root):
        if not root.exists():
            raise DataError(f"latents {root} do not exist")
        if root.is_dir() and is_encoded(root):
            return _encoded(root, size)
        files = [root] if root.is_file() else sorted(p for p in root.iterdir() if p.suffix.lower() == ".safetensors")
        shards = [read_safetensors(file) for file in files]
    if not shards:
        raise DataError(f"no .safetensors shards in {root}")
    scale, classes = _scale(shards[0][1], files[0]), names_of(shards[0][1].get("names"), files[0])
    for file, (_, metadata) in zip(files, shards, strict=True):
        if _scale(metadata, file) != scale or names_of(metadata.get("names"), file) != classes:
            raise DataError(
                f"{file} and {files[0].name} do not agree on mean, std or names, or are of two autoencoders: "
                "encode the images anew"
            )
    return _assembled(root, files, [tensors for tensors, _ in shards], scale, classes, size)


def _encoded(root: Path, size: int) -> ImageSet:
    """The set that the folder's own record describes."""
    record = read_latents_record(root)
    if record.size != size:
        raise DataError(
            f"latents in {root} are {record.size} a side, of images of {record.image_size} pixels: take size "
            f"{record.size}, not {size}"
        )
    files, parts = [root / shard.name for shard in record.shards], []
    for file, shard in zip(files, record.shards, strict=True):
        again = "copy the set again, or remove the file and have it made anew by apps/encode --resume"
        if not file.is_file():
            raise DataError(f"{file} is missing: {again}")
        if (found := file.stat().st_size) != shard.size:
            raise DataError(f"{file} has {found} of {shard.size} bytes: {again}")
        tensors, metadata = read_safetensors(file)
        if metadata.get("digest") != shard.digest:
            raise DataError(f"{file} is not the file that {root / RECORD} describes: {again}")
        if metadata.get("codec") != record.scale.codec or "keys" not in tensors:
            raise DataError(f"{file} is of another autoencoder than {root / RECORD} says: {again}")
        parts.append(tensors)
    images = _assembled(root, files, parts, record.scale, record.class_names, size)
    assert isinstance(images.images, Lazy)
    keys = torch.cat([tensors["keys"] for tensors in parts]).numpy()
    codec = root / CODEC
    return replace(
        images,
        images=replace(images.images, keys=keys),
        skipped=record.skipped,
        codec=codec if codec.is_dir() else None,
    )


def _assembled(
    root: Path,
    files: Sequence[Path],
    parts: Sequence[Mapping[str, Tensor]],
    scale: LatentScale,
    classes: tuple[str, ...],
    size: int,
) -> ImageSet:
    """Of the tensors of each file, which are checked."""
    kind = "moments" if "moments" in parts[0] else "latents"
    first, expected = parts[0], (len(scale.mean) * (2 if kind == "moments" else 1), size, size)
    for file, tensors in zip(files, parts, strict=True):
        if kind not in tensors:
            raise DataError(f"{file} has no tensor latents or moments, or not the one that {files[0].name} has")
        for optional in ("mirrored", "labels"):
            if (optional in tensors) != (optional in first):
                raise DataError(f"{file} and {files[0].name} do not agree on whether there are {optional}")
        count = len(tensors[kind])
        for name in {kind, "mirrored"} & set(tensors):
            found = tensors[name]
            if found.dtype not in (torch.float16, torch.float32) or found.shape != (count, *expected):
                raise DataError(
                    f"{name} in {file} are {found.dtype} of shape {tuple(found.shape)}: expected float16 or float32, "
                    f"({count}, {', '.join(map(str, expected))}), for latents of {size} a side and a mean of "
                    f"{len(scale.mean)} channels"
                )
    starts = (0, *np.cumsum([len(tensors[kind]) for tensors in parts]).tolist())
    if not starts[-1]:
        raise DataError(f"no latents in {root}: the shards are empty")
    said = torch.cat([tensors["labels"].long() for tensors in parts]) if "labels" in first else None
    labels, classes = labelled(said, classes, starts[-1], str(root))
    mirrored = tuple(tensors["mirrored"] for tensors in parts) if "mirrored" in first else ()
    plain = tuple(tensors[kind] for tensors in parts)
    store = _LatentStore(tuple(file.name for file in files), starts, plain, mirrored, scale)
    return ImageSet(Lazy(store, np.arange(starts[-1])), labels, classes, size, latents=scale, can_flip=bool(mirrored))


def _scale(metadata: dict[str, str], file: Path) -> LatentScale:
    mean, std = (_numbers(metadata.get(name)) for name in ("mean", "std"))
    if not mean or not std or len(mean) != len(std) or min(std) <= 0:
        raise DataError(
            f"{file} must say mean and std in its metadata: JSON lists with a number for each channel of the latents"
        )
    return LatentScale(mean, std, metadata.get("codec"))


def _numbers(said: str | None) -> tuple[float, ...]:
    """Finite numbers from a JSON list; none where it is not one."""
    try:
        values = json.loads(said or "null")
    except ValueError:
        return ()
    good = isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    return tuple(map(float, values)) if good else ()


def at_scale(images: ImageSet, scale: LatentScale) -> ImageSet:
    """Latents standardised otherwise than their set says, as for a model that was trained on others of the same
    autoencoder. Images that are no latents from files are as they were."""
    if not isinstance(images.images, Lazy) or not isinstance(images.images.store, _LatentStore):
        return images
    store = replace(images.images.store, scale=scale)
    return replace(images, images=replace(images.images, store=store), latents=scale)
