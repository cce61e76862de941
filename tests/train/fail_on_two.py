"""A run of two processes, the second of which cannot read its data: ``python fail_on_two.py FOLDER``."""

import sys
from pathlib import Path

from lightning_fabric import Fabric

from apd_train import Animals28, DataError, RunFolder, TrainConfig, _loop, fit, launch, load_animals28

fabric = Fabric(accelerator="cpu", devices=2)
launch(fabric)
config = TrainConfig(data=Animals28(), image_size=28, patch=14, width=16, depth=1, heads=2, batch_size=16, steps=6)
batches = _loop.loader


def broken(of, rank: int, world: int, first: int, steps: int, *rest: object):  # noqa: ANN001, ANN201
    for step, batch in enumerate(batches(of, rank, world, first, steps, *rest)):  # pyrefly: ignore
        if rank == 1 and step == 3:
            raise DataError("the disk of this node is gone")
        yield batch


_loop.loader = broken  # pyrefly: ignore
try:
    fit(config, load_animals28().subset(range(0, 10_000, 50)), RunFolder(Path(sys.argv[1])), fabric)
except Exception as error:
    sys.stdout.write(f"rank {fabric.global_rank}: {type(error).__name__}: {error}\n")
