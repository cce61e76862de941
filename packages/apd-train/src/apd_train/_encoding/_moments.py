"""Latents of squares, and their mean and spread over many."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from apd_models import Codec, LatentScale

from .._data import DataError
from .._data._image_set import values
from .._data._latents import LOG_VAR


def encoded(
    codec: Codec, pixels: UInt8[Tensor, "n c h w"], mirror: bool, dtype: torch.dtype
) -> dict[str, Float[Tensor, "n _k i j"]]:
    """``latents`` or, where the autoencoder has distributions, ``moments``, as a set has them; and ``mirrored``, the
    same of the mirror images.

    Raises:
        DataError: they are not finite, or not in this precision.
    """
    images = values(pixels)
    moments = codec.moments(images)
    found = {"latents" if moments.log_var is None else "moments": _stored(*moments, dtype)}
    if mirror:
        found["mirrored"] = _stored(*codec.moments(images.flip(-1)), dtype)
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise DataError(
            f"the autoencoder makes latents that are not finite in {dtype}: "
            + ("is it damaged?" if dtype == torch.float32 else "keep them as float32, or is it damaged?")
        )
    return found


def _stored(
    mean: Float[Tensor, "n k i j"], log_var: Float[Tensor, "n k i j"] | None, dtype: torch.dtype
) -> Float[Tensor, "n _k i j"]:
    both = mean if log_var is None else torch.cat([mean, log_var], 1)
    return both.to(dtype).cpu().contiguous()


@dataclass(frozen=True, slots=True)
class Spread:
    """Of samples of latents: mean and sum of squared deviations, in float64.

    Args:
        count: latents, cells times images.
        mean: of each channel.
        squares: sum over all latents of the squared distance from the mean, for each channel.
    """

    count: int
    mean: tuple[float, ...]
    squares: tuple[float, ...]

    def as_json(self) -> str:
        return json.dumps({"count": self.count, "mean": self.mean, "squares": self.squares})

    @staticmethod
    def from_json(text: str) -> "Spread":
        """Raises ValueError, KeyError or TypeError for what is not one."""
        said = json.loads(text)
        mean, squares = (tuple(map(float, said[name])) for name in ("mean", "squares"))
        return Spread(int(said["count"]), mean, squares)

    def scale(self, codec: str) -> LatentScale:
        """
        Raises:
            DataError: a channel is constant, or there is nothing.
        """
        std = tuple(math.sqrt(total / max(1, self.count)) for total in self.squares)
        # What differs by less than a millionth is one number, rounded.
        if constant := [
            k for k, (mean, value) in enumerate(zip(self.mean, std, strict=True)) if value <= 1e-6 * abs(mean)
        ]:
            raise DataError(f"channel {constant[0]} of the latents is constant: there is nothing to learn from them")
        return LatentScale(self.mean, std, codec)


def spread_of(stored: Float[Tensor, "n _k i j"], channels: int) -> Spread:
    """Of latents as a set has them. The variance of samples is that of the means and, on average, their own."""
    mean, *log_var = stored.double().split(channels, 1)
    count = mean.numel() // channels
    if not count:
        return Spread(0, (0.0,) * channels, (0.0,) * channels)
    centre = mean.mean((0, 2, 3), keepdim=True)
    squares = (mean - centre).square().sum((0, 2, 3))
    if log_var:
        squares = squares + log_var[0].clamp(*LOG_VAR).exp().sum((0, 2, 3))
    return Spread(count, tuple(centre.flatten().tolist()), tuple(squares.tolist()))


def merged(spreads: Iterable[Spread]) -> Spread:
    """Of all together (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance")."""
    total, *others = spreads
    for other in others:
        count = total.count + other.count
        share = other.count / max(1, count)
        gaps = [b - a for a, b in zip(total.mean, other.mean, strict=True)]
        total = Spread(
            count,
            tuple(a + share * gap for a, gap in zip(total.mean, gaps, strict=True)),
            tuple(
                a + b + gap * gap * share * total.count
                for a, b, gap in zip(total.squares, other.squares, gaps, strict=True)
            ),
        )
    return total
