"""The examples of the READMEs and of the pages in docs run as they stand."""

import re
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = {
    f"{file.relative_to(ROOT)}:{k}": block
    for file in [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md"))]
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL))
}

# The blocks of a page in docs continue each other.
PAGES = {
    file.name: text
    for file in sorted(ROOT.glob("docs/*.md"))
    if "```python" in (text := file.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_page_runs_and_prints_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What follows a block of Python, indented, is what that block prints."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code, said in re.findall(r"```python\n(.*?)```\n((?:\n|    [^\n]*\n)*)", page, re.DOTALL):
        exec(compile(code, "page", "exec"), names)
        assert dedent(said).strip() in capsys.readouterr().out


def test_every_picture_of_a_page_is_there() -> None:
    for file in ROOT.glob("docs/*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), target


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README", "exec"), {})


def test_a_users_own_denoiser_takes_less_than_fifteen_lines() -> None:
    (block,) = [block for name, block in BLOCKS.items() if name.startswith("README.md")]
    assert len([line for line in block.splitlines() if line.strip()]) < 15


def test_every_file_that_the_readme_names_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def test_package_readmes_have_an_example_each() -> None:
    assert {name.rpartition(":")[0] for name in BLOCKS} == {
        "README.md",
        *(f"packages/{folder.name}/README.md" for folder in ROOT.glob("packages/apd-*")),
    }
