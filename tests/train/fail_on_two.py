"""A run of two processes, the second of which cannot go on: ``python fail_on_two.py FOLDER WHAT``.

WHAT is ``reading``, its data at step 3, or ``measuring``, what is held out after step 4.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning_fabric import Fabric

from apd_train import Animals28, DataError, RunFolder, TrainConfig, _fit, _loop, fit, launch, load_animals28
from apd_train._held_out import HeldOut

fabric = Fabric(accelerator="cpu", devices=2)
launch(fabric)
shape: dict[str, Any] = {"image_size": 28, "patch": 14, "width": 16, "depth": 1, "heads": 2}
config = TrainConfig(data=Animals28(), **shape, batch_size=16, steps=6, evaluate_every=4)
batches, measured = _loop.loader, _fit.HeldOutLoss.__call__


def broken(of, rank: int, world: int, first: int, steps: int, *rest: object):  # noqa: ANN001, ANN201
    for step, batch in enumerate(batches(of, rank, world, first, steps, *rest)):  # pyrefly: ignore
        if rank == 1 and step == 3:
            raise DataError("the disk of this node is gone")
        yield batch


calls: list[int] = []


def unmeasured(of: Any, model: Any, should_stop: Callable[[], bool] = lambda: False) -> HeldOut:
    calls.append(1)
    if fabric.global_rank == 1 and len(calls) == 2:
        should_stop()
        raise DataError("the disk of this node is gone")
    return measured(of, model, should_stop)


reading = patch.object(_loop, "loader", broken)
measuring = patch.object(_fit.HeldOutLoss, "__call__", unmeasured)
try:
    with reading if sys.argv[2] == "reading" else measuring:
        fit(config, load_animals28().subset(range(0, 10_000, 50)), RunFolder(Path(sys.argv[1])), fabric)
except Exception as error:
    sys.stdout.write(f"rank {fabric.global_rank}: {type(error).__name__}: {error}\n")
