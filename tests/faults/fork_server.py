"""Runs `apps/train` again and again in processes forked from this one, which has imported everything: a start takes
tenths of a second instead of seconds. Reads one JSON object a line, see `starts.py`; started as a script.
"""

import atexit
import contextlib
import io
import itertools
import json
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # nothing here may start a thread before the fork
sys.path.insert(0, str(Path(__file__).parents[2] / "apps" / "train"))

import torch
import tyro
from options import Options
from recipes import RECIPES, Given

import apd_train.showcase
from apd_train import TrainConfig, _fit
from apd_train._data import _reading
from apd_train._guard import Guard

APP = Path(sys.path[0])


def tiny() -> TrainConfig:
    """Images of 8×8 and a transformer of one block: a step takes milliseconds."""
    layout = "a folder of images"
    small = {"patch": 4, "width": 16, "depth": 1, "heads": 2, "held_out": 8, "log_every": 2, "evaluate_every": 5}
    return TrainConfig(data=Given(layout), image_size=8, batch_size=4, **small)  # pyrefly: ignore


def dies_at(number: int) -> None:
    """SIGKILL just before the n-th change to the file system, counted from 0."""

    def on_change(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _at_changes(on_change)


def counts(_: int) -> None:
    """Says at the end on stderr how many changes to the file system there were."""
    counted = [0]

    def on_change(count: int) -> None:
        counted[0] = count + 1

    _at_changes(on_change)
    atexit.register(lambda: print(counted[0], file=sys.stderr))


def _at_changes(on_change: Callable[[int], None]) -> None:
    """Calls this before each change, with the number of those before."""
    numbers = itertools.count()

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            on_change(next(numbers))
            return call(*args, **options)

        return act

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "ftruncate"):
        setattr(os, name, watched(getattr(os, name)))


def dies_at_step(step: int) -> None:
    """SIGKILL when so many steps are done, in the next one."""
    _in_step(step + 1, lambda: os.kill(os.getpid(), signal.SIGKILL))


def hangs_at_step(step: int) -> None:
    """Says so on stderr when so many steps are done, and does nothing for a minute."""

    def hang() -> None:
        print("hanging", file=sys.stderr, flush=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:  # a signal would end one long sleep
            time.sleep(0.01)

    _in_step(step + 1, hang)


def _in_step(step: int, act: Callable[[], None]) -> None:
    judge = Guard.next

    def instead(guard: Guard, at: int, norms: Sequence[float]) -> Guard:
        if at == step:
            act()
        return judge(guard, at, norms)

    Guard.next = instead  # pyrefly: ignore


def clock_at(year: int) -> None:
    """What the wall clock says from now on; the monotonic clocks go on."""
    start, now = datetime(year, 2, 29 if year % 4 == 0 else 28, 23, 59, 59, tzinfo=UTC).timestamp(), time.time()
    true = time.time
    time.time = lambda: start + true() - now


def full_at_step(step: int) -> None:
    """Fills the disk of the folder that the run was started in, when so many steps are done."""
    _in_step(step + 1, _fill)


def full_at_model(number: int) -> None:
    """Fills it just before the model's folder is written for the n-th time, counted from 1."""
    calls, write = itertools.count(1), _fit.save_pretrained

    def instead(*args: Any) -> None:
        if next(calls) == number:
            _fill()
        write(*args)

    _fit.save_pretrained = instead  # pyrefly: ignore


def full_at_pictures(_: int) -> None:
    """Fills it just before the pictures at the end."""
    draw = apd_train.showcase.showcase

    def instead(*args: Any) -> None:
        _fill()
        draw(*args)

    apd_train.showcase.showcase = instead  # pyrefly: ignore


def _fill() -> None:
    with open("ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def stdout_encoding(name: str) -> None:
    """As another locale has it."""
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding=name)


def memory_limit(size: int) -> None:
    """Images that need more than so many bytes are read when they are needed."""
    _reading.MEMORY_LIMIT = size


FAULTS: dict[str, Callable[[Any], None]] = {
    each.__name__: each
    for each in (
        *(dies_at, counts, dies_at_step, hangs_at_step, clock_at, stdout_encoding, memory_limit),
        *(full_at_step, full_at_model, full_at_pictures),
    )
}


def child(order: dict[str, Any]) -> None:
    """Becomes `apps/train`; does not return."""
    os.setpgid(0, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environment"])
    time.tzset()
    os.chdir(order["folder"])
    if not order["pictures"]:
        apd_train.showcase.showcase = lambda *args: None  # pyrefly: ignore
    for name, number in order["faults"].items():
        FAULTS[name](number)
    sys.argv = [str(APP), *order["arguments"]]
    torch.set_num_threads(1)
    status = 0
    try:
        runpy.run_path(str(APP), run_name="__main__")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # to take down what was forked would cost more than a short run


def serve() -> None:
    RECIPES["tiny"] = tiny
    tyro.cli(Options, args=[])  # imports more
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            child(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
