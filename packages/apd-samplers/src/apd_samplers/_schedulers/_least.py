"""Which tokens of an image are the most certain."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def least(
    error: Float[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], count: Int[Tensor, "*batch"]
) -> Bool[Tensor, "*batch n"]:
    """Of the tokens ``among``, in each image the ``count`` of smallest error; of equal errors the first ones.

    All of them where there are fewer, none where ``count`` is 0 or less.
    """
    order = error.argsort(dim=-1, stable=True)
    eligible = among.gather(-1, order)
    chosen = eligible & (eligible.cumsum(-1) <= count[..., None])
    return torch.zeros_like(among).scatter(-1, order, chosen)


def part(share: float, number: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """``share`` of a number of tokens, to the nearest whole number, halves to the even one."""
    return (share * number.double()).round().long()
