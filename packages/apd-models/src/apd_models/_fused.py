"""Modulated norms and gated sums."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ._modulation import Rows


def modulated_norm(x: Float[Tensor, "b n width"], rows: Rows, shift: int, scale: int) -> Float[Tensor, "b n width"]:
    """``LayerNorm(x) scale + shift``, the norm in float32 and without parameters of its own."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.addcmul(rows.part(shift), F.layer_norm(wide, x.shape[-1:], eps=1e-6), rows.part(scale))


def gated_sum(
    x: Float[Tensor, "b n width"], branch: Float[Tensor, "b n width"], rows: Rows, gate: int
) -> Float[Tensor, "b n width"]:
    """``x + gate branch``."""
    return torch.addcmul(x, rows.part(gate), branch)
