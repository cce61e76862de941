"""Tensors in files, each process its share, by torch.distributed.checkpoint in safetensors: nothing is pickled."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors and waits until they are on the disk. All processes call this; the folder is there.

    A process writes the shards that it holds of a DTensor, and of tensors that all processes hold its share.
    """
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _plainly():
        dcp.save({**tensors}, storage_writer=writer)


def read_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fills tensors in place, however many processes wrote them and whatever they held. All processes call this."""
    with _plainly():
        dcp.load({**tensors}, storage_reader=dcp.HuggingFaceStorageReader(str(folder)))


def misfit(folder: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """How what the files hold differs from these tensors in names, shapes or number formats, or is incomplete.

    Says so of the first tensor that differs. None if the files hold exactly these.
    """
    found = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        there = found.get(name)
        if not isinstance(there, TensorStorageMetadata):
            return f"it holds no {name}"
        if there.size != tensor.shape:
            return f"{name} is {_text(there.size)} there and {_text(tensor.shape)} here"
        if there.properties.dtype != tensor.dtype:
            return f"{name} is {there.properties.dtype} there and {tensor.dtype} here"
        if sum(math.prod(chunk.sizes) for chunk in there.chunks) != tensor.numel():
            return f"it holds only a part of {name}"
    strange = next((name for name in found if name not in tensors), None)
    return None if strange is None else f"it holds {strange}, which is not here"


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """No warning that there is one process, and failures as they were on the first process that had one."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except dcp.CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
        raise min(failures, key=lambda failure: isinstance(failure, Exception)) from None  # an interrupt before all


def _text(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a number"
