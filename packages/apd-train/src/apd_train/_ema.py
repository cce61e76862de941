"""Averages of the weights."""

import copy
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

WIDEST = 12**-0.5
"""Relative width of the uniform average, the power function of exponent 0."""


def power_of_width(sigma_rel: float) -> float:
    """Exponent gamma of the power-function average whose relative standard deviation is ``sigma_rel``.

    The weights of the average follow ``tau^gamma`` on [0, 1], a Beta(gamma + 1, 1) law of variance
    ``(gamma + 1) / ((gamma + 2)² (gamma + 3))``; its root is found here (Karras et al. 2024, arXiv:2312.02696,
    section 3.1).
    """
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(f"sigma_rel must be in (0, {WIDEST:.3f}), got {sigma_rel}")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class Ema(Generic[M]):
    """A power-function average of a model's parameters: the window grows with the run, so any length has a fitting one.

    Args:
        model: copied; the copy is the average, ready to evaluate.
        sigma_rel: width of the window relative to the steps so far.
    """

    def __init__(self, model: M, sigma_rel: float = 0.05) -> None:
        self.sigma_rel = sigma_rel
        self.steps = 0
        self._power = power_of_width(sigma_rel)
        self.model: M = copy.deepcopy(model)
        self.model.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: M) -> None:
        """Takes in the weights after one more step."""
        fresh = 1 - (1 - 1 / (self.steps + 1)) ** (self._power + 1)
        torch._foreach_lerp_(_tensors(self.model), _tensors(model), fresh)
        self.steps += 1

    def __str__(self) -> str:
        return f"ema(sigma_rel={self.sigma_rel:g}) at step {self.steps}"


def _tensors(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters()]
