"""What the command-line apps share. Needs tyro (``apd-train[apps]``)."""

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import tyro

from apd_generate import ChoiceError, ImageError, RecipeError
from apd_models import CodecError, ModelFolderError

from ._checkpoint import CheckpointError
from ._config import ConfigError
from ._data import DataError
from ._guard import DivergedError
from ._loop import DataLostError
from ._processes import ElsewhereError
from ._run_folder import RunFolderError, WriteError
from ._snapshots import SnapshotError
from .flags import flags_of

O = TypeVar("O")  # noqa: E741


class UsageError(ValueError):
    """A command that cannot be carried out as given. The message is one line and says what would be right."""


MOST_THREADS = 1024
NO_MEMORY = "the device has not enough memory: smaller batches need less, and see --help for more"
FAILURES = (DivergedError, CheckpointError, SnapshotError, WriteError, DataLostError, ElsewhereError)
USER_ERRORS = (
    *(UsageError, ConfigError, DataError, ModelFolderError, RunFolderError),
    *(ChoiceError, CodecError, ImageError, RecipeError),
)


def run_app(
    program: str,
    options: type[O],
    run: Callable[[O], None],
    description: str,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parses the command line into ``options`` and runs the app.

    What the user got wrong ends the process with one line on stderr and status 2; a run that diverged, or that could
    not write a checkpoint, with status 1; an interrupt with status 130. Anything else is a defect and shows its
    traceback.

    Args:
        program: as it is called, for messages: ``"apps/train"``.
        options: a dataclass; the docstrings of its fields are what ``--help`` says of them.
        description: what ``--help`` says of the app.
        arguments: by default ``sys.argv[1:]``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # of a terminal that lacks a letter
    parsed = _parse(program, options, description, arguments)
    threads = getattr(parsed, "threads", None)
    if threads is not None and threads > MOST_THREADS:
        _fail(program, f"--threads must be at most {MOST_THREADS}, got {threads}", 2)
    try:
        run(parsed)
    except USER_ERRORS as error:
        _fail(program, str(error), 2)
    except FAILURES as error:
        _fail(program, str(error), 1)
    except (torch.OutOfMemoryError, MemoryError):
        _fail(program, NO_MEMORY, 1)
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        _fail(program, NO_MEMORY, 1)
    except KeyboardInterrupt:
        _fail(program, "interrupted", 130)


def _parse(program: str, options: type[O], description: str, arguments: Sequence[str] | None) -> O:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                flags_of(options),
                prog=program,
                description=description,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if stop.code:
            _fail(program, _one_line(complaint.getvalue()), 2)
        raise


def _one_line(box: str) -> str:
    """The message inside the frame that tyro draws, without the frame and without its hints on ``--help``.

    Under a title, between rules; of hyphens and without sides where the terminal has no line drawing.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    kept: list[str] = []
    for line in text.splitlines()[1:]:
        line = line.strip("│╭╮╰╯ ")
        if line and not set(line) - set("─-"):
            if kept:
                break
        elif line:
            kept.append(line)
    message = " ".join(" ".join(kept).split())
    # tyro lists the choices of an option that may be left out in no order, and None, which cannot be said, among them.
    named = lambda found: "one of " + ", ".join(sorted(set(re.findall(r"'([^']*)'", found[1])) - {"None"}))
    return re.sub(r"one of \(([^)]*)\)", named, message) + " (see --help)"


def _fail(program: str, message: str, status: int) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes, which all fail alike, one speaks
        print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    elif "TORCHELASTIC_RUN_ID" not in os.environ:
        time.sleep(5)  # Fabric's first process kills all, itself too, once another one has ended: let it end by itself
    sys.stdout.flush()
    raise SystemExit(status)
