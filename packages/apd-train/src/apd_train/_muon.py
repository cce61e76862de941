"""Muon, its work divided among the processes of a run."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Muon(torch.optim.Muon):
    """Steps along the orthogonalised momentum (Jordan et al. 2024), scaled to the root mean square of AdamW's steps
    (Liu et al. 2025, arXiv:2502.16982).

    One process does what ``torch.optim.Muon(…, adjust_lr_fn="match_rms_adamw")`` does, to the bit. Of several, each
    orthogonalises its share of the matrices, whole ones, and all get the results; so it does not matter to the result
    whether the model is copied (DDP) or divided (FSDP2). PyTorch's own would do all of the work on each process in the
    first case, and exchange matrices in each product of the iteration in the second. While it steps, a process holds
    all of the matrices in bfloat16.

    Args:
        params: matrices.
        lr: learning rate.
        momentum: decay of the running mean of gradients.
        weight_decay: decoupled.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Raises:
            ValueError: a closure: gradients are averaged over processes before the step, and not by it.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients first")
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None]
            updates = [self._momentum(p, group["momentum"]) for p in matrices]
            of = {"coefficients": group["ns_coefficients"], "steps": group["ns_steps"], "eps": group["eps"]}
            _orthogonalise(updates, partial(newton_schulz, **of))
            for p, update in zip(matrices, updates, strict=True):
                part = _local(p)
                part.mul_(1 - group["lr"] * group["weight_decay"])
                part.add_(_part(update, p), alpha=-(group["lr"] * (0.2 * math.sqrt(max(p.shape)))))
        return None

    def _momentum(self, p: nn.Parameter, momentum: float) -> Float[Tensor, "rows columns"]:
        """Takes in the gradient; the direction before it is orthogonalised (Nesterov's), whole, in bfloat16."""
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        part, mean = _local(gradient), _local(state["momentum_buffer"])
        mean.lerp_(part, 1 - momentum)
        update = part.lerp(mean, momentum).bfloat16()
        if not isinstance(p, DTensor):
            return update
        return DTensor.from_local(update, p.device_mesh, p.placements, shape=p.shape, stride=p.stride()).full_tensor()


def newton_schulz(
    matrix: Float[Tensor, "rows columns"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "rows columns"]:
    """``U S V'`` to about ``U V'``, by the iteration ``x ← a x + (b x x' + c (x x')²) x``.

    Args:
        coefficients: ``a, b, c``.
        eps: least norm that the matrix is divided by.
    """
    a, b, c = coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix  # the smaller of the two Gram matrices
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _orthogonalise(matrices: list[Tensor], how: Callable[[Tensor], Tensor]) -> None:
    """In place, each matrix by one of the processes; all have the same matrices before and after."""
    many = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    order = sorted(range(len(matrices)), key=lambda i: -matrices[i].numel())  # equal ones are dealt out evenly
    for i in order[rank::world]:
        matrices[i] = how(matrices[i]).contiguous()
    if world > 1:
        sent = [dist.broadcast(matrices[i], src=place % world, async_op=True) for place, i in enumerate(order)]
        for each in sent:
            assert each is not None
            each.wait()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _part(whole: Float[Tensor, "rows columns"], like: nn.Parameter) -> Tensor:
    """What this process holds of it, as of ``like``."""
    if not isinstance(like, DTensor):
        return whole
    # Every process has it whole: nothing is sent.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local()
