"""Docstrings as the site shows them: an extension of griffe, which reads the packages for mkdocstrings.

Google's sections are griffe's own. Here the rest becomes Markdown: Sphinx' roles are references, ``::`` announces code,
examples are fenced, and the docstrings of a dataclass' fields are arguments of the class.
"""

import ast
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[1]
ROLE = re.compile(r":(?:class|func|meth|attr|data|mod):`([^`]+)`")
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)
PUBLIC = {
    package.parent.name: {
        alias.name
        for node in ast.parse(package.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for package in sorted(ROOT.glob("packages/*/src/*/__init__.py"))
}
"""The names that each package exports."""


def to_markdown(text: str, path_of: Callable[[str], str | None]) -> str:
    """A docstring in Markdown.

    Args:
        text: without the indentation that it has in the code.
        path_of: from a name as a docstring says it to the path under which the site has it, if it does.
    """

    def reference(role: re.Match[str]) -> str:
        name = " ".join(role[1].split())
        path = path_of(name)
        return f"`{name}`" if path is None else f"[`{name}`][{path}]"

    head, _, rest = text.partition("\n")
    if head == "Args:" and not rest.startswith(" "):  # nothing is above them, so their indentation was that of the code
        text = "\n    ".join(text.splitlines())
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)
    return ROLE.sub(reference, text)


def resolve(name: str, package: griffe.Module, owner: griffe.Class | None) -> str | None:
    """The path of what a docstring of a package, or of a class in it, calls by a name; None if it is not on the site.

    Members of a class are on the site where they have a docstring; the others, and those of other packages, are found
    with their class.
    """
    first, *rest = name.split(".")
    if first in PUBLIC:
        home, first, rest = first, rest[0], rest[1:]
    elif owner is not None and owner.name in PUBLIC[package.name] and first in owner.members:
        home, first, rest = package.name, owner.name, [first]
    else:
        homes = [package.name] if first in PUBLIC[package.name] else [each for each in PUBLIC if first in PUBLIC[each]]
        if len(homes) > 1:
            raise ValueError(f"{name} in {package.name} may be that of {' or '.join(homes)}: name the package")
        if not homes:
            return None
        (home,) = homes
    if rest and rest[0].startswith("_"):
        return None
    if rest and home == package.name and package[first][rest[0]].has_docstring:
        return f"{home}.{first}.{rest[0]}"
    return f"{home}.{first}"


def with_fields(cls: griffe.Class) -> None:
    """Moves the docstrings of the fields of a dataclass to its own, as its arguments."""
    fields = [each for each in cls.attributes.values() if each.docstring and "property" not in each.labels]
    if "dataclass" not in {getattr(each.value, "canonical_name", None) or "" for each in cls.decorators} or not fields:
        return
    entries = []
    for each in fields:
        assert each.docstring is not None
        entries.append(f"    {each.name}: " + each.docstring.value.replace("\n", "\n        "))
        each.docstring = None
    said = "" if cls.docstring is None else cls.docstring.value + "\n\n"
    cls.docstring = griffe.Docstring(f"{said}Args:\n" + "\n".join(entries), parent=cls)


class SiteDocstrings(griffe.Extension):
    """Rewrites all docstrings of a package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        found: list[griffe.Object] = [pkg]
        for each in found:
            found += [member for member in each.members.values() if isinstance(member, griffe.Object)]
            if isinstance(each, griffe.Class):
                with_fields(each)
        for each in found:
            if each.docstring is not None:
                owner = each if isinstance(each, griffe.Class) else each.parent
                path_of = partial(resolve, package=pkg, owner=owner if isinstance(owner, griffe.Class) else None)
                each.docstring.value = to_markdown(each.docstring.value, path_of)
