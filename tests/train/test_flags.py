"""Flags of a command line from a dataclass."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import tyro

from apd_train.flags import flags_of


@dataclass(frozen=True, kw_only=True)
class Tea:
    kind: Literal["green", "black"]
    """What is in it, said in a sentence that goes on for so long that in the source it takes a
    second line."""
    minutes: float = 3.0
    """How long."""
    sugar: float | None = None
    """Spoons. By default none."""
    secret: int = 7
    """Not for everyone."""
    strong: Annotated[bool, tyro.conf.arg(name="bold")] = False
    """Twice the leaves."""


@dataclass(frozen=True)
class Order:
    tea: Annotated[Tea, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(Tea, without=("secret",)))]
    cups: int = 1
    """How many."""


def order(*words: str) -> Order:
    return tyro.cli(flags_of(Order), args=words)


def test_flags_make_the_dataclass() -> None:
    assert order("--kind", "green") == Order(Tea(kind="green"))
    assert order("--kind", "black", "--minutes", "4", "--bold", "--sugar", "2", "--cups", "3") == Order(
        Tea(kind="black", minutes=4.0, sugar=2.0, strong=True), 3
    )


@pytest.mark.parametrize("words", [(), ("--kind", "white"), ("--kind", "green", "--secret", "3")])
def test_what_is_no_flag_or_missing(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        order(*words)
    assert capsys.readouterr().err


def test_help_is_the_docstrings_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        order("--help")
    lines = [" ".join(line.strip("│ ").split()) for line in capsys.readouterr().out.splitlines()]
    text = " ".join(lines)
    assert "so long that in the source it takes a second line. (required)" in text
    assert not [line for line in lines if line.endswith("takes a")]  # where the source breaks
    assert "How long. (default: 3.0)" in text
    assert "Spoons. By default none." in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text
    assert "secret" not in text
