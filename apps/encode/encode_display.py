"""How far encoding is: a live bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn


class Display:
    """Shows how many images are encoded, how fast, and the time left.

    Args:
        what: is counted.
        seconds: at least this much time between plain lines.
    """

    def __init__(self, console: Console, what: str = "images", seconds: float = 15.0) -> None:
        self._console, self._what, self._seconds = console, what, seconds
        self._start = self._printed = time.monotonic()
        self._bar = Bar(
            TextColumn(what),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None, said="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        said = f"{done / seconds:.1f} {self._what}/s  {_clock(seconds * (total - done) / done)} left"
        self._bar.update(self._task, completed=done, total=total, said=said)
        if not self._console.is_terminal and time.monotonic() - self._printed >= self._seconds:
            self._printed = time.monotonic()
            self._console.print(f"{self._what} {done}/{total}  {said}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
