"""Jobs: what a table is made of. Each is done once, in a process of its own with one thread, and its result kept."""

import hashlib
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from experiment_program import program
from experiment_setting import Setting

from apd_generate import written_aside

IN_ALL = "seconds_in_all"
"""Of what a job returns: how long it took, where that was begun before. It is no part of the result."""
PATIENCE = 30.0
"""Seconds in which training ends in good order."""


class StoppedError(RuntimeError):
    """A job was told to stop before it was done. The message is one line."""


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work whose result is kept.

    Args:
        name: unique among all jobs of a setting, with ``/`` as in a path.
        work: a function of a module, called with the setting and ``given``; returns what JSON can hold.
        given: what it is told, as JSON can hold it. A result that was kept for anything else is made anew, and so is
            one of another :func:`program`.
        needs: names of the jobs that come before. If one of them has another result, this one is made anew.
    """

    name: str
    work: Callable[..., Mapping[str, Any]]
    given: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def file(self, setting: Setting) -> Path:
        return setting.folder / "jobs" / f"{self.name}.json"


@dataclass(frozen=True, slots=True)
class Done:
    """Args:
    result: what the job returned.
    seconds: that it took.
    machine: on which it was done.
    commit: of the code, with ``+`` where files differed from it.
    fresh: it was done now, not found.
    """

    result: Mapping[str, Any]
    seconds: float
    machine: str
    commit: str
    fresh: bool = True

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.result, sort_keys=True).encode()).hexdigest()[:16]


def merged(tables: Iterable[Sequence[Job]]) -> list[Job]:
    """Jobs of several tables in their order, those that they share once.

    Raises:
        ValueError: two jobs of one name that are not the same.
    """
    found: dict[str, Job] = {}
    for job in chain.from_iterable(tables):
        if found.setdefault(job.name, job) != job:
            raise ValueError(f"there are two jobs named {job.name} that are not the same")
    return [*found.values()]


def run_jobs(
    jobs: Sequence[Job],
    setting: Setting,
    processes: int,
    commit: str,
    on_done: Callable[[Job, Done, int], None] = lambda job, done, left: None,
) -> dict[str, Done]:
    """Does the jobs that are not done yet, so many at once, in their order as far as their needs allow it.

    What is done stays done, whatever ends the others: the same call goes on from there.

    Args:
        on_done: is told of each job as it is done or found, and how many are left.

    Raises:
        ValueError: jobs of one name, or one that needs what is not among those before it.
        StoppedError: jobs were interrupted, or a process of them was ended.
    """
    known: set[str] = set()
    for job in jobs:
        program(job.work)  # as it is now, whatever becomes of the file
        if missing := [name for name in job.needs if name not in known]:
            raise ValueError(f"{job.name} needs {missing[0]}, which is no job before it")
        if job.name in known:
            raise ValueError(f"there are two jobs named {job.name}")
        known.add(job.name)
    done: dict[str, Done] = {}
    waiting, running = list(jobs), dict[Future[Done], Job]()
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin)
    try:
        while waiting or running:
            for job in [*waiting]:
                if not all(name in done for name in job.needs):
                    continue
                digests = {name: done[name].digest for name in job.needs}
                if (kept := _kept(job, setting, digests)) is not None:
                    waiting.remove(job)
                    done[job.name] = kept
                    on_done(job, kept, len(jobs) - len(done))
                elif len(running) < processes:
                    waiting.remove(job)
                    running[pool.submit(carry_out, job, setting, _said(job, digests), commit)] = job
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    done[job.name] = future.result()
                    on_done(job, done[job.name], len(jobs) - len(done))
    except BrokenProcessPool as error:
        raise StoppedError(
            "a process was ended from outside, perhaps for want of memory: the same command goes on"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return done


def carry_out(job: Job, setting: Setting, said: Mapping[str, Any], commit: str) -> Done:
    """Does one job, here, and keeps its result, with what is said of the job."""
    start = time.perf_counter()
    result = {**job.work(setting, **job.given)}
    seconds = max(time.perf_counter() - start, result.pop(IN_ALL, 0.0))
    done = Done(result, round(seconds, 3), machine(), commit)
    file = job.file(setting)
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {
        **said,
        "seconds": done.seconds,
        "machine": done.machine,
        "commit": commit,
        "result": result,
    }
    with written_aside(file) as aside:
        aside.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
    return done


def machine() -> str:
    """What computes here."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, a thread a job"


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _kept(job: Job, setting: Setting, digests: Mapping[str, str]) -> Done | None:
    """The result of an earlier run, if it is of this very job."""
    try:
        record = json.loads(job.file(setting).read_text(encoding="utf-8"))
        if any(record[name] != value for name, value in _said(job, digests).items()):
            return None
        return Done(record["result"], record["seconds"], record["machine"], record["commit"], fresh=False)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _said(job: Job, digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "job": job.name,
        "work": f"{job.work.__module__}.{job.work.__qualname__}",
        "program": program(job.work),
        "given": json.loads(json.dumps(dict(job.given))),
        "needs": dict(digests),
    }


def _begin() -> None:
    """In each process: one thread, so that no result depends on how many processes there are, and a quiet end."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would finish its job and then wait for another one for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # training keeps what it has done, all else ends here
        time.sleep(PATIENCE)
        os._exit(1)
