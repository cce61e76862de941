"""References: files of real images, of their features or of statistics of these."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._frechet import Moments
from ._npz import Member, ReferenceFileError, archive_of, member

FORMAT = "apd-metrics/reference"
COMPARED = ("extractor", "sha256", "resize")
"""What has to be the same of two sets of features that are compared."""

MOST_DIMENSIONS = 2**14
"""Of features: covariances that a file promises are of sensible size before they are read."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What real images are to a metric.

    Args:
        file: that it was read from.
        sha256: of the whole file: the reference's identity.
        samples: features of its images, or their moments alone; ``None`` if the file holds images only.
        images: how many images it holds, for :func:`reference_images`.
        taken_with: what the samples were taken with (``Extractor.record()``); empty where the file does not say.
    """

    file: Path
    sha256: str
    samples: Float[Tensor, "n d"] | Moments | None
    images: int
    taken_with: Mapping[str, Any]

    def require(self, record: Mapping[str, Any]) -> None:
        """Refuses samples that cannot be compared with those of an extractor.

        Args:
            record: of what takes the features of generated images (``Extractor.record()``).

        Raises:
            ReferenceFileError: name, weights or resize are others, or the number of dimensions is.
        """
        for key in COMPARED:
            if key in self.taken_with and self.taken_with[key] != record[key]:
                raise ReferenceFileError(
                    f"{self.file} was taken with {key} {self.taken_with[key]!r} and cannot be compared with {key} "
                    f"{record[key]!r}: take both with one extractor"
                )
        if self.samples is None:
            return
        own = len(self.samples.mean) if isinstance(self.samples, Moments) else self.samples.shape[1]
        if own != record["dims"]:
            raise ReferenceFileError(
                f"{self.file} is of features of {own} dimensions; those of {record['extractor']} have {record['dims']}"
            )


def read_reference(file: str | Path) -> Reference:
    """Reads an ``.npz`` in the style of ADM (``mu`` and ``sigma``, ``arr_0`` of images), or a file of ours.

    Images stay in the file; see :func:`reference_images`. Nothing in the file is ever executed.

    Args:
        file: ends in ``.npz``, or in ``.safetensors`` as :func:`save_reference` writes it.

    Raises:
        ReferenceFileError: it is missing, damaged, of another kind, or holds what is not a reference.
    """
    file = Path(file)
    if file.suffix not in (".npz", ".safetensors"):
        raise ReferenceFileError(f"{file} is not a reference: .npz and .safetensors files are read")
    try:
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ReferenceFileError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix == ".safetensors":
        samples, taken_with = _read_ours(file)
        return Reference(file, sha256, samples, 0, taken_with)
    with archive_of(file) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        images = 0
        if "arr_0" in names:
            with member(archive, "arr_0") as array:
                images = _check_images(array)[0]
        statistics = _read_statistics(archive) if {"mu", "sigma"} <= names else None
        if images == 0 and statistics is None:
            raise ReferenceFileError(f"it holds {', '.join(sorted(names)) or 'nothing'}, not arr_0 nor mu and sigma")
    return Reference(file, sha256, statistics, images, {})


def reference_images(file: str | Path, batch: int = 64) -> Iterator[Float[Tensor, "b c h w"]]:
    """The images ``arr_0`` of an ``.npz``, in [-1, 1] and in order, a batch in memory at a time.

    Raises:
        ReferenceFileError: as :func:`read_reference`, or the file ends early.
        ValueError: batches of no image.
    """
    if batch < 1:
        raise ValueError(f"a batch has one image or more, got {batch}")
    with archive_of(Path(file)) as archive, member(archive, "arr_0") as array:
        _check_images(array)
        for part in array.rows(batch):
            yield torch.from_numpy(part.astype(np.float32)).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def save_reference(
    file: str | Path, samples: Float[Tensor, "n d"] | Moments, taken_with: Mapping[str, Any] | None = None
) -> None:
    """Writes features, or moments, to a ``.safetensors`` file, whole or not at all; one that is there is replaced.

    Args:
        taken_with: as ``Extractor.record()`` has it, JSON-able.

    Raises:
        ValueError: the name of the file does not end in ``.safetensors``.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"references are written to .safetensors files, got {file.name}")
    record: dict[str, Any] = {"format": FORMAT, "taken_with": json.dumps(dict(taken_with or {}), sort_keys=True)}
    if isinstance(samples, Moments):
        tensors = {"mean": samples.mean, "covariance": samples.covariance}
        record |= {} if samples.n is None else {"n": str(samples.n)}
    else:
        tensors = {"features": samples}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    handle, aside = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    os.close(handle)
    try:
        save_file(tensors, aside, metadata=record)
        os.chmod(aside, 0o644)
        os.replace(aside, file)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _check_images(array: Member) -> tuple[int, ...]:
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or min(shape) < 1:
        raise ReferenceFileError(
            f"arr_0 must be images, uint8 of shape (n, height, width, 1 or 3), got {array.dtype} {shape}"
        )
    return shape


