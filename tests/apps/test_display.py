"""The progress display, on a terminal and elsewhere."""

import math
import re
import runpy
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from apd_train import Progress

DISPLAY = Path(__file__).parents[2] / "apps" / "train" / "display.py"


@pytest.fixture
def display_class() -> Any:
    return runpy.run_path(str(DISPLAY))["Display"]


def at(step: int, left: float) -> Progress:
    return Progress(step, 200, 0.51234, 0.6, 345.6, left)


def test_plain_lines_elsewhere_not_too_often_and_the_last_one_always(display_class: Any) -> None:
    out = StringIO()
    with display_class(Console(file=out, width=200), 200, seconds=60.0) as display:
        for step in (10, 20, 30, 200):
            display(at(step, 3723.0))
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["10/200", "200/200"]
    assert "loss 0.5123  held out 0.6000  346 images/s  1:02:03 left" in lines[0]


def test_the_error_heads_likelihood_is_shown_where_there_is_one(display_class: Any) -> None:
    out = StringIO()
    with display_class(Console(file=out, width=200), 200) as display:
        display(Progress(200, 200, 0.5, 0.6, 345.6, 0.0, -1.25))
    assert "held out 0.6000  error nll -1.250  346 images/s" in out.getvalue()


def lines(display_class: Any, *progress: Progress) -> list[str]:
    out = StringIO()
    with display_class(Console(file=out, width=200), 200, seconds=0.0) as display:
        for each in progress:
            display(each)
    return out.getvalue().splitlines()


def test_memory_use_and_skipped_steps_are_shown_where_known(display_class: Any) -> None:
    (line,) = lines(
        display_class, Progress(200, 200, 0.5, 0.6, 345.6, 61.0, skipped=3, memory=12_340_000_000, mfu=0.416)
    )
    assert line.endswith("held out 0.6000  3 skipped  346 images/s  42% MFU  12.3 GB  1:01 left")


def test_the_gradients_norm_is_shown_where_it_is_abnormal(display_class: Any) -> None:
    norms = [2.0, 1.0, 1.5, 1.2, 9.0, 1.0, math.inf, math.nan, 4.0]
    shown = lines(
        display_class, *(Progress(k, 200, 0.5, 0.6, 345.6, 61.0, grad_norm=norm) for k, norm in enumerate(norms))
    )
    found = [re.findall(r"gradient norm (\S+)", line) for line in shown]
    assert found == [[], [], [], [], ["9"], [], ["inf"], ["nan"], []]


def test_a_norm_that_stays_large_becomes_usual(display_class: Any) -> None:
    norms = [1.0] * 30 + [10.0] * 20
    shown = lines(
        display_class, *(Progress(k, 200, 0.5, 0.6, 345.6, 61.0, grad_norm=norm) for k, norm in enumerate(norms))
    )
    assert "gradient norm 10" in shown[30]
    assert "gradient" not in shown[-1]


def test_a_bar_on_a_terminal(display_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = StringIO()
    with display_class(Console(file=out, width=120, force_terminal=True), 200) as display:
        display(at(100, 65.0))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "step 100/200" in text
    assert "1:05 left" in text
    assert "━" in text


def test_a_report_without_a_pace_is_shown(display_class: Any) -> None:
    """The first of a run that goes on, if a signal came before it."""
    out = StringIO()
    with display_class(Console(file=out, width=200), 200) as display:
        display(Progress(10, 100, 0.5, 0.4, 0.0, math.nan))
    assert out.getvalue() == "step 10/100  loss 0.5000  held out 0.4000  ? left\n"


def test_the_bar_is_there_before_the_first_report(display_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = StringIO()
    with display_class(Console(file=out, width=120, force_terminal=True), 200):
        pass
    assert "measuring …" in out.getvalue()
    assert "step 0/200" in out.getvalue()
