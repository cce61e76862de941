"""What an evaluation says: tables on the terminal, a Markdown page and a JSON file."""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from apd_generate import written_aside
from apd_metrics import Estimate
from apd_train.app import UsageError


@dataclass(frozen=True)
class Grid:
    """A table; the first column is text, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plain:
    """Lines that keep their spaces."""

    text: str


@dataclass(frozen=True)
class Section:
    """What one metric says.

    Args:
        metric: its name on the command line and in the file.
        title: of its part of the page.
        head: what was measured.
        parts: tables and text, in order.
        facts: what the numbers depend on, for the page.
        warnings: what must not be overlooked.
        record: for the file.
    """

    metric: str
    title: str
    head: str
    parts: tuple[Grid | Plain | str, ...]
    record: Mapping[str, Any]
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def show(console: Console, section: Section) -> None:
    console.print(section.head)
    for part in section.parts:
        match part:
            case Grid():
                _print(console, part)
            case Plain():
                console.print(part.text)
            case _:
                console.print(part)
    for warning in section.warnings:
        console.print(f"warning: {warning}", style="bold yellow")


def _print(console: Console, grid: Grid) -> None:
    """As wide as it has to be: digits that are cut off would be other numbers."""
    table = Table(box=None, pad_edge=False)
    for k, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if k else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*row)
    table.width = Measurement.get(console, console.options.update(width=1000), table).maximum
    console.print(table)


def said(estimate: Estimate | None) -> str:
    """To two digits of its standard error."""
    if estimate is None:
        return "?"
    error = estimate.standard_error
    if not error:
        return f"{estimate.value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{round(estimate.value, digits) + 0.0:.{digits}f} ± {error:.{digits}f}"  # no minus before a zero


def page(title: str, sections: Sequence[Section], facts: Mapping[str, str]) -> str:
    """The same in Markdown."""
    lines = [f"# {title}", "", *_listed(facts)]
    for section in sections:
        lines += ["", f"## {section.title}", "", f"{_escaped(section.head)}."]
        lines += [line for warning in section.warnings for line in ("", f"**Warning:** {_escaped(warning)}.")]
        for part in section.parts:
            match part:
                case Grid():
                    lines += ["", *_table(part)]
                case Plain():
                    lines += ["", "```text", *part.text.splitlines(), "```"]
                case "":
                    pass
                case _:
                    lines += ["", _escaped(part)]
        lines += ["", *_listed(section.facts)] if section.facts else []
    return "\n".join(lines) + "\n"


def _table(grid: Grid) -> Iterable[str]:
    names = [name.replace("-\n", "").strip().replace("\n", " ") for name in grid.columns]
    yield _row(names)
    yield _row(["---", *["---:"] * (len(names) - 1)])
    yield from map(_row, grid.rows)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _listed(facts: Mapping[str, str]) -> list[str]:
    return [f"- {name}: {_escaped(value)}" for name, value in facts.items()]


def _escaped(text: str) -> str:
    for letter in "\\|*_<`":
        text = text.replace(letter, "\\" + letter)
    return " ".join(text.split())


def files_of(out: Path) -> tuple[Path, Path, Path]:
    """The JSON file, the page and the film strip."""
    if out.suffix not in (".json", ".md"):
        raise UsageError(f"--out is a file named .json or .md, and the other one goes beside it; got {str(out)[:60]}")
    return out.with_suffix(".json"), out.with_suffix(".md"), out.with_suffix(".png")


def check_out(out: Path, overwrite: bool) -> None:
    """Refuses files that cannot be written or are there already; changes nothing."""
    try:
        if out.is_dir():
            raise UsageError(f"--out {out} is a folder, not a file")
        for file in files_of(out):
            if os.path.lexists(file) and not overwrite:
                raise UsageError(f"{file} is there already: pass --overwrite or another --out")
            if file.is_dir():
                raise UsageError(f"{file} is a folder, not a file")
        ancestor = next(place for place in out.absolute().parents if place.exists())
        with tempfile.TemporaryFile(dir=ancestor):
            pass
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error


def write(out: Path, record: Mapping[str, Any], text: str, strip: Image.Image | None = None) -> None:
    """Writes beside their places first, so that a full disk leaves what was there as it was."""
    json_file, page_file, strip_file = files_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(json_file) as first, written_aside(page_file) as second:
            told = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
            first.write_text(told, encoding="utf-8", errors="backslashreplace")  # of names that are no UTF-8
            if strip is not None:
                text += f"\n![noise maps and image, from the first step to the last]({strip_file.name})\n"
                with written_aside(strip_file) as third:
                    strip.save(third)
            second.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
