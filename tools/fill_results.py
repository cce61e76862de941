"""Puts the tables of docs/results/*.json into docs/results.md, between the marks that name them.

They are folded away there, under what the page says of them, and their headings are below those of the page.

uv run tools/fill_results.py
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "apps" / "experiments"))

from experiment_tables import TABLES  # noqa: E402

MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Path) -> str:
    """The page with each table as its file has it: ``NAME`` or, of other images, ``NAME-IMAGES`` names the file."""

    def put(marked: re.Match[str]) -> str:
        record = json.loads((results / f"{marked[2]}.json").read_text(encoding="utf-8"))
        numbers = re.sub(r"^#", "##", TABLES[record["table"]].page(record).strip(), flags=re.MULTILINE)
        named = f"<summary>All numbers: <code>{marked[2]}</code></summary>"
        return f'{marked[1]}\n<details markdown="1">\n{named}\n\n{numbers}\n\n</details>\n\n{marked[3]}'

    return MARKED.sub(put, page)


if __name__ == "__main__":
    place = ROOT / "docs" / "results.md"
    place.write_text(filled(place.read_text(encoding="utf-8"), ROOT / "docs" / "results"), encoding="utf-8")
