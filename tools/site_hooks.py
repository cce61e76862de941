"""Files of the repository as pages of the site, and links: hooks of mkdocs.yml.

A line ``--8<-- "CHANGELOG.md"`` of a page stands for that file. Its links lead where they led, and so do links of other
pages to it. Links to files that are on no page, such as programs, become what they say. On pages about the libraries,
the names that these export lead to the reference.
"""

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

from site_docstrings import PUBLIC, ROOT

INCLUDE = re.compile(r'^--8<-- "([^"]+)"$', re.MULTILINE)
FENCED = r"^```.*?^```"
CODE_OR_LINK = re.compile(rf"{FENCED}|`[^`]*`|(?P<text>!?\[[^]]*\])\((?P<target>[^)\s]+)\)", re.DOTALL | re.MULTILINE)
CODE_OR_NAME = re.compile(
    rf"{FENCED}|^(?: {{4}}|#)[^\n]*|\[[^]]*\]\([^)]*\)|(?<!`)`(?P<name>\w+)`", re.DOTALL | re.MULTILINE
)
ABOUT_NAMES = ("api/", "bound.md", "design.md", "models.md", "samplers.md", "tutorial.md")
"""Pages on which a name in code is always that of a library. Elsewhere `loss` may be a column, `uniform` a flag."""


def with_links(text: str, change: Callable[[str], str | None]) -> str:
    """Markdown with other targets of its relative links; a link whose new target is None keeps its text alone."""

    def changed(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or "://" in target or target.startswith("#"):
            return found[0]
        new = change(target)
        return found["text"].strip("![]") if new is None else f"{found['text']}({new})"

    return CODE_OR_LINK.sub(changed, text)


def with_names(text: str, package: str | None = None) -> str:
    """Markdown in which names in code lead to the reference, if one package exports them, or the given one does."""

    def linked(found: re.Match[str]) -> str:
        homes = [home for home, names in PUBLIC.items() if found["name"] in names]
        home = package if package in homes else homes[0] if len(homes) == 1 else None
        return found[0] if home is None else f"[{found[0]}][{home}.{found['name']}]"

    return CODE_OR_NAME.sub(linked, text)


def placed(text: str, file: str, page: str, pages: Mapping[str, str]) -> str:
    """The Markdown of a file as it stands on a page.

    Args:
        text: the Markdown.
        file: where it comes from, relative to the repository.
        page: where it goes to, relative to ``docs``.
        pages: the pages that other files of the repository are on.
    """

    def change(target: str) -> str | None:
        path, mark, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        there = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        return None if there is None else posixpath.relpath(there, posixpath.dirname(page) or ".") + mark + anchor

    return with_links(text, change)


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """MkDocs calls this for each page."""
    sources = {file.src_uri: file.content_string for file in files.documentation_pages()}
    pages = {name: uri for uri, text in sources.items() for name in INCLUDE.findall(text)}
    uri = page.file.src_uri
    markdown = placed(markdown, f"docs/{uri}", uri, pages)
    markdown = INCLUDE.sub(lambda found: placed((ROOT / found[1]).read_text("utf-8"), found[1], uri, pages), markdown)
    if not uri.startswith(ABOUT_NAMES):
        return markdown
    return with_names(markdown, posixpath.basename(uri).removesuffix(".md").replace("-", "_"))
