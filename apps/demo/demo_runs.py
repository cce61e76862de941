"""Runs of all users: one thread takes them from a queue, one after the other."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from demo_drawing import Drawn, Frame
from demo_film import Film
from demo_tasks import Task, TaskError

from apd_generate import RecipeError

State = Literal["waiting", "running", "done", "cancelled", "failed"]
ENDED = ("done", "cancelled", "failed")
LOG = logging.getLogger("uvicorn.error")


class BusyError(Exception):
    """The queue is full."""


class StoppedError(Exception):
    """Raised in a step, to end a run that is cancelled."""


@dataclass(slots=True, eq=False)
class Run:
    """What is asked, how far it is, and what came of it.

    The worker writes it and requests read it. ``state`` is written last, so what belongs to it is there.
    """

    task: Task
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: State = "waiting"
    film: Film = field(default_factory=Film)
    drawn: Drawn | None = None
    error: str = ""
    field_of_error: str = ""
    seconds: float = 0.0
    cancel: threading.Event = field(default_factory=threading.Event)
    watchers: int = 0
    last_seen: float = field(default_factory=time.monotonic)


class Runs:
    """The queue, the thread that works on it, and the runs that can still be asked for.

    Args:
        draw: makes what a task asks for, and tells of each step.
        most_waiting: runs in the queue, besides the one that is being worked on.
        unwatched: seconds after which a run that nobody looks at is cancelled.
        kept: seconds for which a run that has ended can be asked for.
        most_kept: runs that have ended; the oldest go.
    """

    def __init__(
        self,
        draw: Callable[[Task, Callable[[Frame], None]], Drawn],
        *,
        most_waiting: int = 8,
        unwatched: float = 10.0,
        kept: float = 3600.0,
        most_kept: int = 24,
    ) -> None:
        self._draw, self._most_waiting = draw, most_waiting
        self._unwatched, self._kept, self._most_kept = unwatched, kept, most_kept
        self._waiting: list[Run] = []
        self._runs: dict[str, Run] = {}
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="runs", daemon=True)
        self._thread.start()

    def add(self, task: Task) -> Run:
        """Raises:
        BusyError: too many wait.
        """
        with self._change:
            if len(self._waiting) >= self._most_waiting:
                raise BusyError(f"{len(self._waiting)} runs are waiting already: try again in a moment")
            run = Run(task)
            self._runs[run.id] = run
            self._waiting.append(run)
            self._change.notify_all()
        return run

    def find(self, id: str) -> Run | None:
        return self._runs.get(id)

    def ahead(self, run: Run) -> int:
        """Runs that come before it."""
        with self._change:
            before = self._waiting.index(run) if run in self._waiting else 0
            return before + any(each.state == "running" and each is not run for each in self._runs.values())

    def cancel(self, run: Run) -> None:
        """At once if it waits, else before its next step; nothing if it has ended."""
        run.cancel.set()
        with self._change:
            if run in self._waiting:
                self._waiting.remove(run)
                run.state = "cancelled"

    def tidy(self) -> None:
        """Cancels runs that nobody looks at and forgets old ones; called now and then."""
        now = time.monotonic()
        for run in list(self._runs.values()):
            if run.watchers:
                run.last_seen = now
            elif run.state not in ENDED and now - run.last_seen > self._unwatched:
                self.cancel(run)
        with self._change:
            ended = [run for run in self._runs.values() if run.state in ENDED and not run.watchers]
            ended.sort(key=lambda run: run.last_seen, reverse=True)
            for index, run in enumerate(ended):
                if index >= self._most_kept or now - run.last_seen > self._kept:
                    del self._runs[run.id]

    def close(self) -> None:
        """Ends the thread, within a step."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for run in list(self._runs.values()):
            self.cancel(run)
        self._thread.join(1.0)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                run = self._waiting.pop(0)
                run.state = "running"
            state = self._carry_out(run)
            run.last_seen = time.monotonic()
            run.state = state
            LOG.info("run %s… %s: %d images in %.1f s", run.id[:4], state, len(run.task.seeds), run.seconds)

    def _carry_out(self, run: Run) -> State:
        start = time.perf_counter()

        def tell(frame: Frame) -> None:
            run.seconds = time.perf_counter() - start
            run.film.add(frame)
            if run.cancel.is_set():
                raise StoppedError

        try:
            run.drawn = self._draw(run.task, tell)
        except StoppedError:
            return "cancelled"
        except (RecipeError, TaskError) as error:
            run.error, run.field_of_error = str(error), getattr(error, "field", "recipe")
        except torch.OutOfMemoryError:
            run.error = "the server's memory is not enough for that: fewer candidates need less"
        except Exception:
            LOG.exception("run %s… failed", run.id[:4])
            run.error = "the run failed; the server's log says why"
        finally:
            run.seconds = time.perf_counter() - start
        return "failed" if run.error else "done"
