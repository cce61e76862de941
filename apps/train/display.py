"""How far training is: a live bar on a terminal, plain lines elsewhere."""

import math
import statistics
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn

from apd_train import Progress

ABNORMAL = 5.0
"""A gradient norm this many times the median of the last reports is shown."""


class Display:
    """Shows :class:`apd_train.Progress`, one object for one run.

    The norm of the gradient is shown where it is abnormal, skipped steps where there are any.

    Args:
        steps: of the run.
        seconds: at least this much time between plain lines.
    """

    def __init__(self, console: Console, steps: int, seconds: float = 15.0) -> None:
        self._console, self._seconds = console, seconds
        self._printed = -float("inf")
        self._norms: deque[float] = deque(maxlen=20)
        self._bar = Bar(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        # There before the first report: a large model takes its time for the first evaluation and the first steps.
        self._task = self._bar.add_task("train", total=steps, numbers="measuring …")

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        numbers = "  ".join(self._numbers(progress))
        if self._console.is_terminal:
            self._bar.update(self._task, completed=progress.step, numbers=numbers)
        elif progress.step == progress.steps or time.monotonic() - self._printed >= self._seconds:
            self._printed = time.monotonic()
            self._console.print(f"step {progress.step}/{progress.steps}  {numbers}", highlight=False)

    def _numbers(self, progress: Progress) -> list[str]:
        shown = [f"loss {progress.loss:.4f}", f"held out {progress.heldout_loss:.4f}"]
        if progress.error_nll is not None:
            shown.append(f"error nll {progress.error_nll:.3f}")
        if self._abnormal(progress.grad_norm):
            shown.append(f"gradient norm {progress.grad_norm:.3g}")
        if progress.skipped:
            shown.append(f"{progress.skipped} skipped")
        if progress.images_per_second:
            shown.append(f"{progress.images_per_second:.0f} images/s")
        if progress.mfu is not None:
            shown.append(f"{progress.mfu:.0%} MFU")
        if progress.memory:
            shown.append(f"{progress.memory / 1e9:.1f} GB")
        return [*shown, f"{_clock(progress.seconds_left)} left"]

    def _abnormal(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return True
        self._norms.append(norm)
        return norm > ABNORMAL * statistics.median(self._norms)


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):  # the first report of a run that goes on has no pace yet
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
