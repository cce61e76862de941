"""The folder that a run leaves behind."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ._config import TrainConfig

FORMAT = "apd-train/run"
_OURS = ("model", "metrics.jsonl", "config.json", "loss.png", "samples.png", "inpainting.png", "levels.png")
_PACKAGES = (
    "apd-schedules apd-samplers apd-models apd-train torch lightning-fabric numpy pillow safetensors einops".split()
)


class RunFolderError(ValueError):
    """A folder that a run cannot be written to. The message is one line."""


class RunFolder:
    """``config.json``, ``metrics.jsonl``, ``model/`` and the pictures of a run.

    Args:
        path: the folder. Making this object changes nothing; :meth:`create` does.
        overwrite: a run that is there already may be replaced.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._overwrite = overwrite

    @property
    def model(self) -> Path:
        return self.path / "model"

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
        if present and not self._overwrite:
            raise RunFolderError(
                f"{self.path} already holds a run ({', '.join(present)}): pass --overwrite or another --out"
            )
        if present and not self._is_run():
            names = ", ".join(present)
            raise RunFolderError(
                f"{self.path} holds {names}, but not of a run: nothing is overwritten; choose another --out"
            )

    def _is_run(self) -> bool:
        try:
            record = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(record, dict) and record.get("format") == FORMAT

    def create(self) -> None:
        """Makes the folder; the files of an earlier run, if it may be replaced, are removed."""
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

    def write_config(self, config: TrainConfig, facts: Mapping[str, Any]) -> None:
        """The resolved configuration, the versions of what ran it, and facts about this run."""
        record = {
            "format": FORMAT,
            "command": sys.argv,
            "config": {field.name: _plain(getattr(config, field.name)) for field in fields(config)},
            **facts,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "packages": {name: version(name) for name in _PACKAGES},
        }
        text = json.dumps(record, indent=2) + "\n"
        (self.path / "config.json").write_text(text, encoding="utf-8")

    def log(self, **metrics: float | int) -> None:
        """Appends a line to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")


def read_metrics(folder: str | Path) -> list[dict[str, float | int]]:
    """The lines of a run's ``metrics.jsonl``."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return getattr(value, "__name__", None) or repr(value)
