"""Processes and devices: from one CPU to several nodes, with the model copied (DDP) or divided among them (FSDP2)."""

import os
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from ._config import ConfigError
from ._step import LossModule

Precision = Literal["auto", "32-true", "bf16-mixed"]
Parallel = Literal["auto", "ddp", "fsdp"]


def make_fabric(devices: int | None = None, strategy: Parallel = "auto", precision: Precision = "auto") -> Fabric:
    """The processes of a run, not launched yet: see :func:`launch`.

    Under torchrun or SLURM's srun there are as many as these have started, on as many nodes; otherwise ``devices`` of
    them are started on this machine. GPUs are used where there are any.

    Args:
        devices: processes on this node, one a GPU or, without GPUs, CPU processes; by default what the launcher says,
            or 1. If it is given it must agree with the launcher.
        strategy: ``"ddp"`` gives each process the whole model; ``"fsdp"`` divides weights, gradients and optimizer
            state among the processes and gathers the weights of a block when they are needed (FSDP2), for models that
            do not fit otherwise; ``"auto"`` is ``"ddp"``. None of it changes what is learned, but for rounding.
        precision: ``"bf16-mixed"`` does the products in bfloat16 and keeps weights, norms, losses and averages in
            float32; ``"auto"`` is that on a GPU that has it, otherwise ``"32-true"``.

    Raises:
        ConfigError: more devices than there are, another number than the launcher's, one process to divide the model
            among.
    """
    on_gpu = torch.cuda.is_available()
    if devices is not None and devices < 1:
        raise ConfigError(f"devices must be at least 1, got {devices}")
    launcher, local, nodes = _launched() or (None, devices or 1, 1)
    if devices not in (None, local):
        raise ConfigError(
            f"devices is {devices}, and {launcher} has started {local} processes on each node: leave the number to "
            f"{launcher}"
        )
    if on_gpu and local > torch.cuda.device_count():
        raise ConfigError(
            f"devices is {local}, and {torch.cuda.device_count()} GPUs are there to be used: take so many at most"
        )
    world = local * nodes
    if strategy == "fsdp" and world == 1:
        raise ConfigError("fsdp divides the model among processes and there is one: take more devices, or auto")
    if precision == "auto":
        precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=local,
        num_nodes=nodes,
        strategy=_strategy(strategy, world),
        precision=precision,
    )


def local_batch(batch_size: int, world: int) -> int:
    """Samples of each process.

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """
    if batch_size % world:
        below, above = batch_size // world * world, -(-batch_size // world) * world
        raise ConfigError(
            f"batch_size {batch_size} cannot be divided among {world} devices: choose a multiple, such as "
            f"{below or above} or {above if below else 2 * above}"
        )
    return batch_size // world


def wrap(
    fabric: Fabric, module: LossModule, *, compile: bool = False, checkpoint_activations: bool = False
) -> nn.Module:
    """The module as the processes train it together, on the device. Names of parameters do not change.

    Optimizers are made afterwards, of ``module.model``: with FSDP2 its parameters are new ones, each process's parts.

    Args:
        fabric: launched.
        module: with the same weights on all processes.
        compile: ``torch.compile`` of each block by itself, in place: equal blocks share the compilation.
        checkpoint_activations: see :attr:`apd_models.DiT.checkpoint_activations`.
    """
    module.model.checkpoint_activations = checkpoint_activations
    network = fabric.setup_module(module)
    if compile:
        for block in module.model.blocks:
            block.compile()
    return network


def _launched() -> tuple[str, int, int] | None:
    """What has started this process, if something has, and how many it has: processes on each node, nodes."""
    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return "torchrun", local, int(os.environ["WORLD_SIZE"]) // local
    if SLURMEnvironment.detect():
        tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
        if tasks != int(os.environ.get("SLURM_NTASKS_PER_NODE", "1")) * nodes:  # Fabric reads it too
            raise ConfigError(f"SLURM has started {tasks} tasks on {nodes} nodes: tell it --ntasks-per-node")
        return "SLURM", tasks // nodes, nodes
    return None


def _strategy(name: Parallel, world: int) -> DDPStrategy | ModelParallelStrategy | str:
    if name == "fsdp":
        return ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)
    return DDPStrategy(gradient_as_bucket_view=True) if world > 1 else "auto"


def _shard(module: LossModule, mesh: DeviceMesh) -> LossModule:
    """Divides a model: a unit of each block, of each of its parts that is used before the block is, and of the rest."""
    model, along = module.model, mesh["data_parallel"]
    for block in model.each_block:
        parts = dict(block.named_children())
        before = [parts[name] for name in ("level", "label") if name in parts]
        for part in (*before, *block.modulation.children()):
            fully_shard(part, mesh=along)
        fully_shard(block, mesh=along)
    # Not of the loss around it, so that sampling and evaluation can call the model. What is gathered is given back
    # after each pass: else the parameters after an evaluation would be whole copies that nobody keeps.
    fully_shard(model, mesh=along, reshard_after_forward=True)
    return module