def _read_statistics(archive: zipfile.ZipFile) -> Moments:
    arrays = []
    for name, ndim in (("mu", 1), ("sigma", 2)):
        with member(archive, name) as array:
            sides = set(array.shape)
            if (
                array.dtype.kind != "f"
                or len(array.shape) != ndim
                or len(sides) != 1
                or not 0 < max(sides) <= MOST_DIMENSIONS
            ):
                raise ReferenceFileError(
                    f"{name} must be floats of shape {'(d,)' if ndim == 1 else '(d, d)'}, d of 1 to {MOST_DIMENSIONS}, "
                    f"got {array.dtype} {array.shape}"
                )
            arrays.append(torch.from_numpy(np.concatenate([*array.rows(array.shape[0])]).astype(np.float64)))
    mean, covariance = arrays
    return _checked_moments(mean, covariance, None)


def _checked_moments(mean: Tensor, covariance: Tensor, n: int | None) -> Moments:
    if not (mean.ndim == 1 and covariance.shape == (len(mean), len(mean))):
        raise ReferenceFileError(
            f"statistics are a mean (d,) and a covariance (d, d), got {tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
    mean, covariance = mean.double(), covariance.double()
    if not (bool(mean.isfinite().all()) and bool(covariance.isfinite().all())):
        raise ReferenceFileError("statistics must be finite numbers")
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * float(covariance.abs().max())):
        raise ReferenceFileError("a covariance is symmetric, and this one is not")
    return Moments(mean, (covariance + covariance.T) / 2, n)


def _read_ours(file: Path) -> tuple[Float[Tensor, "n d"] | Moments, Mapping[str, Any]]:
    try:
        with safe_open(file, framework="pt") as tensors:
            record = tensors.metadata() or {}
            if record.get("format") != FORMAT:
                raise ReferenceFileError(f"its format is {record.get('format')!r}, not {FORMAT!r}")
            taken_with = json.loads(record["taken_with"])
            if not isinstance(taken_with, dict):
                raise ReferenceFileError("what it was taken with is not a JSON object")
            names = set(tensors.keys())
            if names == {"features"}:
                features = tensors.get_tensor("features")
                if features.ndim != 2 or not features.is_floating_point() or not bool(features.isfinite().all()):
                    raise ReferenceFileError(f"features must be finite floats (n, d), got {tuple(features.shape)}")
                return features, taken_with
            if names == {"mean", "covariance"}:
                n = int(record["n"]) if "n" in record else None
                return _checked_moments(tensors.get_tensor("mean"), tensors.get_tensor("covariance"), n), taken_with
            raise ReferenceFileError(f"it holds {', '.join(sorted(names))}, not features nor mean and covariance")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ReferenceFileError(
            f"{file} cannot be read as a reference: {' '.join(str(error).split()):.200}"
        ) from error
