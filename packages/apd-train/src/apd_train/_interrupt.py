"""Ctrl-C that ends a run in good order."""

import signal
import threading
import time
from types import FrameType, TracebackType


class Interrupt:
    """While entered, the first SIGINT sets :attr:`asked`, and another one, a second or more later, interrupts at once.

    One press of Ctrl-C can arrive twice: from the terminal, and again from the program that started this one.
    """

    def __init__(self) -> None:
        self.asked = False
        self._time = 0.0

    def __enter__(self) -> "Interrupt":
        self._main = threading.current_thread() is threading.main_thread()  # only there can handlers be set
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self._time >= 1:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._time = True, time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)
