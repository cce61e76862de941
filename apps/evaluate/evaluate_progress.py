"""How far something is: a live line on a terminal, a plain one now and then elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

BETWEEN_LINES = 15.0
"""Seconds, where there is no terminal."""


@contextlib.contextmanager
def telling(console: Console, what: str, unit: str) -> Iterator[Callable[[float, int], None]]:
    """Gives what is to be called with how many are done and how many there are.

    Args:
        unit: what is counted, ``"image"``.
    """
    start = printed = time.monotonic()
    with console.status(f"{what} …") as status:

        def tell(done: float, total: int) -> None:
            nonlocal printed
            now = time.monotonic()
            left = f", {_clock((now - start) * (total - done) / done)} left" if done else ""
            text = f"{what}: {unit} {int(done)} of {total}{left}"
            status.update(text)
            if not console.is_terminal and now - printed >= BETWEEN_LINES:
                printed = now
                console.print(text)

        yield tell


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
