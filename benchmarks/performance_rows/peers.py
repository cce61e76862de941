"""What others do, with our weights: a transformer modulated per sample, and one with a projection per token.

Attention and feed-forward networks are the very modules of ours, so that a difference in time is one in modulation.
The formulas are those of DiT (Peebles & Xie 2023, arXiv:2212.09748) and of its variants with a timestep a token
(Self-Flow; Patch Forcing, arXiv:2604.19141): each block applies SiLU and a layer D → 6D to the features of the level,
here of a sample, there of every token.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apd_models import DiT, Rows
from apd_models._block import Block
from apd_models._modulation import Modulation
from apd_schedules import NoiseMap, Posterior

M = TypeVar("M", bound=nn.Module)
Part = Callable[[int], Tensor]
"""Vector ``k`` of shift, scale, gate and shift, scale, gate."""


def block(module: Block, x: Tensor, part: Part) -> Tensor:
    """The block of DiT."""
    x = x + part(2) * module.attention(norm(x) * part(1) + part(0))
    return x + part(5) * module.feed_forward(norm(x) * part(4) + part(3))


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def projected(modulation: Modulation, features: Tensor) -> Part:
    """A projection of the features that each sample, ``(b, width)``, or each token, ``(b, n, width)``, has."""
    parts = modulation.linear(F.silu(features)).chunk(modulation.parts, -1)
    return lambda k: parts[k] if features.ndim == 3 else parts[k][:, None]


def per_sample_or_token(module: Block, x: Tensor, features: Tensor) -> Tensor:
    return block(module, x, projected(module.modulation, features))


def table(module: Block, x: Tensor, features: Tensor, index: Tensor) -> Tensor:
    """Ours: features of the distinct levels, and which of them each token has."""
    return module(x, module.modulation(F.silu(features), index))


def lerp_table(module: Block, x: Tensor, features: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """A table of knots, interpolated: exact for features that are linear between knots, for they enter linearly."""
    rows = module.modulation(F.silu(features), index)
    after = Rows(rows.table, index + 1)
    return block(module, x, lambda k: torch.lerp(rows.part(k), after.part(k), weight[..., None]))


def lerp_per_token(module: Block, x: Tensor, features: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The same features, interpolated and projected at each token."""
    knots = F.silu(features)
    each = torch.lerp(F.embedding(index, knots), F.embedding(index + 1, knots), weight[..., None])
    parts = module.modulation.linear(each).chunk(6, -1)
    return block(module, x, lambda k: parts[k])


def products(module: Block, x: Tensor) -> Tensor:
    """The limit: the same matrix products and attention, and nothing between them."""
    q, k, v = module.attention.qkv(x).unflatten(-1, (3, module.attention.heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    return module.feed_forward.out(module.feed_forward.hidden(module.attention.out(mixed)))


class Peer(nn.Module):
    """The whole network of others, on the weights of ours.

    A :class:`apd_schedules.Denoiser`. The level of a token goes through the embedding for itself, as there.

    Args:
        per_token: whether tokens have levels of their own; otherwise that of a sample's first token counts.
    """

    def __init__(self, model: DiT, per_token: bool) -> None:
        super().__init__()
        self.model, self.per_token = model, per_token

    def forward(self, z: Tensor, noise: NoiseMap, label: Tensor | None = None) -> Posterior:
        model = self.model
        if label is None:
            label = torch.full((len(z),), model.null_label, device=z.device)
        log_snr = noise.log_snr[..., 0].expand(z.shape[:2])
        log_snr = log_snr if self.per_token else log_snr[:, 0]
        features = model.level(log_snr.flatten()).unflatten(0, log_snr.shape)
        x = model.enter(z, noise, label)
        for module in model.each_block:
            x = per_sample_or_token(module, x, features)
        part = projected(model.head_modulation, features)
        out = model.head(norm(x) * part(1) + part(0)).to(torch.promote_types(z.dtype, torch.float32))
        return Posterior(model.convention.mean(out, z, noise))


def drawn_anew(model: M, seed: int) -> M:
    """Every weight at random, gates and heads too, which start at zero: else much of the network would see zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fresh = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "label" not in name and "position" not in name:
                fresh /= parameter[0].numel() ** 0.5
            elif parameter.ndim == 1:
                fresh = parameter.cpu() + 0.02 * fresh
            parameter.copy_(fresh)
    return model


def in_double(module: nn.Module) -> Any:
    """A copy in float64, to be right by."""
    return copy.deepcopy(module).double()


def doubled(inputs: tuple[Any, ...]) -> Iterator[Any]:
    """Floating point inputs in float64."""
    return (each.double() if isinstance(each, Tensor) and each.is_floating_point() else each for each in inputs)
