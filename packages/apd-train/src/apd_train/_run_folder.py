"""The folder that a run leaves behind."""

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ._files import write_text_atomically
from ._run_config import RunConfig

FORMAT = "apd-train/run"
_FOLDERS = ("model", "checkpoints", "averages", "grids", "tensorboard", "wandb")
_PICTURES = ("loss.png", "samples.png", "inpainting.png", "levels.png", "reconstructions.png")
# What says that a folder is a run's is removed last.
_OURS = (*_FOLDERS, "metrics.jsonl", *_PICTURES, "config.json")
_PACKAGES = (
    "apd-schedules apd-samplers apd-models apd-train torch lightning-fabric numpy pillow safetensors einops".split()
)


class RunFolderError(ValueError):
    """A folder that a run cannot be written to. The message is one line."""


class WriteError(RuntimeError):
    """A file of a run that cannot be written any more, as on a full disk. The message is one line."""


class RunFolder:
    """``config.json``, ``metrics.jsonl``, ``model/``, ``checkpoints/``, ``averages/`` and the pictures of a run.

    Args:
        path: the folder. Making this object changes nothing; :meth:`create` does.
        overwrite: a run that is there already may be replaced.
        resume: a run that is there already goes on.
    """

    def __init__(self, path: str | Path, overwrite: bool = False, resume: bool = False) -> None:
        if overwrite and resume:
            raise RunFolderError("a run is either resumed or overwritten: leave out --resume or --overwrite")
        self.path = Path(path)
        self.resume = resume
        self._overwrite = overwrite

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def averages(self) -> Path:
        return self.path / "averages"

    @property
    def grids(self) -> Path:
        return self.path / "grids"

    def check(self) -> None:
        """Raises :class:`RunFolderError` where :meth:`create` would fail, and changes nothing."""
        try:
            present = [name for name in _OURS if os.path.lexists(self.path / name)]
            ancestor = next(p for p in (self.path.absolute(), *self.path.absolute().parents) if p.exists())
            is_folder, allowed = ancestor.is_dir(), os.access(ancestor, os.W_OK | os.X_OK, effective_ids=True)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}") from error
        if not is_folder:
            raise RunFolderError(f"{self.path} cannot be a folder: {ancestor} is a file")
        if not allowed:
            raise RunFolderError(f"{self.path} cannot be written: no permission in {ancestor}")
        if present and not self._overwrite and not self.resume:
            raise RunFolderError(
                f"{self.path} already holds a run ({', '.join(present)}): pass --resume to go on with it, "
                "--overwrite to replace it, or another --out"
            )
        if present and self.record() is None:
            names, done = ", ".join(present), "resumed" if self.resume else "overwritten"
            raise RunFolderError(
                f"{self.path} holds {names}, but not of a run: nothing is {done}; choose another --out"
            )

    def has_learned(self) -> bool:
        """Whether there is, or was, a checkpoint: the model and averages are written after the first one."""
        complete = [path for path in self.checkpoints.glob("step-*") if path.suffix != ".tmp"]
        return bool(complete) or self.model.exists() or self.averages.exists()

    def record(self) -> dict[str, Any] | None:
        """What ``config.json`` says; None if there is no run."""
        try:
            record = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("format") == FORMAT else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the context no other process can hold the folder, which is made if it is not there. Ends with the
        process, whatever ends it.

        Raises:
            RunFolderError: another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}") from error
        _HELD.add(handle)
        try:
            _lock(handle)
        except BlockingIOError:
            _let_go(handle)
            raise RunFolderError(
                f"{self.path} is in use by another process: wait for its end, or choose another --out"
            ) from None
        try:
            yield
        finally:
            _let_go(handle)

    def create(self) -> None:
        """Makes the folder; the files of an earlier run, which may be replaced, are removed."""
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in _OURS:
                target = self.path / name
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}") from error

    def write_config(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        """The resolved configuration, the versions of what ran it, and facts about this run."""
        record = {
            "format": FORMAT,
            "command": sys.argv,
            "config": plain(config),
            **facts,
            **_platform(),
        }
        self._write(record)

    def note_resumption(self, **facts: Any) -> None:
        """Adds to ``config.json`` that, and with what, the run went on."""
        record = self.record()
        assert record is not None
        resumed = {"command": sys.argv, **facts, **_platform()}
        self._write({**record, "resumed": [*record.get("resumed", []), resumed]})

    def _write(self, record: Mapping[str, Any]) -> None:
        with writing(self.path / "config.json") as file:
            write_text_atomically(file, json.dumps(record, indent=2) + "\n")

    def log(self, **metrics: float | int) -> None:
        """Appends a line to ``metrics.jsonl``.

        Raises:
            WriteError: it cannot be written.
        """
        with writing(self.path / "metrics.jsonl") as path, path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics_size(self) -> int:
        """Bytes of ``metrics.jsonl``, all of them on the disk when this returns."""
        with writing(self.path / "metrics.jsonl") as path, path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_metrics(self, size: int) -> None:
        """Forgets lines of ``metrics.jsonl`` that were written after it had ``size`` bytes."""
        with writing(self.path / "metrics.jsonl") as path, path.open("ab") as file:
            file.truncate(min(size, file.tell()))

    def cut_files(self, step: int) -> None:
        """Forgets snapshots and grids of later steps than that from which the run goes on: it may go on otherwise."""
        for folder in (self.averages, self.grids):
            for file in folder.glob("*-*"):
                found = _OF_A_STEP.fullmatch(file.name)
                if found and int(found[1]) > step:
                    with writing(file):
                        file.unlink()


def read_metrics(folder: str | Path) -> list[dict[str, float | int]]:
    """The lines of a run's ``metrics.jsonl``."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


_OF_A_STEP = re.compile(r"[a-z_]+-(\d{8,})\.(?:safetensors|png)")
_HELD: set[int] = set()
"""Open folders. A process that is forked off holds them too, and would go on to after this one."""


def _let_go(*handles: int) -> None:
    for handle in handles:
        _HELD.discard(handle)
        os.close(handle)


if hasattr(os, "register_at_fork"):  # POSIX
    os.register_at_fork(after_in_child=lambda: _let_go(*_HELD))


def _lock(handle: int) -> None:
    """Where the system and the file system know locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # some network file systems
        return


def _platform() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": {name: version(name) for name in _PACKAGES},
    }


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """What the operating system refuses here ends in one line.

    Raises:
        WriteError: names the path.
    """
    try:
        yield path
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def plain(config: RunConfig) -> dict[str, Any]:
    """A configuration as ``config.json`` has it: functions by name, schedules and data as they show themselves."""
    of: Any = config
    return {field.name: _plain(getattr(of, field.name)) for field in fields(of)}


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return getattr(value, "__name__", None) or repr(value)
