"""Some tokens of each sample, side by side."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """Which tokens, sample by sample.

    Args:
        at: their places among all; where a sample has fewer than others, further ones fill the row.
        real: which are no such filling.
    """

    at: Int[Tensor, "b k"]
    real: Bool[Tensor, "b k"]


def pack(chosen: Bool[Tensor, "b n"]) -> Packed | None:
    """The chosen tokens, in their order; ``None`` if there are none. The host waits for how many they are."""
    counts = chosen.sum(1)
    most = int(counts.max()) if len(counts) else 0
    if most == 0:
        return None
    at = chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return Packed(at, torch.arange(most, device=at.device) < counts[:, None])


def take(x: Shaped[Tensor, "b n *rest"], packed: Packed) -> Shaped[Tensor, "b k *rest"]:
    """Their entries of ``x``."""
    return x[torch.arange(len(x), device=x.device)[:, None], packed.at]


def put(
    x: Shaped[Tensor, "b n *rest"], packed: Packed, new: Shaped[Tensor, "b k *rest"]
) -> Shaped[Tensor, "b n *rest"]:
    """``x`` with their entries replaced; what fills a row is not."""
    real = packed.real.reshape(*packed.real.shape, *(1,) * (x.ndim - 2))
    rows = torch.arange(len(x), device=x.device)[:, None]
    return x.index_put((rows, packed.at), torch.where(real, new, take(x, packed)))


def put_(x: Shaped[Tensor, "b n *rest"], packed: Packed, new: Shaped[Tensor, "b k *rest"]) -> None:
    """:func:`put`, in place."""
    real = packed.real.reshape(*packed.real.shape, *(1,) * (x.ndim - 2))
    rows = torch.arange(len(x), device=x.device)[:, None]
    x.index_put_((rows, packed.at), torch.where(real, new, take(x, packed)))
