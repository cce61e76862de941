"""The tables of docs/results.md are those of the files in docs/results."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fill_results
from experiment_table import Table
from experiment_tables import TABLES as TABLES_MADE
from fill_results import MARKED, filled

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
TABLES = [
    file
    for file in sorted(RESULTS.glob("*.json"))
    if json.loads(file.read_text(encoding="utf-8")).get("format") == "apd-experiments"
]


def test_the_page_has_the_tables_of_the_files() -> None:
    assert filled(PAGE, RESULTS) == PAGE, "run: uv run tools/fill_results.py"
    assert {name for _, name, _ in MARKED.findall(PAGE)} == {file.stem for file in TABLES}


def test_the_page_shows_the_figure_of_each_file() -> None:
    for file in TABLES:
        assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
        assert f"(results/{file.stem}.png)" in PAGE, file


def test_each_file_says_how_it_was_made() -> None:
    for file in TABLES:
        record = json.loads(file.read_text(encoding="utf-8"))
        assert not record["quick"], file
        assert record["command"].startswith("uv run apps/experiments "), file
        assert record["seeds"], file
        assert record["machines"], file
        assert all(len(commit) == 12 for commit in record["commits"]), f"{file}: made by code that is in no commit"


def test_the_list_of_tables_says_what_each_takes() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", PAGE, flags=re.MULTILINE))
    assert [*listed] == [*TABLES_MADE]
    for name, minutes in listed.items():
        record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        assert int(minutes) == round(record["seconds_of_jobs"] / 60), name


def test_what_stands_between_marks_is_replaced(tmp_path: Path) -> None:
    def numbers(record: Mapping[str, Any]) -> str:
        return f"## Numbers\n\n| n |\n| --- |\n| {record['n']} |\n"

    table = Table("made-up", "?", lambda setting, seeds: [], lambda setting, seeds, results: {}, numbers)
    for name, n in {"one": 1, "two": 2}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"table": "made-up", "n": n}))
    page = "a\n\n<!-- table: two -->\nold\n<!-- end -->\n\nb\n<!-- table: one -->\n<!-- end -->\n"
    with patch.dict(fill_results.TABLES, {"made-up": table}):
        done = filled(page, tmp_path)
        assert filled(done, tmp_path) == done
    assert done.splitlines() == [
        *("a", "", "<!-- table: two -->", "", *folded("two", 2), "", "<!-- end -->", "", "b"),
        *("<!-- table: one -->", "", *folded("one", 1), "", "<!-- end -->"),
    ]


def folded(name: str, n: int) -> list[str]:
    return [
        *('<details markdown="1">', f"<summary>All numbers: <code>{name}</code></summary>", ""),
        *("### Numbers", "", "| n |", "| --- |", f"| {n} |", "", "</details>"),
    ]
