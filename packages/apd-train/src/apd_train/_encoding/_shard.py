"""A file of a set of latents."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._data import DataError
from .._data._latent_set import Shard
from ._moments import Spread, merged, spread_of
from ._squares import Entries
from ._to_encode import ToEncode


@dataclass(frozen=True, slots=True)
class Header:
    """What a complete shard says of itself.

    Args:
        skipped: name of each image that could not be read, with the reason.
    """

    shard: Shard
    spread: Spread
    skipped: tuple[str, ...]


def write_shard(
    file: Path,
    wanted: ToEncode,
    encoding: str,
    entries: Sequence[Entries],
    latents: Sequence[Mapping[str, Tensor]],
) -> None:
    """``moments`` or ``latents``, ``mirrored`` where there is to be, ``index``, the number of each image, ``keys``,
    what it is held out by, and ``labels`` where there are classes.

    Args:
        encoding: digest of what the set is to be.
        entries, latents: of the batches that the shard is made of.
    """
    numbers = [number for batch in entries for number in batch.numbers]
    keys = b"".join(key for batch in entries for key in batch.keys)
    tensors = {name: torch.cat([batch[name] for batch in latents]) for name in latents[0]}
    spread = merged(spread_of(stored, wanted.codec.channels) for batch in latents for stored in batch.values())
    tensors["index"] = torch.tensor(numbers, dtype=torch.int64)
    tensors["keys"] = torch.from_numpy(np.frombuffer(keys, np.uint8).reshape(-1, 32).copy())
    if wanted.images.class_names:
        tensors["labels"] = wanted.images.labels[tensors["index"]]
    said = {
        "codec": wanted.codec.digest,
        "encoding": encoding,
        "digest": tensors_digest(tensors),
        "spread": spread.as_json(),
        "skipped": json.dumps([skipped for batch in entries for skipped in batch.skipped]),
    }
    try:
        save_file(tensors, file, said)
    except SafetensorError as error:  # of the operating system, in its words
        raise OSError(str(error)) from error
    file.chmod(0o644)  # as other files; the library keeps it from other users


def read_header(file: Path, numbers: range, encoding: str) -> Header:
    """Of the shard that has these images; the latents are not looked at.

    Raises:
        DataError: the file is damaged, or of another encoding, or an image is missing or there twice.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            said, index = opened.metadata() or {}, opened.get_tensor("index").tolist()
        skipped = [(int(number), str(reason)) for number, reason in json.loads(said["skipped"])]
        spread, digest = Spread.from_json(said["spread"]), said["digest"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is damaged: {' '.join(str(error).split()):.200}") from error
    if said.get("encoding") != encoding:
        raise DataError(f"{file} is of another encoding")
    if index != sorted(index) or sorted([*index, *(number for number, _ in skipped)]) != [*numbers]:
        raise DataError(f"{file} does not have each of the images {numbers[0]} to {numbers[-1]} once")
    shard = Shard(file.name, len(index), file.stat().st_size, digest)
    return Header(shard, spread, tuple(reason for _, reason in skipped))


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b of names and contents, in hexadecimal: against damage, not against a forger."""
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
