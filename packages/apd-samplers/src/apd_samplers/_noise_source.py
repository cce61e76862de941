"""Where a sampler's noise comes from: always an argument, never torch's global generator."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

NoiseSource = Callable[[Float[Tensor, "*batch n d"]], Float[Tensor, "*batch n d"]]
"""Tokens in, standard normal noise of their shape, dtype and device out; new noise at each call."""


class PerSampleNoise:
    """One random stream a sample, so that a sample does not depend on what shares its batch.

    Drawn in float32 on the CPU, hence the same on every device.

    Args:
        seeds: one for each sample, in row-major order of the batch axes.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, like: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
        *batch, n, d = like.shape
        if math.prod(batch) != len(self._generators):
            raise ValueError(f"{len(self._generators)} seeds for a batch of {math.prod(batch)}")
        drawn = [torch.randn(n, d, generator=g) for g in self._generators]
        return (torch.stack(drawn) if drawn else torch.empty(0)).reshape(like.shape).to(like)
