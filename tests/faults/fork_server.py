"""Runs `apps/train` again and again in processes forked from this one, which has imported everything: a start takes
tenths of a second instead of seconds. Reads one JSON object a line, see `starts.py`; started as a script.
"""

import atexit
import json
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # nothing here may start a thread before the fork
APP = Path(__file__).parents[2] / "apps" / "train"
sys.path.insert(0, str(APP))

import torch
import tyro
from options import Options
from recipes import RECIPES, Given

import apd_train.showcase
from apd_train import TrainConfig


def tiny() -> TrainConfig:
    """Images of 8×8 and a transformer of one block: a step takes milliseconds."""
    layout = "a folder of images"
    small = {"patch": 4, "width": 16, "depth": 1, "heads": 2, "held_out": 8, "log_every": 2, "evaluate_every": 5}
    return TrainConfig(data=Given(layout), image_size=8, batch_size=4, **small)  # pyrefly: ignore


def dies_at(number: int) -> None:
    """SIGKILL just before the n-th change to the file system, counted from 0."""
    calls = iter(range(number + 1))

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return act

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "truncate"):
        setattr(os, name, watched(getattr(os, name)))


def clock_at(year: int) -> None:
    """What the wall clock says from now on; the monotonic clocks go on."""
    start, now = datetime(year, 2, 29 if year % 4 == 0 else 28, 23, 59, 59, tzinfo=UTC).timestamp(), time.time()
    true = time.time
    time.time = lambda: start + true() - now


FAULTS: dict[str, Callable[[int], None]] = {"dies_at": dies_at, "clock_at": clock_at}


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
        apd_train.showcase.showcase = lambda *args: None
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
