"""One of two processes that read, write and lose checkpoints together: ``checkpoint_on_two.py RANK FOLDER``."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from apd_train import _checkpoint
from apd_train._averages import Ema
from apd_train._checkpoint import CheckpointError, Checkpoints
from apd_train._model import make_optimizers
from apd_train._shards import write_tensors
from apd_train._state import RunState
from apd_train._step import LossModule
from run_states import CONFIG, learn, some_model, some_state

RANK = int(sys.argv[1])
FOLDER = Path(sys.argv[2])
STEPS = 3


def copied(seed: int) -> RunState:
    model = some_model(seed)
    return RunState(DistributedDataParallel(LossModule(model)), make_optimizers(CONFIG, model), Ema(model, (0.05, 0.1)))


def divided(seed: int) -> RunState:
    model, mesh = some_model(seed), init_device_mesh("cpu", (2,))
    for block in model.blocks:
        assert isinstance(block, nn.Module)
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return RunState(LossModule(model), make_optimizers(CONFIG, model), Ema(model, (0.05, 0.1)))


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check(what: str, good: bool) -> None:
    if not good:
        raise AssertionError(what)
    sys.stdout.write(f"{RANK} {what}\n")


def same(state: RunState, expected: RunState) -> bool:
    a, b = state.tensors(), expected.tensors()
    return a.keys() == b.keys() and all(torch.equal(whole(a[name]), b[name]) for name in b)


def take(checkpoints: Checkpoints, state: RunState) -> list[str]:
    """Goes on from the newest; says what was passed over."""
    said: list[str] = []
    found = checkpoints.newest(said.append)
    assert found
    checkpoints.load(found, state.tensors())
    state.set_facts(found.facts)
    return said


def failure(act: Callable[[], Any], where: AbstractContextManager[Any]) -> str:
    with where:
        try:
            act()
        except CheckpointError as error:
            return str(error)
    raise AssertionError("nothing was raised")


def main() -> None:
    dist.init_process_group("gloo", init_method=f"file://{FOLDER / 'meeting'}", rank=RANK, world_size=2)
    expected = some_state(0)
    learn(expected, range(STEPS))
    for name, make in (("copied", copied), ("divided", divided)):
        state = make(1)
        said = take(Checkpoints(FOLDER / "one"), state)
        check(f"{name} reads one", not said and same(state, expected) and state.ema.steps == STEPS)
        Checkpoints(FOLDER / name).save(STEPS, state.tensors(), state.facts())
    for written, make in (("divided", copied), ("copied", divided)):
        state = make(2)
        take(Checkpoints(FOLDER / written), state)
        check(f"{make.__name__} reads {written}", same(state, expected))

    state = divided(1)
    shards = [tensor for tensor in state.tensors().values() if isinstance(tensor, DTensor)]
    check("parts are held", any(tensor.to_local().numel() < tensor.numel() for tensor in shards))
    assert isinstance(state.model, LossModule)
    assert isinstance(state.model.model, FSDPModule)
    state.model.model.unshard()  # as it is after an evaluation
    again = state.tensors().values()
    check("parts are held after an evaluation", sum(isinstance(tensor, DTensor) for tensor in again) == len(shards))

    # What fails on one process fails on both, with the same words, and leaves nothing behind.
    checkpoints = Checkpoints(FOLDER / "divided")
    full = mock.patch.object(torch.distributed.checkpoint.HuggingFaceStorageWriter, "write_data", side_effect=no_space)
    name = mock.patch.object(_checkpoint, "rename_folder", side_effect=no_space)
    lost = mock.patch.object(_checkpoint, "write_tensors", side_effect=write_and_lose)
    for number, (what, patch) in enumerate([("writing", full), ("renaming", name), ("a file", lost)]):
        where = patch if number != 0 or RANK == 1 else nullcontext()
        message = failure(lambda: checkpoints.save(4, state.tensors(), {}), where)
        texts: list[str] = [""] * 2
        dist.all_gather_object(texts, message)
        dist.barrier()
        left = sorted(path.name for path in checkpoints.folder.iterdir())
        right = (
            "what was written is not there: it holds only a part of model/"
            if what == "a file"
            else "No space left on device"
        )
        dist.barrier()
        check(f"{what} fails", texts[0] == texts[1] and right in message and left == ["LATEST", "step-00000003"])

    # Damage to what the second process wrote is seen by both and told by the first.
    checkpoints.save(4, state.tensors(), {})
    if RANK == 0:
        shard = checkpoints.folder / "step-00000004" / "shard-00002-model-00001-of-00001.safetensors"
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    dist.barrier()
    said = take(checkpoints, state)
    told = len(said) == 1 and "shard-00002-model-00001-of-00001.safetensors is damaged" in said[0]
    check("damage is seen", same(state, expected) and (told if RANK == 0 else not said))

    other = {**state.tensors(), "model/new": torch.zeros(2)}
    found = checkpoints.newest()
    assert found
    message = failure(lambda: checkpoints.load(found, other), nullcontext())
    check("another model is refused", "it holds no model/new" in message)
    dist.destroy_process_group()


def no_space(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_and_lose(folder: Path, tensors: dict[str, Tensor]) -> None:
    """As a file system does that forgets what the first process wrote."""
    write_tensors(folder, tensors)
    if RANK == 0:
        for file in folder.glob("shard-00001-*"):
            file.unlink()


main()
