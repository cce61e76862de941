"""Checkpoints of a run: complete and verified, or passed over."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ._files import ASIDE, digest, flush, remove_folder, rename_folder, write_text_atomically
from ._manifest import MANIFEST, DamagedError, Manifest, check_digest, check_sizes, read_manifest, write_manifest
from ._processes import ElsewhereError, everywhere, first_only, rank, world_size
from ._shards import misfit, read_tensors, write_tensors

LATEST = "LATEST"
_REPLACED = ".replaced"
_NAME = re.compile(rf"step-(\d+)({re.escape(_REPLACED)})?")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read, or is not of this run. The message is one line."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint.

    Args:
        path: its folder.
        step: steps done.
        facts: the plain numbers and texts that were saved with the tensors.
    """

    path: Path
    step: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of a run: folders such as ``step-00001000``, and ``LATEST``, a file with the name of the newest.

    A checkpoint is files of safetensors and ``manifest.json``, which holds the plain numbers and the size and digest of
    every file. It is written beside its place, flushed to the disk, read again, and renamed: at any moment, whatever
    ends the process, a folder of this name is a complete checkpoint. One that is damaged later is noticed by its
    digests. Nothing is pickled and nothing unpickled.

    All processes of a run call the methods together and see one folder. Each writes what it holds; any number of
    processes can read it again, sharded or not.

    Args:
        folder: made when the first checkpoint is written.
        keep_last: so many of the newest are kept, at least 1; the disk must have room for one more,
        keep_every: and those at multiples of so many steps.

    Raises:
        ValueError: ``keep_last`` or ``keep_every`` below 1.
    """

    folder: Path
    keep_last: int = 2
    keep_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Checkpoint:
        """Writes a checkpoint; only when it is complete are old ones removed. One of the same step is replaced.

        Args:
            step: steps done.
            tensors: the same names on all processes; DTensors where they are sharded.
            facts: what JSON can hold; those of the first process are written.

        Raises:
            CheckpointError: on all processes alike. What was begun is removed, and older checkpoints are as they were.
        """
        name = f"step-{step:08d}"
        path, aside = self.folder / name, self.folder / f"{name}{ASIDE}"
        try:
            first_only(lambda: self._clear_for(aside))
            everywhere(lambda: write_tensors(aside, tensors))
            first_only(lambda: _check_complete(aside, tensors))
            files = first_only(lambda: sorted(file.name for file in aside.iterdir()))
            parts = everywhere(lambda: {file: _seal(aside / file) for file in _share(files)})
            seals = {file: seal for part in parts for file, seal in part.items()}
            sizes = {file: seals[file][0] for file in files}
            manifest = Manifest(step, facts, sizes, {file: seals[file][1] for file in files})
            return _checkpoint(path, first_only(lambda: self._finish(aside, path, manifest)))
        except ElsewhereError as error:
            if rank() == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(f"the checkpoint of step {step} cannot be written to {path}: {error}") from error

    def newest(self, on_skip: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
        """The newest complete checkpoint, every byte of it verified; None where there is none.

        Args:
            on_skip: called on the first process with a line on each checkpoint that is passed over, which says what is
                wrong with which file, and on a ``LATEST`` that is missing or wrong, which is not needed.

        Raises:
            CheckpointError: the folder cannot be read.
        """
        tell = on_skip if rank() == 0 else lambda message: None
        try:
            names = first_only(lambda: [path.name for path in self._present()])
            latest = first_only(self._latest)
        except ElsewhereError as error:
            raise CheckpointError(f"the checkpoints in {self.folder} cannot be read: {error}") from error
        if names and latest not in names:
            problem = "is missing" if latest is None else f"names {latest!r}, which is not there"
            tell(f"{self.folder / LATEST} {problem}: looking at all checkpoints")
        for path in (self.folder / name for name in names):
            try:
                manifest = first_only(lambda path=path: _examined(path))
                everywhere(lambda path=path, of=manifest: [check_digest(path, of, name) for name in _share(of.sizes)])
            except ElsewhereError as error:
                tell(f"{path} is passed over: {error}")
            else:
                return _checkpoint(path, manifest)
        return None

    def load(self, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
        """Fills the tensors in place, from a checkpoint that any number of processes wrote, sharded or not.

        Args:
            tensors: exactly those that were saved, by name; DTensors where they are sharded.

        Raises:
            CheckpointError: on all processes alike; names the first tensor that differs. Nothing was changed then.
        """
        try:
            difference = next(filter(None, everywhere(lambda: misfit(checkpoint.path, tensors))), None)
            if difference is None:
                everywhere(lambda: read_tensors(checkpoint.path, tensors))
        except ElsewhereError as error:
            raise CheckpointError(f"{checkpoint.path} cannot be read: {error}") from error
        if difference is not None:
            raise CheckpointError(
                f"{checkpoint.path} is of another model: {difference}: resume with the configuration of its run"
            )

    def _clear_for(self, aside: Path) -> None:
        """Makes an empty folder, and removes what earlier runs left behind half done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"step-*{ASIDE}"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir()
        flush(self.folder.parent)

    def _finish(self, aside: Path, path: Path, manifest: Manifest) -> Manifest:
        """Gives the folder its name, looks whether it is there, and only then removes others."""
        write_manifest(aside, manifest)
        replaced = path.with_name(f"{path.name}{_REPLACED}")
        if path.exists():
            if replaced.exists():
                remove_folder(replaced)
            rename_folder(path, replaced.name)
        rename_folder(aside, path.name)
        found = _examined(path)
        if found.digests != manifest.digests:
            raise DamagedError(f"{MANIFEST} is not what was written")
        write_text_atomically(self.folder / LATEST, f"{path.name}\n")
        self._rotate(manifest.step)
        return found

    def _rotate(self, newest: int) -> None:
        """Removes what need not be kept. What is ahead of the newest is damaged, and stays to be looked at."""
        past: dict[int, Path] = {}
        for path in self._present():
            step = _step_of(path)
            if step in past:  # the one that was replaced
                remove_folder(path)
            elif step <= newest:
                past[step] = path
        for step, path in [*past.items()][self.keep_last :]:
            if self.keep_every is None or step % self.keep_every:
                remove_folder(path)

    def _present(self) -> list[Path]:
        """Folders that claim to be checkpoints, the newest first; one that was being replaced after its successor."""
        if not self.folder.exists():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: (_step_of(path), path.suffix != _REPLACED), reverse=True)

    def _latest(self) -> str | None:
        """What ``LATEST`` says; for people and other programs, since the folders say it too."""
        try:
            return (self.folder / LATEST).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match
    return int(match[1])


def _checkpoint(path: Path, manifest: Manifest) -> Checkpoint:
    return Checkpoint(path, manifest.step, manifest.facts)


def _check_complete(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Looks into the files themselves: what is said to be written may not be there."""
    difference = misfit(folder, tensors)
    if difference is not None:
        raise DamagedError(f"what was written is not there: {difference}")


def _examined(path: Path) -> Manifest:
    manifest = read_manifest(path)
    check_sizes(path, manifest)
    return manifest


def _seal(file: Path) -> tuple[int, str]:
    """Size and digest of a file."""
    return file.stat().st_size, digest(file)


def _share(names: Mapping[str, Any] | list[str]) -> list[str]:
    """Of files, those that this process reads."""
    return [*names][rank() :: world_size()]
