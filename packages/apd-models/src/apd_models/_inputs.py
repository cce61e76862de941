"""What a transformer may be given."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apd_schedules import NoiseMap

from ._config import DiTConfig


def check_inputs(
    of: DiTConfig,
    weights: torch.dtype,
    z: Float[Tensor, "..."],
    label: Int[Tensor, "..."] | None,
    noise: NoiseMap | None = None,
    context: Float[Tensor, "..."] | None = None,
) -> None:
    """Refuses what is not for a model.

    Args:
        of: the model's.
        weights: their precision.

    Raises:
        ValueError: tokens of another number, size or precision, weights in half precision, not a label for each sample,
            labels out of range (as far as can be told without waiting for a device), a map of other samples, tokens in
            context of another size or batch.
    """
    expected = of.grid[0] * of.grid[1], of.token_dim
    if z.ndim != 3 or z.shape[1:] != expected:
        raise ValueError(
            f"expected tokens of shape (batch, {expected[0]}, {expected[1]}), those of a grid of {of.grid[0]}×"
            f"{of.grid[1]}, got {tuple(z.shape)}"
        )
    if weights.itemsize < 4:
        raise ValueError(f"weights are kept in float32 and half precision is torch.autocast's, got {weights}")
    if not z.is_floating_point() or torch.promote_types(z.dtype, torch.float32) != weights:
        raise ValueError(f"tokens and weights have one precision, got {z.dtype} and {weights}: z.to({weights})")
    if noise is not None and noise.log_snr.ndim == 3 and len(noise.log_snr) not in (1, len(z)):
        raise ValueError(f"a map is for {len(z)} samples, or one for all, got {tuple(noise.log_snr.shape)}")
    if context is not None and of.context_dim and (context.ndim != 3 or context.shape[::2] != (len(z), of.context_dim)):
        raise ValueError(f"tokens in context are ({len(z)}, any, {of.context_dim}), got {tuple(context.shape)}")
    if label is None:
        return
    if not isinstance(label, Tensor) or label.dtype not in (torch.int64, torch.int32):
        got = label.dtype if isinstance(label, Tensor) else f"{label!r:.40}"
        raise ValueError(f"labels are a tensor of int64, one for each sample, got {got}")
    if label.shape != z.shape[:1]:
        raise ValueError(f"{len(z)} samples have a label each, got {tuple(label.shape)}")
    if label.device.type == "cpu" and not torch.compiler.is_compiling():
        if not ((label >= 0) & (label <= of.classes)).all():
            raise ValueError(f"labels are 0 to {of.classes}, which is none, got {label.tolist()}")
