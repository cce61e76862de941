"""Tokens that are given in context."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Context(nn.Module):
    """Embeds tokens in context; all of them have one learned level of their own."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.level = nn.Parameter(torch.zeros(width))

    def forward(self, context: Float[Tensor, "b k c"]) -> Float[Tensor, "b k width"]:
        return self.embed(context)
