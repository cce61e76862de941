"""The block of the transformer."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ._config import DiTConfig
from ._conventions import CONVENTIONS
from ._fused import at_least_float32, gated_norm, gated_sum, modulated_norm
from ._modulation import LevelEmbedding, Modulation, Rows
from ._triton import Runs

Heads = Float[Tensor, "b heads _ head"]
Attend = Callable[[Heads, Heads, Heads], Heads]
"""From queries, keys and values, each ``(b, heads, n, head width)``, to mixed values."""


class Block(nn.Module):
    """Attention and feed-forward network, each shifted, scaled and gated by level."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.width
        if config.embedders == "per_block":
            self.level = LevelEmbedding(width, CONVENTIONS[config.convention])
            self.label = nn.Embedding(config.classes + 1, width)
        self.modulation = Modulation(width, 6, labels=config.conditioning == "separable")
        self.attention = Attention(width, config.heads, config.qk_norm, config.biases)
        self.feed_forward = FeedForward(width, int(width * config.mlp_ratio), config.biases, config.gelu)

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        rows: Rows,
        attend: Attend = F.scaled_dot_product_attention,
        runs: Runs | None = None,
    ) -> Float[Tensor, "b n width"]:
        """
        Args:
            rows: what :attr:`modulation` makes of the tokens' levels.
            attend: how queries, keys and values are mixed.
            runs: of the map of ``rows``; given, modulation is done by the operators of their own, see
                :attr:`DiT.kernels`.
        """
        mixed = self.attention(modulated_norm(x, rows, 0, 1, runs), attend)
        x, y = gated_norm(x, mixed, rows, 2, 3, 4, runs)
        return gated_sum(x, self.feed_forward(y), rows, 5, runs)


class Attention(nn.Module):
    """Self-attention, with normalised queries and keys; one learned gain serves the product of both."""

    def __init__(self, width: int, heads: int, qk_norm: bool = True, biases: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=biases)
        head = width // heads
        self.q_norm = nn.LayerNorm(head, eps=1e-6) if qk_norm else None
        self.k_norm = nn.LayerNorm(head, eps=1e-6, elementwise_affine=False) if qk_norm else None
        self.out = nn.Linear(width, width, bias=biases)

    def forward(
        self, x: Float[Tensor, "b n width"], attend: Attend = F.scaled_dot_product_attention
    ) -> Float[Tensor, "b n width"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(at_least_float32(q)).to(v), self.k_norm(at_least_float32(k)).to(v)
        return self.out(attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Two layers with GELU."""

    def __init__(self, width: int, hidden: int, biases: bool = False, gelu: Literal["erf", "tanh"] = "erf") -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden, bias=biases)
        self.out = nn.Linear(hidden, width, bias=biases)
        self.gelu: Literal["none", "tanh"] = "none" if gelu == "erf" else gelu

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        return self.out(F.gelu(self.hidden(x), approximate=self.gelu))
