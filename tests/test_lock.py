"""The committed lock names versions and no index; git's filter makes it so."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "neutral_lock.py"


def neutral(text: str) -> str:
    return subprocess.run([sys.executable, str(TOOL)], input=text, capture_output=True, text=True, check=True).stdout


def committed() -> str:
    """What git would commit; outside of a repository, what it would be."""
    done = subprocess.run(["git", "show", ":uv.lock"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else neutral((ROOT / "uv.lock").read_text())


def test_the_staged_lock_is_in_neutral_form() -> None:
    text = committed()
    assert "://" not in text
    assert "hash =" not in text
    assert "sha256" not in text
    assert neutral(text) == text


def test_the_lock_at_hand_has_the_committed_versions() -> None:
    """uv has completed the committed pins, not replaced them."""
    assert neutral((ROOT / "uv.lock").read_text()) == committed()


def test_the_filter_is_attached() -> None:
    assert "uv.lock filter=neutral-lock" in (ROOT / ".gitattributes").read_text()


def test_reduction_keeps_names_versions_and_members_alone() -> None:
    full = """
version = 1
revision = 5
requires-python = ">=3.11"
resolution-markers = ["python_full_version >= '3.12'"]

[[package]]
name = "one"
version = "1.0"
source = { registry = "https://index.example/simple" }
sdist = { url = "https://files.example/one.tar.gz", hash = "sha256:0" }

[[package]]
name = "member"
version = "0.1.0"
source = { editable = "packages/member" }
dependencies = [{ name = "one" }]
"""
    assert tomllib.loads(neutral(full)) == {
        "version": 1,
        "revision": 5,
        "requires-python": ">=3.11",
        "package": [
            {"name": "one", "version": "1.0", "source": {"registry": "."}},
            {"name": "member", "version": "0.1.0", "source": {"editable": "packages/member"}},
        ],
    }
