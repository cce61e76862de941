"""Two hundred wrong command lines, drawn with seeds over all apps: each refused in one line, with nothing written."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from app_runner import app_here

COMMANDS = 200
NO_WHOLE_NUMBER = ("ten", "1.5", "", "0x10", "1e3", "--", "½", "1 2", "nan")
NO_NUMBER = ("much", "", "1,5", "0x1p3", "--", "1..2", "ⅷ")
NO_FINITE = ("nan", "inf", "-inf", "1e999")
NO_SEEDS = ("5-2", "a", "1,,2", "1-", "-3", "1-2-3", "", str(2**70), "0-99999999999", "1;2")
RECIPE_WHOLE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("steps", "cells", "groups", "inner", "restart-steps"), (0, -1, -(2**40), 10**9)),
    "order-seed": (-1, 2**63),
    "restarts": (-1, 5000),
    "adams-order": (0, 5),
}
RECIPE_PARTS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("width", "share", "restart-share"), (0, -0.5, 1.01)),
    **dict.fromkeys(("overlap", "patience", "eta"), (-0.1, 1.5)),
    **dict.fromkeys(("guidance", "autoguidance"), (1e9, -1e9)),
    **{"active": (0.5,), "churn": (-1,), "shift": (30,)},
}
RECIPE_NAMES = ("scheduler", "order", "solver", "noise-schedule", "uncertainty")


@dataclass(frozen=True)
class App:
    """A command line that would be right, and what can be wrong with it.

    Args:
        right: flags and their values; those that must be there.
        whole: flags of whole numbers, and numbers that are out of their range.
        numbers: the same of numbers.
        names: flags of one of several names.
        others: further flags, each with values that are wrong.
    """

    right: dict[str, object]
    whole: dict[str, tuple[int, ...]]
    numbers: dict[str, tuple[float, ...]]
    names: tuple[str, ...]
    others: dict[str, tuple[object, ...]]
    positional: bool = False

    @property
    def flags(self) -> list[str]:
        return [*self.right, *self.whole, *self.numbers, *self.names, *self.others]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and folders that are there and are not what is asked for."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "empty").mkdir()
    (place / "file.txt").write_text("no model, no image\n")
    (place / "broken").mkdir()
    (place / "broken" / "config.json").write_text("{")
    (place / "named.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    Image.new("L", (28, 28), 90).save(place / "image.png")
    mask = Image.new("L", (28, 28), 0)
    mask.paste(255, (8, 8, 20, 20))
    mask.save(place / "mask.png")
    Image.new("L", (28, 28), 0).save(place / "black.png")
    return place


@pytest.fixture(scope="module")
def apps(place: Path, short_run: Path) -> dict[str, App]:
    model, out = short_run / "model", place / "out"
    no_models = (place / "none", place / "empty", place / "file.txt", place / "broken", "", "x" * 300)
    no_images = (place / "none.png", place / "file.txt", place / "named.png", place / "empty")
    no_outs = (place / "file.txt", place / "file.txt" / "below", "/proc/none/below")
    threads = {"threads": (0, -3, 10**12)}
    return {
        "train": App(
            {"out": out, "steps": 1},
            {**threads, **dict.fromkeys(("steps", "batch-size", "devices", "keep-last", "micro-batch"), (0, -1))},
            {},
            ("conditioning", "position", "strategy", "precision"),
            {"data": (*no_images, place / "none"), "size": (0, -4)},
            positional=True,
        ),
        "sample": App(
            {"model": model, "out": out},
            {**threads, **RECIPE_WHOLE, **dict.fromkeys(("batch", "processes"), (0, -1))},
            RECIPE_PARTS,
            (*RECIPE_NAMES, "film"),
            {"model": no_models, "out": no_outs, "seeds": NO_SEEDS, "class": ("unicorn", "10", "", "cat,,dog", "-1")},
        ),
        "inpaint": App(
            {"model": model, "image": place / "image.png", "mask": place / "mask.png", "out": out},
            {**threads, **RECIPE_WHOLE, **dict.fromkeys(("batch", "candidates"), (0, -1)), "dilate": (-1,)},
            {**RECIPE_PARTS, "context-level": (-0.1, 2.0)},
            (*RECIPE_NAMES, "method"),
            {
                **{"model": no_models, "image": no_images, "mask": (*no_images[:-1], place / "black.png")},
                **{"seeds": NO_SEEDS, "class": ("unicorn", "99"), "pad": ("1,2", "-1", "a", "1,2,3,4,5", "99999999")},
                "order-image": no_images,
            },
        ),
        "evaluate": App(
            {"model": model, "images": 4},
            {**threads, **dict.fromkeys(("images", "batch", "candidates", "path-cells"), (0, -1)), "points": (1, 0)},
            {"path-width": (0.0, 1.5), "clean": (-99.0, 99.0), "noise": (99.0,)},
            ("metric", "path", "masks", "extractor"),
            {"model": no_models[:4], "data": no_images, "samples": no_images, "reference": no_images},
        ),
        "demo": App(
            {"model": model},
            {**threads, "port": (-1, 70_000)},
            {},
            (),
            {"model": no_models, "host": ("not a host", "256.1.1.1.1", "")},
        ),
        "convert": App(
            {"from": place / "file.txt", "as": "dit", "out": out},
            {"heads": (0, -1)},
            {},
            ("as",),
            {"from": no_models[:4], "names": (place / "none",)},
        ),
        "average": App(
            {"run": short_run, "sigma-rel": 0.1, "out": out},
            {"step": (-1, 0)},
            {"sigma-rel": (0.0, -0.1, 0.5)},
            (),
            {"run": no_models},
        ),
    }


def wrong_flag(app: App, draw: random.Random) -> list[str]:
    """One that there is not: two letters changed places, or none that is known."""
    letters = [*draw.choice(app.flags)]
    at = draw.randrange(len(letters) - 1)
    letters[at], letters[at + 1] = letters[at + 1], letters[at]
    name = "".join(letters)
    return [f"--{name if name not in app.flags else name + 'z'}", *draw.choice([[], ["3"]])]


def no_value(app: App, draw: random.Random) -> list[str]:
    return [f"--{draw.choice([*app.right, *app.whole, *app.numbers, *app.names])}"]


def no_number(app: App, draw: random.Random) -> list[str]:
    name = draw.choice([*app.whole, *app.numbers])
    texts = NO_WHOLE_NUMBER if name in app.whole else (*NO_NUMBER, *NO_FINITE)
    return [f"--{name}", draw.choice(texts)]


def out_of_range(app: App, draw: random.Random) -> list[str]:
    name, numbers = draw.choice([*app.whole.items(), *app.numbers.items()])
    return [f"--{name}", str(draw.choice(numbers))]


def no_such_name(app: App, draw: random.Random) -> list[str]:
    if not app.names:
        return wrong_flag(app, draw)
    return [f"--{draw.choice(app.names)}", draw.choice(["", "rastre", "SYNCHRONOUS", "none", "0", "ddim,heun", "'"])]


def wrong_value(app: App, draw: random.Random) -> list[str]:
    name, values = draw.choice([*app.others.items()])
    return [f"--{name}", str(draw.choice(values))]


def stray(app: App, draw: random.Random) -> list[str]:
    return [draw.choice(["animals99", "model", "-x", "…", "a b"])]


WAYS: tuple[Callable[[App, random.Random], list[str]], ...] = (
    *(wrong_flag, no_value, no_number, out_of_range, no_such_name, wrong_value, stray),
)


def wrong_line(app: App, draw: random.Random) -> list[str]:
    """A right command line with one thing wrong in it, or one that lacks what it needs."""
    required = [name for name in app.right if name not in ("steps", "images")]
    if draw.random() < 0.1:
        left_out = draw.choice(required)
        if left_out not in ("mask", "model") or len(required) > 2:
            kept = [name for name in app.right if name not in (left_out, "mask")]
            if not (app.positional or left_out == "mask"):
                return [part for name in kept for part in (f"--{name}", str(app.right[name]))]
    wrong = draw.choice(WAYS)(app, draw)
    named = wrong[0].removeprefix("--")
    right = [part for name, value in app.right.items() if name != named for part in (f"--{name}", str(value))]
    return [*wrong, *right] if draw.random() < 0.5 and len(wrong) == 2 else [*right, *wrong]


def everything_below(place: Path) -> dict[Path, tuple[int, int]]:
    found = {file: file.stat() for file in place.rglob("*")}
    return {file: (of.st_size, of.st_mtime_ns) for file, of in found.items()}


@pytest.mark.parametrize("part", range(4))
def test_each_is_refused_in_one_line_and_writes_nothing(
    part: int, apps: dict[str, App], place: Path, short_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = everything_below(place), everything_below(short_run)
    for number in range(part * COMMANDS // 4, (part + 1) * COMMANDS // 4):
        draw = random.Random(number)
        name = [*apps][number % len(apps)]
        line = wrong_line(apps[name], draw)
        done = app_here(name, *line)
        said = f"{number}: apps/{name} {line} → {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.returncode == 2, said
        assert done.stderr.startswith(f"apps/{name}: "), said
        assert len(done.stderr.splitlines()) == 1, said
        assert 20 < len(done.stderr) < 1500, said
        assert "Traceback" not in done.stdout + done.stderr, said
        assert not re.search("[─│]|---|helptext", done.stderr), said
        assert (everything_below(place), everything_below(short_run)) == before, said
