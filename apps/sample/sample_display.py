"""How far drawing is: a live bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeElapsedColumn

from apd_generate import Step


class Display:
    """Shows how many images are drawn, the step that the present ones are at, and the time left.

    Args:
        images: all that are to be drawn.
        seconds: at least this much time between plain lines.
    """

    def __init__(self, console: Console, images: int, seconds: float = 15.0) -> None:
        self._console, self._images, self._seconds = console, images, seconds
        self._done = self._round = 0
        self._start = self._printed = time.monotonic()
        self._bar = Bar(
            TextColumn("images"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("draw", total=images, said="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, images: int) -> None:
        """So many are drawn next, by all processes together; the ones before are done."""
        self._done, self._round = self._done + self._round, images

    def step(self, step: Step) -> None:
        done = self._done + self._round * step.done / step.total
        seconds = time.monotonic() - self._start
        left = seconds * (self._images - done) / done if done else float("inf")
        said = f"step {step.done}/{step.total}  {_clock(left)} left"
        self._bar.update(self._task, completed=self._done, said=said)
        if not self._console.is_terminal and time.monotonic() - self._printed >= self._seconds:
            self._printed = time.monotonic()
            self._console.print(f"images {self._done}/{self._images}  {said}")


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
