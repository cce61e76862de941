"""Signals that end a run in good order."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

import torch
from lightning_fabric import Fabric
from torch import distributed

from ._processes import fail_together

HEEDED = (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
"""Ctrl-C; what ``kill``, container runtimes and clusters send; what SLURM sends ahead of the time limit when asked."""


class Stopped(Exception):
    """A signal has ended work that can be left off."""


class Signals:
    """While entered, the first of :data:`HEEDED` is remembered, and another one ends the process at once.

    One press of Ctrl-C can arrive twice, from the terminal and again from the program that started this one; so can a
    cluster's signal. What follows within a second is taken for the same.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._time = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            self._before = {each: signal.signal(each, self._handle) for each in HEEDED}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked, self._time = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._time >= 1:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyrefly: ignore[bad-argument-type]
        self._before = {}

    def agreed(self, fabric: Fabric, failure: Exception | None = None) -> signal.Signals | None:
        """The signal that any process has been sent: all processes call this at the same place and get one answer.

        Args:
            failure: what keeps this process from going on, if something does.

        Raises:
            Exception: the failure, on the process that has it.
            ElsewhereError: on the others, with its text.
        """
        if fabric.world_size == 1:
            if failure is not None:
                raise failure
            return self.asked
        mine = torch.tensor([0 if self.asked is None else int(self.asked), int(failure is not None)])
        mine = mine.to(fabric.device)
        distributed.all_reduce(mine, distributed.ReduceOp.MAX)  # Fabric's would wait at a barrier before
        number, failed = mine.tolist()
        if failed:
            fail_together(failure)
        return signal.Signals(number) if number else None

    def checked(self, fabric: Fabric) -> Callable[[], bool]:
        """Whether to stop, to be asked in the middle of longer work, by all processes alike."""
        return lambda: self.agreed(fabric) is not None
