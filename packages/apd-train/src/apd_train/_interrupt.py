"""Ctrl-C that ends a run in good order."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """While entered, the first SIGINT sets :attr:`asked`, and a second one interrupts at once as ever."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interrupt":
        self._main = threading.current_thread() is threading.main_thread()  # only there can handlers be set
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)
