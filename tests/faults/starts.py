"""Starts of `apps/train`, each a process of its own that a test can kill."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Start:
    """A run of the app, under way or over.

    Args:
        pid: of its process, which leads a group of its own.
        stdout, stderr: files.
    """

    pid: int
    stdout: Path
    stderr: Path
    _wait: Callable[[float], int]
    status: int | None = None

    @property
    def out(self) -> str:
        return self.stdout.read_text(encoding="utf-8", errors="replace")

    @property
    def err(self) -> str:
        return self.stderr.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """No more than that: it may be over already."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Its exit status; that of a signal is negative."""
        if self.status is None:
            self.status = self._wait(seconds)
        return self.status

    def until(self, seen: Callable[[], object], seconds: float = 60) -> bool:
        """Waits for something to be seen; false if the process ends before."""
        end = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < end, (self.out, self.err)
            if not os.path.exists(f"/proc/{self.pid}"):
                return False
            time.sleep(0.001)
        return True

    def children(self) -> list[int]:
        """Its processes, those that read data among them."""
        try:
            found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in found.split()]


class Starts:
    """One start after another, forked from a process that has imported everything.

    Args:
        place: for what the processes say.
    """

    def __init__(self, place: Path) -> None:
        self._place, self._count = place, 0
        self._last: Start | None = None
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._line(120) == "ready"

    def __call__(
        self,
        *arguments: object,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        pictures: bool = False,
        **faults: int | str,
    ) -> Start:
        """Starts `apps/train` with one thread.

        Args:
            folder: to start it in.
            pictures: at the end; they take longer than a tiny run. Those under way are drawn if they are asked for.
            faults: what of `fork_server.FAULTS` is to happen.
        """
        self._end()
        self._count += 1
        out, err = (self._place / f"{self._count:03d}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        order = {
            "arguments": [*map(str, arguments), "--threads", "1"],
            "folder": str(folder or self._place),
            "environment": dict(environment or {}),
            "out": str(out),
            "err": str(err),
            "pictures": pictures,
            "faults": faults,
        }
        assert self._server.stdin
        self._server.stdin.write(json.dumps(order) + "\n")
        self._last = Start(int(self._line(60)), out, err, lambda seconds: int(self._line(seconds)))
        return self._last

    def _end(self) -> None:
        """Ends what a test that failed has left running."""
        if self._last is not None:
            self._last.signal(signal.SIGKILL)
            self._last.wait()

    def close(self) -> None:
        self._end()
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(60)
        assert self._server.stdout
        self._server.stdout.close()

    def _line(self, seconds: float) -> str:
        assert self._server.stdout
        ready, _, _ = select.select([self._server.stdout], [], [], seconds)
        assert ready, f"nothing was heard for {seconds} s"
        return self._server.stdout.readline().strip()
