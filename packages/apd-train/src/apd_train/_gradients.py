"""Gradients of a whole batch, taken in pieces, and their norms."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def accumulate(
    fabric: Fabric, network: nn.Module, tensors: Sequence[Tensor], micro_batch: int | None = None
) -> tuple[Float[Tensor, " parts"], Float[Tensor, "*sums"]]:
    """Losses of a batch and, added to ``.grad``, the gradients of their sum: those of the whole batch to rounding.

    Each piece counts by its share of the samples, so they need not divide the batch evenly. Processes exchange
    gradients once, in the backward pass of the last piece.

    A loss that is not finite gets gradients that are not, so every process sees it in their norm; see :class:`Guard`.

    Args:
        network: as :func:`wrap` returned it; from tensors to losses, each a mean over samples, and to what is added up
            over samples and has no gradient.
        tensors: what it takes, on the device: this process's share of the batch, samples along the first axis.
        micro_batch: samples that go through the network together; by default all.

    Returns:
        The losses of this process, means over its samples, and what was added up; without a graph.
    """
    size = len(tensors[0])
    each = min(micro_batch or size, size)
    means: list[Tensor] = []
    sums: list[Tensor] = []
    for start in range(0, size, each):
        piece = [tensor[start : start + each] for tensor in tensors]
        share = len(piece[0]) / size
        alone = fabric.no_backward_sync(network) if start + each < size else nullcontext()  # pyrefly: ignore
        with alone:
            losses, counted = network(*piece)
            value = losses.detach()
            weight = torch.full_like(value, share).masked_fill(~value.isfinite(), torch.nan)
            fabric.backward((losses * weight).sum())
        means.append(value * share)
        sums.append(counted.detach())
    return sum(means[1:], means[0]), sum(sums[1:], sums[0])


def clip_gradients(groups: Sequence[Sequence[nn.Parameter]], limit: float) -> list[float]:
    """Scales the gradients of each group so that their norm is at most ``limit``.

    The norm is of the whole gradient also where each process holds a part of it (FSDP2), and the same number on all of
    them. Reading it waits for the device, once a step: whether the step is taken depends on it.

    Returns:
        The norms before, of each group. Where one is not finite the gradients are of no use.
    """
    norms = []
    for group in groups:
        gradients = [parameter.grad for parameter in group if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        nn.utils.clip_grads_with_norm_(group, limit, norm)
        norms.append(norm)
    return torch.stack(norms).tolist()
