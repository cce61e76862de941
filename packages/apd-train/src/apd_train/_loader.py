"""Batches ahead of time, in processes of their own."""

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ._data import DataError
from ._data._image_set import warn_unreadable


@runtime_checkable
class StepBatch(Protocol):
    """What a step is of: :class:`Batch`, :class:`ImageBatch`."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the network with its losses takes; samples along the first axis."""
        ...

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of images that others stand in for, each with the reason."""
        ...


B = TypeVar("B", bound=StepBatch)
BatchSource = Callable[[int, int, int], B]
"""(step, rank, world) to this process's share of the step's batch; a function of these alone."""


@dataclass(frozen=True, slots=True)
class _Steps(Generic[B]):
    """One process' share of each step. A fault travels as what it is: raised in a worker, it would come as a trace."""

    batches: BatchSource[B]
    rank: int
    world: int

    def __getitem__(self, step: int) -> B | ValueError:
        try:
            return self.batches(step, self.rank, self.world)
        except ValueError as error:
            return error


def loader(
    batches: BatchSource[B],
    rank: int = 0,
    world: int = 1,
    first_step: int = 0,
    steps: int = 1,
    workers: int = 0,
    pin: bool = False,
    on_unreadable: Callable[[str], None] = warn_unreadable,
) -> Generator[B, None, None]:
    """The batches of the steps from ``first_step`` to ``steps - 1``, in order.

    A batch is a function of its step, so this has no state: to resume is to start at another step, and the number of
    workers changes nothing. Workers leave signals to the process that started them. They end when the iterator is
    closed or forgotten.

    Args:
        first_step, steps: counted from 0; the first step and the one after the last.
        workers: processes that compute batches ahead, two each; with none, this process computes each when asked.
        pin: put batches into page-locked memory, for a GPU.
        on_unreadable: gets the name of each image that another stood in for, with the reason, once.

    Raises:
        DataError: as ``batches`` and the images raise it, also in a worker; or a worker died.
    """
    told: set[str] = set()
    ahead = iter(
        DataLoader(
            _Steps(batches, rank, world),  # pyrefly: ignore [bad-argument-type]
            batch_size=None,
            sampler=range(first_step, steps),
            num_workers=workers,
            pin_memory=pin,
            worker_init_fn=_leave_signals if workers else None,
            multiprocessing_context="fork" if workers else None,  # what is drawn from are functions within functions
            generator=torch.Generator(),  # else torch's global one would be drawn from
        )
    )
    if workers and threading.current_thread() is threading.main_thread():
        # The DataLoader's own handler raises wherever this process happens to be, in the midst of a checkpoint perhaps.
        # Without it, who waits for a batch finds out within seconds.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        for _ in range(first_step, steps):
            batch = _of_worker(ahead)
            if isinstance(batch, ValueError):
                raise batch
            for problem in batch.unreadable:
                if problem not in told:
                    told.add(problem)
                    on_unreadable(problem)
            yield batch
    finally:
        del ahead  # ends the workers


def _of_worker(ahead: Iterator[B | ValueError]) -> B | ValueError:
    try:
        try:
            return next(ahead)
        except (ConnectionError, EOFError):
            raise RuntimeError("a DataLoader worker ended while it handed over a batch") from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0].rstrip(". ")
        return DataError(f"a process that reads data died, perhaps of too little memory: {reason}")


def _leave_signals(worker: int) -> None:
    """A signal to the whole group asks the process that trains to end in good order; it still needs batches."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
