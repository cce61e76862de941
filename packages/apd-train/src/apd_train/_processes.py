"""Work that succeeds on all processes of a run, or fails on all."""

from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch.distributed as dist

T = TypeVar("T")


class ElsewhereError(RuntimeError):
    """Something failed on some process; the message is one line."""


def rank() -> int:
    """Which process this is; 0 where there is one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def everywhere(act: Callable[[], T]) -> list[T]:
    """What ``act`` gives on each process, by rank. All processes call this.

    Raises:
        ElsewhereError: on all processes alike, if it failed on one; the first failure by rank.
    """
    result: list[T] = []
    failure = None
    try:
        result = [act()]
    except Exception as error:
        failure = error
    # Texts, since not every exception survives pickling.
    mine = (result, "" if failure is None else _one_line(failure))
    outcomes = [mine] * world_size()
    if world_size() > 1:
        dist.all_gather_object(outcomes, mine)
    for _, problem in outcomes:
        if problem:
            raise ElsewhereError(problem) from failure
    return [value for values, _ in outcomes for value in values]


def fail_together(failure: Exception | None) -> NoReturn:
    """Ends work on all processes, one of which cannot go on. All processes call this.

    Raises:
        Exception: the failure, on the process that has it.
        ElsewhereError: on the others, with its text.
    """

    def act() -> None:
        if failure is not None:
            raise failure

    try:
        everywhere(act)
    except ElsewhereError as error:
        raise failure if failure is not None else error from None
    raise AssertionError("no process has failed")


def first_only(act: Callable[[], T]) -> T:
    """What ``act`` gives on the first process, on all of them. All processes call this.

    Raises:
        ElsewhereError: on all processes alike, if it failed.
    """
    result = everywhere(lambda: [act()] if rank() == 0 else [])
    return result[0][0]


def together(act: Callable[[], T]) -> T:
    """What ``act`` gives on the first process, on all of them. All processes call this.

    Raises:
        Exception: its failure, on the first process.
        ElsewhereError: on the others, with its text.
    """
    try:
        return first_only(act)
    except ElsewhereError as error:
        raise error.__cause__ or error from None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
