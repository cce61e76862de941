"""What each training step sees, as a function of the seed and the sample counter alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from apd_models import Patchify
from apd_samplers import (
    Draw,
    ElementMaskSampler,
    TrainingLevelSampler,
    box,
    brush,
    complement,
    either,
    half,
    known_elements,
    snap,
    weighted,
)
from apd_schedules import NoiseMap

from ._config import ConfigError, TrainConfig
from ._data import DataError, ImageSet
from ._random import generator


@dataclass(frozen=True, slots=True)
class Batch:
    """Args:
    x: clean tokens.
    eps: standard normal noise.
    draw: noise maps and weights.
    label: classes, some replaced by the null label.
    unreadable: names of images that others stand in for, each with the reason.
    """

    x: Float[Tensor, "b n d"]
    eps: Float[Tensor, "b n d"]
    draw: Draw
    label: Int[Tensor, " b"]
    unreadable: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What :class:`LossModule` takes."""
        return self.x, self.eps, self.draw.noise.log_snr, self.draw.weight, self.label

    def pin_memory(self) -> "Batch":
        """In page-locked memory, from which a GPU copies without waiting; torch's ``DataLoader`` looks for this."""
        draw = Draw(NoiseMap(self.draw.noise.log_snr.pin_memory()), self.draw.weight.pin_memory())
        return replace(self, x=self.x.pin_memory(), eps=self.eps.pin_memory(), draw=draw, label=self.label.pin_memory())


def training_draws(config: TrainConfig, patchify: Patchify) -> TrainingLevelSampler:
    """The maps and weights that a run is trained on.

    Raises:
        ConfigError: the run's sampler cannot serve this grid.
    """
    grid = patchify.grid
    try:
        levels = config.levels(grid)
    except ValueError as error:
        raise ConfigError(f"the level sampler cannot serve a grid of {grid[0]}×{grid[1]} tokens: {error}") from error
    if config.element_levels:
        levels = known_elements(levels, pixel_masks(patchify), config.known_pixels)
    return weighted(snap(levels, config.level_bins), config.schedule, config.weighting)


def pixel_masks(patchify: Patchify) -> ElementMaskSampler:
    """Boxes, brush strokes and halves of pixels and their complements, as elements of tokens."""
    pixels = patchify.height, patchify.width
    shapes = box(pixels), brush(pixels), half(pixels)
    masks = either([(1.0, masks) for shape in shapes for masks in (shape, complement(shape))])

    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n d"]:
        known = masks(batch, generator).reshape(batch, 1, *pixels)
        return patchify.to_tokens(known.expand(-1, patchify.channels, -1, -1))

    return draw


def shuffled(seed: int, count: int) -> Callable[[int], int]:
    """Which of so many images a sample of a run is: in each epoch all of them come, in an order of its own."""
    order = lru_cache(maxsize=2)(lambda epoch: torch.randperm(count, generator=generator(seed, "order", epoch)))

    def index(counter: int) -> int:
        epoch, place = divmod(counter, count)
        return int(order(epoch)[place])

    return index


class Batches:
    """Batches by step number.

    Sample number ``c`` of a run, counted over all steps and devices, fixes its image, crop, flip, label drop and noise.
    Levels are drawn for the whole batch, which spreads them evenly, and then divided among the devices. So neither the
    number of devices nor where a run was interrupted changes what is seen.

    Raises:
        ConfigError: the run's sampler cannot serve this grid.
        DataError: images are to be mirrored and cannot be.
    """

    def __init__(self, config: TrainConfig, images: ImageSet, patchify: Patchify) -> None:
        if config.flip and not images.can_flip:
            raise DataError(
                "latents without encodings of the mirrored images cannot be flipped: train with flip off (--no-flip)"
            )
        self._config, self._images, self._patchify = config, images, patchify
        self._draws = training_draws(config, patchify)
        self._index = shuffled(config.seed, len(images))

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The share of process ``rank`` of ``world`` in the batch of a step, counted from 0."""
        config, size = self._config, self._config.batch_size
        mine = range(rank, size, world)
        draw = self._draws(size, generator(config.seed, "levels", step))
        rows = torch.tensor(mine)
        own = Draw(NoiseMap(draw.noise.log_snr[rows].contiguous()), draw.weight[rows].contiguous())
        unreadable: list[str] = []
        samples = [self._sample(step * size + row, unreadable.append) for row in mine]
        images, labels, eps = zip(*samples, strict=True)
        x = self._patchify.to_tokens(torch.stack(images))
        return Batch(x, torch.stack(eps), own, torch.tensor(labels), tuple(unreadable))

    def _sample(self, counter: int, on_unreadable: Callable[[str], None]) -> tuple[Tensor, int, Tensor]:
        config = self._config
        index = self._index(counter)
        stream = generator(config.seed, "sample", counter)
        crop, flip, drop = torch.rand(3, generator=stream).tolist()
        keep = drop >= config.label_drop and self._images.class_names
        label = int(self._images.labels[index]) if keep else len(self._images.class_names)
        eps = torch.randn(self._patchify.tokens, self._patchify.token_dim, generator=stream)
        image = self._images.square(index, crop, config.flip and flip < 0.5, stream, on_unreadable)
        return image, label, eps
