"""The documentation site: complete, without dead links, and what it says of commands and arguments is so."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import griffe
import pytest
import site_docstrings
import site_hooks
from pymdownx.slugs import slugify
from site_docstrings import PUBLIC, resolve, to_markdown

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("docs/**/*.md")} - {*ROOT.glob("docs/results/*.md")})  # those are parts of results.md
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
TEXTS += sorted(ROOT.glob("packages/*/README.md"))
APPS = sorted(file.parent for file in ROOT.glob("apps/*/__main__.py"))
REEXPORTED = {"LatentScale"}  # of apd_models, by apd_train
each_package = pytest.mark.parametrize("package", PUBLIC)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


each_text = pytest.mark.parametrize("file", TEXTS, ids=name_of)


# Links


def prose(file: Path) -> str:
    """Without code."""
    return re.sub(r"```.*?```|`[^`]*`", "", file.read_text("utf-8"), flags=re.DOTALL)


def anchors(file: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.DOTALL)
    return {slugify(case="lower")(re.sub(r"[`*]", "", title), "-") for title in re.findall(r"^#+ (.+)$", text, re.M)}


@each_text
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)]*)\)", prose(file)):
        if "://" in target:
            assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w./#-]*)?", target), target
            continue
        path, _, anchor = target.partition("#")
        there = file.parent / path if path else file
        assert there.is_file(), target
        assert not anchor or anchor in anchors(there), target


@each_text
def test_prose_is_120_columns_wide(file: Path) -> None:
    """But for tables, pictures, commands, and what is put in from the files of results."""
    text = re.sub(r"```.*?```|<!-- table.*?<!-- (table: )?end -->", "", file.read_text("utf-8"), flags=re.DOTALL)
    wide = [line for line in text.splitlines() if len(line) > 120 and not line.startswith(("|", "!", "    "))]
    assert not wide


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(listed) == sorted(file.relative_to(ROOT / "docs").as_posix() for file in PAGES)


def test_links_of_a_file_on_a_page_lead_where_they_led() -> None:
    pages = {"packages/one/README.md": "api/one.md", "CHANGELOG.md": "changelog.md"}
    text = (
        "[a](../../docs/deep/a.md#b) ![p](../../docs/p.png) [log](../../CHANGELOG.md) [self](README.md) [h](#h)\n"
        "[`code`](../../tools/x.py) [out](https://a.example/b) `[x](../y)`\n\n```python\nf[0](../z)\n```\n"
    )
    assert site_hooks.placed(text, "packages/one/README.md", "api/one.md", pages) == (
        "[a](../deep/a.md#b) ![p](../p.png) [log](../changelog.md) [self](one.md) [h](#h)\n"
        "`code` [out](https://a.example/b) `[x](../y)`\n\n```python\nf[0](../z)\n```\n"
    )


def test_names_of_the_libraries_lead_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_hooks, "PUBLIC", {"one": {"a", "both"}, "two": {"both"}})
    text = "# `a`\n`a` `both` ``a`` [`a`](a.md) `a.b` `c`\n\n    `a`\n\n```python\n`a`\n```\n"
    linked = text.replace("\n`a` ", "\n[`a`][one.a] ")
    assert site_hooks.with_names(text) == linked
    assert site_hooks.with_names(text, "two") == linked.replace("`both`", "[`both`][two.both]")


# The reference


@each_package
def test_the_reference_has_every_public_name_once(package: str) -> None:
    text = (ROOT / "docs" / "api" / f"{package.replace('_', '-')}.md").read_text("utf-8")
    assert sorted(re.findall(rf"^::: {package}\.(\w+)$", text, re.M)) == sorted(PUBLIC[package])
    assert re.findall(r"^:::", text, re.M) == [":::"] * len(PUBLIC[package])


def test_docstrings_become_markdown() -> None:
    text = (
        "What :class:`Path` and\n:meth:`~no` do::\n\n    code\n\n>>> 1 + 1\n2\n>>> 2\n2\n\nArgs:\n    a: :attr:`b.c`.\n"
    )
    assert to_markdown(text, {"Path": "p.Path", "b.c": "p.b"}.get) == (
        "What [`Path`][p.Path] and\n`~no` do:\n\n    code\n\n```pycon\n>>> 1 + 1\n2\n>>> 2\n2\n```\n\n"
        "Args:\n    a: [`b.c`][p.b].\n"
    )
    assert to_markdown("Args:\na: b\n    c\n", {}.get) == "Args:\n    a: b\n        c"


CODE = '''
"""Of :class:`Plain`."""
from dataclasses import dataclass

class Plain:
    """Has :meth:`told`, :meth:`untold`, :meth:`Plain.told`, :meth:`_own`, :func:`sample` and :class:`Hidden`."""
    def told(self): "Said."
    def untold(self): ...
    def _own(self): "Private."

class Hidden:
    """See :meth:`told` of :class:`apd_models.DiT`, :meth:`Pair.first`."""

@dataclass(frozen=True)
class Pair:
    """Two."""
    first: int = 1
    """One,
    the first."""
    second: int = 2
    "See :class:`Plain`."
    @property
    def sum(self) -> int: "Both."
'''


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[griffe.Module]:
    monkeypatch.setitem(PUBLIC, "demo", {"Plain", "Pair"})
    extensions = griffe.load_extensions(site_docstrings.SiteDocstrings)
    with griffe.temporary_visited_package("demo", {"__init__.py": CODE}, extensions=extensions) as package:
        yield package


def said(found: griffe.Object | griffe.Alias) -> str:
    assert found.docstring is not None
    return found.docstring.value


def test_roles_lead_to_what_is_on_the_site(demo: griffe.Module) -> None:
    assert said(demo) == "Of [`Plain`][demo.Plain]."
    assert said(demo["Plain"]) == (
        "Has [`told`][demo.Plain.told], [`untold`][demo.Plain], [`Plain.told`][demo.Plain.told], `_own`, "
        "[`sample`][apd_samplers.sample] and `Hidden`."
    )
    assert said(demo["Hidden"]) == "See `told` of [`apd_models.DiT`][apd_models.DiT], [`Pair.first`][demo.Pair]."


def test_a_name_of_two_other_packages_is_refused(demo: griffe.Module) -> None:
    with pytest.raises(ValueError, match="Moments in demo may be that of apd_metrics or apd_models: name the package"):
        resolve("Moments", demo, None)


def test_docstrings_of_fields_are_arguments(demo: griffe.Module) -> None:
    assert said(demo["Pair"]) == (
        "Two.\n\nArgs:\n    first: One,\n        the first.\n    second: See [`Plain`][demo.Plain]."
    )
    assert demo["Pair.first"].docstring is None
    assert said(demo["Pair.sum"]) == "Both."
    (_, arguments) = griffe.parse_google(demo["Pair"].docstring)
    assert [(each.name, str(each.annotation), each.default) for each in arguments.value] == [
        ("first", "int", "1"),
        ("second", "int", "2"),
    ]


@functools.cache
def documented(package: str) -> list[griffe.Object]:
    """The public things of a package and the public members of its classes, as the site has them."""
    sources = [folder.parent for folder in ROOT.glob("packages/*/src/*/")]
    extensions = griffe.load_extensions(site_docstrings.SiteDocstrings)
    module = griffe.load(package, search_paths=sources, extensions=extensions, allow_inspection=False)
    found = []
    for name in sorted(PUBLIC[package] - REEXPORTED):
        thing = module[name].final_target
        found += [thing, *(member for member in thing.members.values() if not member.name.startswith("_"))]
    return [each for each in found if each.docstring is not None]


@each_package
def test_documented_arguments_exist(package: str) -> None:
    """As ``a: …`` or ``a, b: …``; those of a named tuple are its fields."""
    for thing in documented(package):
        if not isinstance(thing, griffe.Class | griffe.Function):
            continue
        tuples = isinstance(thing, griffe.Class) and "NamedTuple" in map(str, thing.bases)
        known = {*thing.attributes} if tuples else {each.name.strip("*") for each in thing.parameters}
        for entries in re.findall(r"^Args:\n((?:    .*\n?|\n)*)", said(thing), re.M):
            for entry in re.findall(r"^ {4}(\w+(?:, \w+)*):", entries, re.M):
                assert set(entry.split(", ")) <= known, f"{thing.path}: {entry}"


@each_package
def test_no_docstring_keeps_what_only_sphinx_understands(package: str) -> None:
    for thing in documented(package):
        text = re.sub(r"```pycon\n.*?```", "", said(thing), flags=re.DOTALL)
        assert not re.search(r":\w+:`|::$|^ *>>>|^\.\. ", text, re.M), thing.path


# Commands


def option_flags(folder: Path) -> dict[str, str]:
    """The flags of an app, each with its kind, from the fields of its ``Options`` and of what these take in."""
    classes = {
        node.name: node
        for file in [*sorted(ROOT.glob("packages/*/src/**/*.py")), *sorted(folder.glob("*.py"))]
        if "@dataclass" in (text := file.read_text("utf-8"))
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef)
    }
    flags, waiting = {}, ["Options"]
    while waiting:
        for field in classes[waiting.pop()].body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                kind = ast.unparse(field.annotation)
                if "OmitArgPrefixes" in kind:
                    waiting.append(re.findall(r"\w+", kind)[1])
                elif "Positional" not in kind:
                    named = re.search(r"name='([\w-]+)'", kind)
                    flags["--" + (named[1] if named else field.target.id.strip("_").replace("_", "-"))] = kind
    return flags


FLAGS = {folder.name: option_flags(folder) for folder in APPS}
COMMAND = re.compile(r"uv run apps/([\w-]+)((?: +(?:\\\n +)?[^\s#`&|]+)*)")
COMMANDS = [
    pytest.param(name, said.replace("\\\n", " ").split(), id=f"{name_of(file)}:{k}")
    for file in [*TEXTS, *(folder / "__main__.py" for folder in APPS)]
    for k, (name, said) in enumerate(COMMAND.findall(file.read_text("utf-8")))
]


def test_flags_of_an_app_are_read_off_its_options() -> None:
    sample = FLAGS["sample"]
    assert {"--model", "--class", "--order-image", "--solver", "--adams-order", "--codec"} <= sample.keys()
    assert not {"--class-", "--recipe", "--data", "--sigma-rel"} & sample.keys()
    assert "--sigma-rel" in FLAGS["average"]
    assert "--data" in FLAGS["train"]


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_commands_are_of_apps_and_flags_that_exist(name: str, words: list[str]) -> None:
    assert name in FLAGS
    for word in words:
        if word.startswith("--"):
            assert word in FLAGS[name] | {"--help": ""}, word


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 40
    assert {command.values[0] for command in COMMANDS} == FLAGS.keys()


OF_OTHERS = """--kill-on-bad-exit --nodes --ntasks-per-node --gpus-per-node --signal --nnodes --nproc-per-node
--rdzv-backend --rdzv-endpoint --hypothesis-profile --all-packages --wheel --quick --strict""".split()
"""Flags of srun, sbatch, torchrun, pytest, uv, mkdocs and the benchmarks."""


@each_text
def test_every_flag_that_is_mentioned_exists(file: Path) -> None:
    known = {"--help", *OF_OTHERS}.union(*FLAGS.values())
    if file.name != "CHANGELOG.md":  # which speaks of what was
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", file.read_text("utf-8"))) <= known


def test_programs_that_are_mentioned_exist() -> None:
    found = {path for file in TEXTS for path in re.findall(r"(?:benchmarks|tools)/\w+\.py", file.read_text("utf-8"))}
    assert len(found) > 5
    assert [path for path in sorted(found) if not (ROOT / path).is_file()] == []


# Code blocks


@each_text
def test_every_code_block_is_python_that_a_test_runs(file: Path) -> None:
    """test_readme.py runs those of these files; no other has any."""
    fences = re.findall(r"^ *```(.*)$", file.read_text("utf-8"), re.M)
    assert fences == ["python", ""] * (len(fences) // 2)
    assert not fences or file.name == "README.md" or file.parent == ROOT / "docs"


# The site itself


SENTENCES = {
    "apd_generate": ["By default 50; 100 for staggered, sliding-window and round-robin;"],  # of a field of Recipe
    "apd_samplers": ["Where it is: once before the first step, then after each."],  # of what is yielded: not its type
}


class Page(HTMLParser):
    """What a built page has: identifiers, text outside of code, and what a browser would fetch for it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.identifiers: set[str] = set()
        self.fetched: list[str] = []
        self.prose: list[str] = []
        self._code = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in ("code", "pre", "script", "style")
        given = dict(attrs)
        self.identifiers.add(given.get("id") or "")
        self.fetched.append(given.get("src") or "")
        if tag == "link":
            self.fetched.append(given.get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.prose.append(data)


@pytest.mark.slow
def test_the_site_builds_and_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in tmp_path.rglob("*.html"):
        page = Page(file.read_text("utf-8"))
        assert not [address for address in page.fetched if "//" in address], file
        assert not re.findall(
            r"``|:(?:class|func|meth|attr|data|mod):|\]\[|\*\*\w|^>>>|--8<--|:::", "\n".join(page.prose), re.M
        ), file
    for package, names in PUBLIC.items():
        page = Page((tmp_path / "api" / f"{package.replace('_', '-')}.html").read_text("utf-8"))
        assert {f"{package}.{name}" for name in names} <= page.identifiers
        for sentence in SENTENCES.get(package, ()):
            assert sentence in " ".join("".join(page.prose).split()), sentence
        if package == "apd_generate":
            assert "apd_generate.Recipe.resolved" in page.identifiers
