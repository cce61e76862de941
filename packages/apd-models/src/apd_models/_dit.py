"""The transformer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from apd_schedules import NoiseMap, Posterior, x_from_flow

from ._modulation import LevelEmbedding, Modulation, distinct_levels, sincos_2d

Mod = Float[Tensor, "#b #n width"]


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """Shape of a :class:`DiT`.

    Args:
        grid: token rows and columns.
        token_dim: elements of a token.
        width: size of the residual stream; a multiple of ``4`` and of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden size of the feed-forward networks over ``width``.
        classes: number of class labels; 0 for an unconditional model.
        data_std: standard deviation of the clean tokens, about zero.
    """

    grid: tuple[int, int]
    token_dim: int
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    classes: int = 0
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if min(*self.grid, self.token_dim, self.width, self.depth, self.heads) < 1 or self.classes < 0:
            raise ValueError(f"sizes must be at least 1, got {self}")
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of 4 and of heads={self.heads}, got width={self.width}")
        if not (self.mlp_ratio > 0 and self.data_std > 0):
            raise ValueError(f"mlp_ratio and data_std must be positive, got {self.mlp_ratio}, {self.data_std}")


class DiT(nn.Module):
    """A diffusion transformer (Peebles & Xie 2023, arXiv:2212.09748) in which each token has its own noise level.

    A :class:`apd_schedules.Denoiser`: it predicts the velocity of the rectified flow and returns the clean tokens that
    follow from it. It is conditioned on :attr:`NoiseMap.flow_level`, so it serves any noise schedule. Queries and keys
    are normalised (Dehghani et al. 2023, arXiv:2302.05442); norms, level embedding and modulation run in float32.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Linear(config.token_dim, width)
        self.position = nn.Parameter(sincos_2d(config.grid, width))
        self.level = LevelEmbedding(width)
        # The row after the last class stands for "no label"; an unconditional model has that row alone.
        self.label = nn.Embedding(config.classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.head_modulation = Modulation(width, 2)
        self.head = nn.Linear(width, config.token_dim)
        self._initialise()

    @property
    def null_label(self) -> int:
        """The label that stands for none."""
        return self.config.classes

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                for linear in module.children():
                    if isinstance(linear, nn.Linear):
                        nn.init.xavier_uniform_(linear.weight)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        nn.init.normal_(self.label.weight, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Float[Tensor, "b n d"], noise: NoiseMap, label: Int[Tensor, " b"] | None = None) -> Posterior:
        """
        Args:
            z: noisy tokens.
            noise: one level a token, ``(b, n, 1)``; a map without batch axis, or with size 1 there, serves all samples.
            label: class of each sample, or :attr:`null_label`; without it no sample has a label.
        """
        if noise.log_snr.shape[-1] != 1:
            raise ValueError(f"this model takes one level a token, got {noise.log_snr.shape[-1]} (one an element)")
        if label is None:
            label = torch.full((len(z),), self.null_label, device=z.device)
        noise = noise.to(z)
        flow = self._flow(z, noise, label)
        return Posterior(x_from_flow(at_least_float32(flow), z, noise))

    def _flow(self, z: Float[Tensor, "b n d"], noise: NoiseMap, label: Int[Tensor, " b"]) -> Float[Tensor, "b n d"]:
        level = noise.flow_level[..., 0]
        levels = distinct_levels(level if level.ndim == 2 else level[None])
        with torch.autocast(z.device.type, enabled=False):
            of_level = F.silu(self.level(levels.values))
        # Every token enters with unit variance, whatever its level.
        scale = (noise.alpha.square() * self.config.data_std**2 + noise.sigma.square()).rsqrt()
        x = self.embed(scale * z) + (self.position + self.label(label)[:, None])
        for block in self.blocks:
            x = block(x, of_level, levels.index)
        with torch.autocast(z.device.type, enabled=False):
            shift, scale = self.head_modulation(of_level, levels.index)
        return self.head(modulate(x, shift, scale))


class Block(nn.Module):
    """Attention and feed-forward network, each shifted, scaled and gated by level."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention = Attention(width, heads)
        self.feed_forward = FeedForward(width, int(width * mlp_ratio))

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        of_level: Float[Tensor, "u width"],
        index: Int[Tensor, "b2 n2"],
    ) -> Float[Tensor, "b n width"]:
        with torch.autocast(x.device.type, enabled=False):
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(of_level, index)
        x = torch.addcmul(x, gate_a, self.attention(modulate(x, shift_a, scale_a)))
        return torch.addcmul(x, gate_f, self.feed_forward(modulate(x, shift_f, scale_f)))


class Attention(nn.Module):
    """Self-attention over all tokens, with normalised queries and keys; one learned gain serves the product of both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.LayerNorm(width // heads, eps=1e-6)
        self.k_norm = nn.LayerNorm(width // heads, eps=1e-6, elementwise_affine=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = self.q_norm(at_least_float32(q)).to(v), self.k_norm(at_least_float32(k)).to(v)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Two layers with GELU, in its exact form: the tanh form costs six times as much on a CPU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        return self.out(F.gelu(self.hidden(x)))


def modulate(x: Float[Tensor, "b n width"], shift: Mod, scale: Mod) -> Float[Tensor, "b n width"]:
    """``LayerNorm(x) scale + shift``, the norm in float32 and without parameters of its own."""
    return torch.addcmul(shift, F.layer_norm(at_least_float32(x), x.shape[-1:], eps=1e-6), scale)


def at_least_float32(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """In float32 if ``x`` is of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
