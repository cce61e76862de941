"""What a transformer may be given."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._config import DiTConfig


def check_inputs(
    of: DiTConfig, weights: torch.dtype, z: Float[Tensor, "..."], label: Int[Tensor, "..."] | None
) -> None:
    """Refuses tokens and labels that are not those of a model.

    Args:
        of: the model's.
        weights: their precision.

    Raises:
        ValueError: tokens of another number or size, weights in half precision, not a label for each sample, labels out
            of range (as far as can be told without waiting for a device).
    """
    expected = of.grid[0] * of.grid[1], of.token_dim
    if z.shape[1:] != expected:
        raise ValueError(
            f"expected tokens of shape (batch, {expected[0]}, {expected[1]}), those of a grid of {of.grid[0]}×"
            f"{of.grid[1]}, got {tuple(z.shape)}"
        )
    if weights.itemsize < 4:
        raise ValueError(f"weights are kept in float32 and half precision is torch.autocast's, got {weights}")
    if label is None:
        return
    if label.shape != z.shape[:1]:
        raise ValueError(f"{len(z)} samples have a label each, got {tuple(label.shape)}")
    if label.device.type == "cpu" and not torch.compiler.is_compiling():
        if not ((label >= 0) & (label <= of.classes)).all():
            raise ValueError(f"labels are 0 to {of.classes}, which is none, got {label.tolist()}")
