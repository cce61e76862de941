"""Small image files to read back, in the layouts that data comes in."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

SIZE = 8


def pixels(seed: int, *shape: int) -> np.ndarray:
    """Random ones, ``SIZE`` pixels a side and RGB unless said otherwise."""
    return np.random.default_rng(seed).integers(0, 256, shape or (SIZE, SIZE, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    """As a file's content, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def chw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)


def write_folder(root: Path, names: Sequence[str]) -> list[Tensor]:
    """Images whose pixels are a function of their place in the list."""
    for k, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(pixels(k)))
    return [chw(pixels(k)) for k in range(len(names))]


def write_zip(file: Path, entries: Mapping[str, bytes], labels: Any = None, method: int = zipfile.ZIP_STORED) -> Path:
    """``labels``: the content of ``dataset.json``, where there is to be one."""
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.extra = method, b"\x99\x99\4\0more"  # as many programs add something of theirs
            opened.writestr(info, content)
        if labels is not None:
            opened.writestr("dataset.json", json.dumps(labels))
    return file


def write_lsun(folder: Path, count: int, first: int = 0) -> dict[str, Tensor]:
    """As LSUN's exporter does: the SHA-1 of an image's name as hexadecimal key, a WebP image as value."""
    environment = lmdb.open(str(folder), map_size=1 << 24)
    images = {}
    with environment.begin(write=True) as transaction:
        for k in range(first, first + count):
            key = hashlib.sha1(f"bedroom{k}".encode()).hexdigest()
            transaction.put(key.encode(), encoded(pixels(k), "WEBP"))
            images[key] = chw(pixels(k))
    environment.close()
    return dict(sorted(images.items()))


def write_shard(file: Path, tensors: Mapping[str, Tensor], **metadata: Any) -> Path:
    """Metadata as JSON."""
    said = {name: json.dumps(value) for name, value in metadata.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, said)
    return file


def as_pixels(square: Tensor) -> Tensor:
    """Values in [-1, 1] as they were in the file."""
    return ((square + 1) * 127.5).round().to(torch.uint8)
