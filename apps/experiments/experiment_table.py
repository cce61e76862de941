"""What a table is, and how it is written."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiment_jobs import Job
from experiment_setting import Setting

Results = Mapping[str, Mapping[str, Any]]
"""What jobs returned, by their names."""


@dataclass(frozen=True, slots=True)
class Table:
    """An experiment: what is done, what of it is kept, and how that is shown.

    Args:
        name: on the command line and of the file.
        question: that it answers, a line.
        jobs: what is done, models first, for so many training seeds.
        record: what the file keeps of the results, as JSON can hold it.
        page: the file's record in Markdown: tables, and nothing that is not in the record.
        data: whether it can be made of other images than the embedded ones.
        in_all: whether it is one of all; not those that train many models for longer.
        pictures: of the results, PNG files that go beside the table's, by what is added to its name.
    """

    name: str
    question: str
    jobs: Callable[[Setting, int], Sequence[Job]]
    record: Callable[[Setting, int, Results], Mapping[str, Any]]
    page: Callable[[Mapping[str, Any]], str]
    data: bool = True
    in_all: bool = True
    pictures: Mapping[str, Callable[[Results], bytes]] = field(default_factory=dict)


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def number(estimate: Mapping[str, Any] | None, scale: float = 1.0) -> str:
    """A value to two digits of its standard error, and the error."""
    if estimate is None:
        return ""
    value, error = estimate["value"] * scale, estimate.get("standard_error")
    if not error:
        return f"{value:.4g}"
    error *= scale
    digits = min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{round(value, digits) + 0.0:.{digits}f} ± {error:.{digits}f}"
