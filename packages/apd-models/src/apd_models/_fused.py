"""Modulated norms and gated sums.

Plainly they are chains of PyTorch operations, which ``torch.compile`` fuses into one pass: on a CPU in 0.3 to 0.6 of
the eager time, with the backward pass too, for which it keeps a quarter of what the eager chain keeps. Given the
:class:`Runs` of the map they are operators of their own, Triton kernels on a GPU. On a CPU those keep as little, but
take about as long as the eager chain (``benchmarks/modulation_kernels.py``), and on a GPU they have not been timed:
they are used only where asked for.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ._modulation import Rows
from ._triton import EPS, Runs, modulate


def modulated_norm(
    x: Float[Tensor, "b n width"], rows: Rows, shift: int, scale: int, runs: Runs | None = None
) -> Float[Tensor, "b n width"]:
    """``LayerNorm(x) scale + shift``, the norm in float32 at least and without parameters of its own.

    Plainly the result has the precision of the norm; under autocast the kernels give autocast's.

    Args:
        shift, scale: their parts of ``rows``.
        runs: of the map of ``rows``; given, the kernels are used.
    """
    if runs is not None:
        return modulate(x, None, rows, (shift, scale), runs)[1]
    wide = at_least_float32(x)
    return torch.addcmul(rows.part(shift), F.layer_norm(wide, x.shape[-1:], eps=EPS), rows.part(scale))


def gated_sum(
    x: Float[Tensor, "b n width"],
    branch: Float[Tensor, "b n width"],
    rows: Rows,
    gate: int,
    runs: Runs | None = None,
) -> Float[Tensor, "b n width"]:
    """``x + gate branch``, in the highest precision among the three.

    Args:
        gate: its part of ``rows``.
        runs: of the map of ``rows``; given, the kernels are used.
    """
    if runs is not None:
        return modulate(x, branch, rows, (gate,), runs)[0]
    return torch.addcmul(x, rows.part(gate), branch)


def gated_norm(
    x: Float[Tensor, "b n width"],
    branch: Float[Tensor, "b n width"],
    rows: Rows,
    gate: int,
    shift: int,
    scale: int,
    runs: Runs | None = None,
) -> tuple[Float[Tensor, "b n width"], Float[Tensor, "b n width"]]:
    """:func:`gated_sum`, and :func:`modulated_norm` of it: one pass over the tokens instead of two."""
    if runs is not None:
        return modulate(x, branch, rows, (gate, shift, scale), runs)
    x = gated_sum(x, branch, rows, gate)
    return x, modulated_norm(x, rows, shift, scale)


def at_least_float32(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """In float32 if ``x`` is of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
