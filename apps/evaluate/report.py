"""What an evaluation says: a table, differences between paths, and a file."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from apd_schedules import Elbo, bits_per_dim
from apd_train.app import UsageError

NOTE = (
    "Each is an upper bound. With the exact denoiser all paths would give the same number: what they differ by is the "
    "model's error."
)


@dataclass(frozen=True)
class Row:
    """The bound along one path."""

    path: str
    found: Elbo
    seconds: float

    def figures(self, first: "Row") -> dict[str, Any]:
        """In bits per dimension, averaged over the images.

        Args:
            first: the path that this one is compared with, image by image.
        """
        found = self.found
        mean, error = found.average()
        figures: dict[str, Any] = {"path": self.path, "bits_per_dim": mean, "standard_error": _number(error)}
        for name in ("prior", "reconstruction", "diffusion"):
            figures[name] = bits_per_dim(getattr(found, name), found.dims).mean().item()
        if self is not first:
            apart = found.bits_per_dim - first.found.bits_per_dim
            error = apart.std().item() / len(apart) ** 0.5 if len(apart) > 1 else math.nan
            figures["minus"] = first.path
            figures["difference"] = apart.mean().item()
            figures["standard_error_of_difference"] = _number(error)
        return figures | {"evaluations": found.evaluations, "seconds": round(self.seconds, 3)}


def print_figures(console: Console, figures: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("path\n", no_wrap=True)
    for name in ("bits/dim\n", "prior\n", "recon-\nstruction", "diffusion\n", "evaluations\nan image", "seconds\n"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in figures:
        terms = (f"{each[name]:.3f}" for name in ("prior", "reconstruction", "diffusion"))
        table.add_row(
            each["path"],
            f"{each['bits_per_dim']:.3f} ± {_text(each['standard_error'], 3)}",
            *terms,
            str(each["evaluations"]),
            f"{each['seconds']:.1f}",
        )
    console.print(table)
    for each in figures[1:]:
        error = _text(each["standard_error_of_difference"], 4)
        console.print(f"{each['path']} - {each['minus']}: {each['difference']:+.4f} ± {error}, image by image")
    console.print(NOTE)


def check_out(file: Path, overwrite: bool) -> None:
    """Refuses a file that cannot be written or is there already; changes nothing."""
    try:
        if file.is_dir():
            raise UsageError(f"--out {file} is a folder, not a file")
        if os.path.lexists(file) and not overwrite:
            raise UsageError(f"{file} is there already: pass --overwrite or another --out")
        ancestor = next(place for place in file.absolute().parents if place.exists())
        with tempfile.TemporaryFile(dir=ancestor):
            pass
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error


def write(file: Path, record: Mapping[str, Any]) -> None:
    """Writes beside its place first, so that a full disk leaves what was there as it was."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=file.parent) as folder:
            draft = Path(folder) / file.name
            draft.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            draft.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error


def _number(value: float) -> float | None:
    """JSON has no NaN: the standard error of a single image is not known."""
    return None if math.isnan(value) else value


def _text(error: float | None, digits: int) -> str:
    return "?" if error is None else f"{error:.{digits}f}"
