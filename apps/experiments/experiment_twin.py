"""Models for completing: one trained for nothing else, and one that is told which pixels of a patch are known."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from experiment_laws import DEFAULT, LAWS, long
from experiment_setting import Setting
from torch import Generator, Tensor

from apd_generate import MASK_FAMILIES, draw_mask
from apd_models import Patchify
from apd_samplers import LevelSampler, clean_context, logit_normal
from apd_train import TrainConfig

EACH = 500
"""Masks of each family that it is trained on: drawn once, since strokes take long."""


@dataclass(frozen=True, slots=True)
class Completing:
    """A sampler of levels: tokens known whole are clean, the others share a logit-normal level.

    Args:
        grid: token rows and columns.
        patch: side of a token in pixels, for the masks are of pixels.
    """

    grid: tuple[int, int]
    patch: int

    def __call__(self, batch: int, generator: Generator | None = None) -> Tensor:
        return clean_context(self.grid, logit_normal(), self._masks)(batch, generator)

    def _masks(self, batch: int, generator: Generator | None = None) -> Tensor:
        masks = known_tokens(self.grid, self.patch)
        return masks[torch.randint(len(masks), (batch,), generator=generator)]


@cache
def known_tokens(grid: tuple[int, int], patch: int) -> Tensor:
    """``(masks, n, 1)``, as many of each family, and others than those that are measured with. Once a process."""
    patchify = Patchify(grid[0] * patch, grid[1] * patch, 1, patch)
    seeded = Generator().manual_seed(1)
    size = patchify.height, patchify.width
    masks = [draw_mask(family, *size, seeded) for family in MASK_FAMILIES for _ in range(EACH)]
    return patchify.known_tokens(torch.stack(masks))


def twin(setting: Setting) -> TrainConfig:
    """Of the same network, steps and seed as the models that are trained for longer."""

    def completing(grid: tuple[int, int]) -> LevelSampler:
        return Completing(grid, setting.patch)

    return long(completing, setting)


def of_elements(setting: Setting) -> TrainConfig:
    """Of the default levels, but for those under masks of pixels: each pixel has a level of its own."""
    return replace(long(LAWS[DEFAULT], setting), element_levels=True)


MODELS: dict[str, Callable[[Setting], TrainConfig]] = {"long-completing": twin, "long-elements": of_elements}
