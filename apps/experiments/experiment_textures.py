"""Tileable textures, of which a part tells the rest: what continuation can be measured by."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from experiment_models import HELD_OUT, small
from experiment_setting import Setting
from torch import Generator, Tensor

from apd_train import DataError, ImageSet, TrainConfig, hold_out

PERIODS = (4, 6, 8)
"""Pixels after which a texture repeats itself, across and down: patches come again after one, three or two of them."""
SIDE, SHOWN = 28, 16
"""Pixels a side of a texture, and of what is shown of it: enough that periods of these lengths which fit what is shown
all continue it alike, since with two of them their greatest common divisor is one too (Fine and Wilf 1965)."""
MASKS = ("left", "corner")


@dataclass(frozen=True, slots=True)
class Textures:
    """Textures as images to train on, without classes."""

    count: int = 10_000
    seed: int = 0

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        if size != SIDE:
            raise DataError(f"textures have {SIDE} pixels a side, not {size}")
        bytes_of = textures(self.count, self.seed).add(1).mul(127.5).round().to(torch.uint8)
        return ImageSet([*bytes_of[:, None]], torch.zeros(self.count, dtype=torch.long), (), SIDE)


def textures(count: int, seed: int) -> Tensor:
    """``(count, SIDE, SIDE)`` in [-1, 1]: sums of three waves, stripes, checks and dots, in two greys or between them.

    Each is a function of the place in a tile, on a torus, so that tiles join without seams.
    """
    seeded = Generator().manual_seed(seed)
    real = lambda low=0.0, high=1.0: low + (high - low) * torch.rand(count, 1, 1, generator=seeded)
    whole = lambda low, high: torch.randint(low, high + 1, (count, 1, 1), generator=seeded)
    period = lambda: torch.tensor(PERIODS)[whole(0, len(PERIODS) - 1)]
    rows, columns, place = period(), period(), torch.arange(max(PERIODS))
    y, x = place[:, None] / rows, place / columns
    wave = lambda down, across: torch.cos(2 * math.pi * (down * y + across * x + real()))
    smooth = torch.stack([real(0.2) * wave(whole(0, 2), whole(-2, 2)) for _ in range(3)]).sum(0)
    stripes = wave(whole(1, 2), whole(-1, 1))
    checks = wave(1, 0) * wave(0, 1)
    from_middle = ((y + real()) % 1 - 0.5) * rows, ((x + real()) % 1 - 0.5) * columns
    dots = rows.minimum(columns) * real(0.2, 0.4) - torch.hypot(*from_middle)
    sharp = [torch.where(each > 0, 1.0, -1.0) for each in (stripes, checks, dots)]
    shapes = torch.stack([smooth / smooth.abs().amax((1, 2), keepdim=True), *sharp])
    half = real(0.25)
    each = torch.arange(count)
    tiles = half * shapes[whole(0, 3).flatten(), each] + (1 - half) * real(-1.0)
    pixel = torch.arange(SIDE)
    return tiles[each[:, None, None], pixel[:, None] % rows, pixel % columns]


def shown(mask: str) -> Tensor:
    """Pixels of a texture that are given, ``(SIDE, SIDE)``."""
    near = torch.arange(SIDE) < SHOWN
    return near.expand(SIDE, SIDE) if mask == "left" else near & near[:, None]


def continued(image: Tensor, mask: str) -> Tensor:
    """A texture again, from what a mask shows of it: repeated by the shortest period that fits it."""
    if mask == "left":
        return _repeated(image[..., :SHOWN])
    return _repeated(_repeated(image[..., :SHOWN, :SHOWN]).mT).mT


def _repeated(part: Tensor) -> Tensor:
    fits = (period for period in range(1, max(PERIODS) + 1) if torch.equal(part[..., period:], part[..., :-period]))
    return part[..., torch.arange(SIDE) % next(fits)]


def of_textures(setting: Setting) -> TrainConfig:
    """A small model that is trained on them, with the library's levels."""
    return replace(
        small(setting),
        data=Textures(),
        image_size=SIDE,
        patch=4,
        steps=setting.at(1536, 8),
        batch_size=setting.at(32, 16),
    )


MODELS = {"textures": of_textures}


def divided_textures(count: int) -> tuple[ImageSet, Tensor]:
    """Textures that are trained on, and some that are not, as images."""
    training, held_out = hold_out(Textures().load(SIDE), HELD_OUT)
    return training, held_out.squares(range(count))
