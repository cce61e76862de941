"""Averages of the weights kept during training, and averages of other widths made of them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._averages import Ema, key_of, power_of_width, whole
from ._files import written_aside
from ._post_hoc import Profile, fit_profile
from ._processes import ElsewhereError, first_only, rank

FORMAT = "apd-train/averages"
_NAME = re.compile(r"step-\d{8,}\.safetensors")


class SnapshotError(ValueError):
    """Snapshots that cannot be written, or made into an average. The message is one line."""


@dataclass(frozen=True, slots=True)
class Synthesis:
    """An average that was made of snapshots.

    Args:
        weights: by the names of the parameters that were averaged.
        description: of these weights, for a model's file.
        error: of the profile, relative; see :func:`fit_profile`.
    """

    weights: dict[str, Tensor]
    description: str
    error: float


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The averages of a run at some of its steps, one file each: ``step-00001000.safetensors``.

    A file holds all widths, in float32. Its metadata say of which format it is, the step, the steps that were averaged,
    the widths, which weights these are, and a digest of it all.

    Args:
        folder: made when it is needed.
    """

    folder: Path

    def save(self, ema: Ema, step: int) -> Path:
        """Writes the averages, whole or not at all. With several processes, every one must call this.

        Args:
            step: of training; more than the steps averaged, where steps were skipped.

        Raises:
            SnapshotError: the file cannot be written; on every process.
            ValueError: nothing has been averaged yet.
        """
        if not ema.steps:
            raise ValueError("there is nothing to keep before the first step: the averages are empty")
        file = self.folder / f"step-{step:08}.safetensors"
        metadata = {
            "format": FORMAT,
            "step": str(step),
            "steps_averaged": str(ema.steps),
            "sigma_rels": json.dumps(ema.sigma_rels),
            "weights": "; ".join(ema.describe(sigma_rel) for sigma_rel in ema.sigma_rels),
        }
        tensors = {}
        for name, tensor in ema.state_dict().items():  # one at a time: only the first process keeps them all
            gathered = whole(tensor)
            if rank() == 0:
                tensors[name] = gathered
        try:
            first_only(lambda: _write(file, tensors, metadata))
        except ElsewhereError as error:
            raise SnapshotError(f"{file} cannot be written: {error}") from error
        return file

    def files(self) -> list[Path]:
        """Those that are there, by step."""
        found = [file for file in self.folder.glob("step-*") if _NAME.fullmatch(file.name)]
        return sorted(found, key=lambda file: int(file.stem.removeprefix("step-")))


def synthesize(folder: str | Path, sigma_rel: float, step: int | None = None) -> Synthesis:
    """The average of a width that need not have been tracked, from all snapshots of a run, in float64.

    The snapshots' weights are added up with the factors of :func:`fit_profile` (Karras et al. 2024, arXiv:2312.02696,
    section 3.2). Files are read one after another; in memory are one tensor of a file and the sum.

    Args:
        folder: of :class:`Snapshots`.
        sigma_rel: width to make, in (0, 0.289).
        step: at which the average ends, by default the last snapshot's; there need not be a snapshot of it.

    Raises:
        SnapshotError: there are no snapshots, or one is damaged or of another model; its file is named.
        ValueError: the width or the step cannot be.
    """
    power_of_width(sigma_rel)
    kept = [_read(file) for file in Snapshots(Path(folder)).files()]
    if not kept:
        raise SnapshotError(f"{folder} holds no snapshots of averages: train with --snapshot-every")
    last = kept[-1].step
    step = last if step is None else step
    if not 1 <= step <= last:
        raise ValueError(f"step must be from 1 to {last}, that of the last snapshot, got {step}")
    end = np.interp(step, [0, *(one.step for one in kept)], [0, *(one.steps_averaged for one in kept)])
    parts = [(one, width) for one in kept for width in one.sigma_rels]
    profiles = [Profile(width, float(one.steps_averaged)) for one, width in parts]
    factors, error = fit_profile(profiles, Profile(sigma_rel, float(end)))
    total: dict[str, Tensor] = {}
    used = 0
    for one in kept:
        of_widths = {key_of(width): factor for (of, width), factor in zip(parts, factors, strict=True) if of is one}
        if any(of_widths.values()):
            _add(total, one, of_widths)
            used += 1
    made = f", made of {used} snapshots, profile error {100 * error:.3g} %" if error else ""
    weights = {name: tensor.float() for name, tensor in total.items()}
    return Synthesis(weights, f"ema(sigma_rel={key_of(sigma_rel)}) at step {step}{made}", error)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A file, and what its metadata say."""

    file: Path
    metadata: Mapping[str, str]
    step: int
    steps_averaged: int
    sigma_rels: tuple[float, ...]


class _Digest:
    """Of metadata and tensors in the order of their names: against damage, not against a forger."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        facts = {name: value for name, value in metadata.items() if name != "digest"}
        self._hash = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)

    def add(self, name: str, tensor: Tensor) -> None:
        self._hash.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        self._hash.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def text(self) -> str:
        return self._hash.hexdigest()


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    digest = _Digest(metadata)
    for name in sorted(tensors):
        digest.add(name, tensors[name])
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(file) as aside:
        save_file(dict(tensors), aside, metadata={**metadata, "digest": digest.text()})


def _read(file: Path) -> _Snapshot:
    try:
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise SnapshotError(f"{file} is no snapshot of averages: remove it from the folder")
        widths = tuple(map(float, json.loads(metadata["sigma_rels"])))
        return _Snapshot(file, metadata, int(metadata["step"]), int(metadata["steps_averaged"]), widths)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise error if isinstance(error, SnapshotError) else _damaged(file, error) from error


def _add(total: dict[str, Tensor], one: _Snapshot, factors: Mapping[str, float]) -> None:
    """Adds a file's tensors to the sum, and checks the file as a whole."""
    digest, begins, present = _Digest(one.metadata), not total, set()
    another = SnapshotError(f"{one.file} is of another model than the snapshots before it: remove what does not belong")
    try:
        with safe_open(one.file, framework="pt") as tensors:
            for full_name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(full_name)
                digest.add(full_name, tensor)
                key, _, name = full_name.partition("/")
                present.add(name)
                if begins and name not in total:
                    total[name] = torch.zeros(tensor.shape, dtype=torch.float64)
                if name not in total or total[name].shape != tensor.shape:
                    raise another
                total[name].add_(tensor, alpha=factors[key])
    except (OSError, SafetensorError, KeyError) as error:
        raise _damaged(one.file, error) from error
    if digest.text() != one.metadata.get("digest"):
        raise _damaged(one.file, "its digest is another one")
    if present != {*total}:
        raise another


def _damaged(file: Path, reason: object) -> SnapshotError:
    text = " ".join(str(reason).split())
    return SnapshotError(f"{file} is damaged ({text:.100}): remove it, and the others make up for it")
