"""What tests of samplers share: draws of a fixed seed, and whether they are of a law."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def draw(sampler: Callable[..., Tensor], batch: int = 4096) -> Tensor:
    """Levels or masks of one fixed seed, ``(batch, n)``."""
    return sampler(batch, rng())[..., 0]


def assert_mean(values: Tensor, expected: float) -> None:
    """Within five standard errors, from one fixed seed."""
    error = values.double().std().item() / math.sqrt(len(values))
    assert abs(values.double().mean().item() - expected) < 5 * error


def assert_law(values: Tensor, cdf: Callable[[Tensor], Tensor]) -> None:
    """Kolmogorov and Smirnov's distance to a continuous law is below its 1 % point for independent draws; draws that
    are evenly spread come closer. One fixed seed."""
    n = len(values)
    at = cdf(values.double().sort().values)
    steps = torch.arange(n + 1) / n
    distance = torch.maximum((at - steps[:-1]).abs().max(), (at - steps[1:]).abs().max())
    assert distance < 1.63 / math.sqrt(n)


def uniform_cdf(t: Tensor) -> Tensor:
    return t.clamp(0, 1)
