"""A tiny model trained by one process and by two: ``python two_processes.py '{"compile": true}'``.

One start serves all ways of training. The first process writes what they came to as a line of JSON.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributed.tensor import DTensor

from apd_models import DiT, DiTConfig
from apd_schedules import NoiseMap
from apd_train import launch, make_fabric
from apd_train._gradients import accumulate, clip_gradients
from apd_train._model import clipped_apart
from apd_train._muon import Muon
from apd_train._parallel import wrap
from apd_train._step import LossModule

GRID, TOKEN_DIM, BATCH, STEPS = (2, 3), 3, 12, 3


def new_model(dtype: torch.dtype, **options: Any) -> DiT:
    """Nothing at zero, and matrices with odd numbers of rows, which two processes divide unevenly."""
    shape = DiTConfig(GRID, TOKEN_DIM, 12, 2, 2, mlp_ratio=2.25, classes=2, one_way=True, error_head=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiT(replace(shape, **options))
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return model.to(dtype)


def batch(step: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    tokens = BATCH, GRID[0] * GRID[1], TOKEN_DIM
    x, eps = (torch.randn(tokens, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    log_snr = torch.randint(-2, 3, (*tokens[:2], 1), generator=generator).to(dtype)
    weight = torch.rand(*tokens[:2], 1, generator=generator, dtype=torch.float64).to(dtype)
    return [x, eps, log_snr, weight, torch.randint(0, 3, (BATCH,), generator=generator)]


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def trained(
    fabric: Fabric,
    dtype: torch.dtype,
    micro_batch: int | None = None,
    bad_step: int | None = None,
    head_only: bool = False,
    **how: bool,
) -> dict[str, Any]:
    """What a few steps come to, on this process.

    Args:
        bad_step: at which the last process's images are not finite.
        head_only: all but the error head is frozen, in a model that has embedders in each block, as converted ones do.
        how: see ``wrap``.
    """
    model = new_model(dtype, **({"embedders": "per_block", "conditioning": "joint"} if head_only else {}))
    assert model.error is not None
    model.requires_grad_(not head_only)
    model.error.requires_grad_(True)
    network = wrap(fabric, LossModule(model), **how)
    named = [*model.blocks.named_parameters()]
    matrices = [p for name, p in named if p.ndim == 2 and p.requires_grad and "modulation" not in name]
    rest = [p for p in model.parameters() if p.requires_grad and not any(p is matrix for matrix in matrices)]
    optimizers = [torch.optim.AdamW(rest, lr=0.01, fused=True), *([] if head_only else [Muon(matrices, lr=0.02)])]
    of: dict[str, Any] = {"losses": [], "sums": [], "norms": [], "evaluated": [], "gradient": {}}
    for step in range(STEPS):
        tensors = batch(step, dtype)
        mine = [tensor[fabric.global_rank :: fabric.world_size].contiguous() for tensor in tensors]
        if step == bad_step and fabric.global_rank == fabric.world_size - 1:
            mine[0][0, 0, 0] = torch.inf
        losses, sums = accumulate(fabric, network, mine, micro_batch)
        of["losses"].append(fabric.all_reduce(losses, reduce_op="mean"))
        of["sums"].append(fabric.all_reduce(sums.double(), reduce_op="sum"))
        if step == 0:
            of["gradient"] = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
        norms = clip_gradients(clipped_apart(model), 0.1)
        of["norms"].append(norms)
        for optimizer in optimizers:
            if step != bad_step:
                optimizer.step()
            optimizer.zero_grad()
        # The model by itself, as evaluation and pictures use it, between steps.
        with torch.no_grad():
            of["evaluated"].append(model(tensors[0], NoiseMap(tensors[2]), tensors[4]).mean)
    of["weights"] = {name: whole(p) for name, p in model.named_parameters()}
    of["parts"] = sum(p.numel() if not isinstance(p, DTensor) else p.to_local().numel() for p in model.parameters())
    of["names"] = [*network.state_dict()]
    of["divided"] = isinstance(model.head.weight, DTensor)
    of["dtypes"] = sorted({str(p.dtype) for p in model.parameters()})
    return of


def furthest(a: Any, b: Any) -> float:
    """The largest difference of two nests of numbers, relative to the largest number of each tensor."""
    if isinstance(a, dict):
        return max(furthest(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return max(furthest(x, y) for x, y in zip(a, b, strict=True))
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))


def main(compile: bool = False) -> None:
    torch.set_num_threads(1)
    double = torch.float64
    one = trained(make_fabric(1), double)
    one_half = trained(make_fabric(1, precision="bf16-mixed"), torch.float32)
    one_bad = trained(make_fabric(1), double, bad_step=1)
    one_head = trained(make_fabric(1), double, head_only=True)
    fabric = make_fabric(2)
    launch(fabric)
    divided = make_fabric(2, "fsdp")
    divided.launch()
    pieces = {"micro_batch": 4, "checkpoint_activations": True}
    found: dict[str, dict[str, Any]] = {}

    def compare(name: str, of: dict[str, Any], with_: dict[str, Any]) -> None:
        others = fabric.broadcast({key: of[key] for key in ("weights", "norms")})
        same = all(torch.equal(of["weights"][key], others["weights"][key]) for key in others["weights"])
        same = same and str(of["norms"]) == str(others["norms"])
        found[name] = {
            "agree": bool(fabric.all_reduce(torch.tensor(float(same)), reduce_op="sum") == 2),
            "norms": of["norms"],
            "parts": of["parts"] / with_["parts"],
            "same_names": of["names"] == with_["names"],
            "divided": of["divided"],
            "dtypes": of["dtypes"],
            "from_one": furthest(of["gradient"], one["gradient"]),
            **{key: furthest(with_[key], of[key]) for key in ("losses", "sums", "gradient", "evaluated", "weights")},
        }

    if compile:
        compare("ddp", trained(fabric, double, compile=True, **pieces), one)
        compare("fsdp", trained(divided, double, compile=True, **pieces), one)
    else:
        compare("ddp", trained(fabric, double, **pieces), one)
        compare("fsdp", trained(divided, double, **pieces), one)
        halved = make_fabric(2, "fsdp", "bf16-mixed")
        halved.launch()
        compare("fsdp bf16", trained(halved, torch.float32), one_half)
        compare("fsdp of the head", trained(divided, double, head_only=True, **pieces), one_head)
        compare("ddp bad step", trained(fabric, double, bad_step=1), one_bad)
        compare("fsdp bad step", trained(divided, double, bad_step=1), one_bad)
    if fabric.is_global_zero:
        sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
