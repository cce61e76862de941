"""A number and its standard error."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was measured on a sample, and how far other samples of the same size would lie from it.

    Args:
        value: what was measured.
        standard_error: the standard deviation of ``value`` over samples, estimated from this one; ``None`` where that
            is not known.
    """

    value: float
    standard_error: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if self.standard_error is None else f" ± {self.standard_error:.2g}")


def average(values: Float[Tensor, " n"]) -> Estimate:
    """Mean of independent values, one an image, with its standard error ``s / sqrt(n)``.

    Several values of one image (of several seeds, say) are not independent: average them first.

    Raises:
        ValueError: there is no value, or a table of them. One value has no standard error.
    """
    if values.ndim != 1:
        raise ValueError(f"values are one an image, (n,), got {tuple(values.shape)}")
    if len(values) == 0:
        raise ValueError("the average of no values is not defined: give one or more")
    values = values.to("cpu", torch.float64)
    spread = None if len(values) == 1 else float(values.std()) / math.sqrt(len(values))
    return Estimate(float(values.mean()), spread)
