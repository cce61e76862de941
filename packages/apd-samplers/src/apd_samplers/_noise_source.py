"""Where a sampler's noise comes from: always an argument, never torch's global generator."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from apd_schedules import NoiseMap

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

    def __call__(
        self, like: Float[Tensor, "*batch n d"], rows: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch n d"]:
        """
        Args:
            rows: samples that need noise; the streams of the others rest, and their noise is 0. By default all.
        """
        *batch, n, d = like.shape
        if math.prod(batch) != len(self._generators):
            raise ValueError(f"{len(self._generators)} seeds for a batch of {math.prod(batch)}")
        wanted = [True] * len(self._generators) if rows is None else rows.flatten().tolist()
        some = zip(self._generators, wanted, strict=True)
        at: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever PyTorch's defaults are
        drawn = [torch.randn(n, d, generator=g, **at) if needed else torch.zeros(n, d, **at) for g, needed in some]
        return (torch.stack(drawn) if drawn else torch.empty(0, **at)).reshape(like.shape).to(like)


class OncePerState:
    """Noise of each sample that is drawn anew when its tokens are others than at the last call.

    For noise of every evaluation: a sample rests in some steps of its batch, which it would not have alone, and must
    not use up its stream in them.
    """

    def __init__(self, source: PerSampleNoise) -> None:
        self._source, self._last = source, (torch.empty(0), torch.empty(0))

    def __call__(self, like: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
        before, noise = self._last
        if before.shape != like.shape:
            noise = self._source(like)
        else:
            moved = (before != like).flatten(-2).any(-1)
            noise = torch.where(moved[..., None, None], self._source(like, moved), noise)
        self._last = like.clone(), noise
        return noise


def noise_of_step(
    noise: NoiseSource, z: Float[Tensor, "*batch n d"], a: NoiseMap, b: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """New noise for a step from ``a`` to ``b``.

    Where samples have maps of their own, one may rest while another moves. Its stream of :class:`PerSampleNoise` rests
    too, since alone it would not have had this step.
    """
    if not isinstance(noise, PerSampleNoise) or max(a.log_snr.ndim, b.log_snr.ndim) <= 2:
        return noise(z)
    moves = (a.log_snr != b.log_snr).flatten(-2).any(-1)
    return noise(z, moves.expand(z.shape[:-2]))
