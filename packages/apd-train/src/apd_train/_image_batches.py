"""What each training step of an autoencoder sees, as a function of the seed and the sample counter alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from apd_generate import MASK_FAMILIES, draw_mask
from apd_models import AutoencoderConfig
from apd_samplers import box

from ._autoencoder_config import AutoencoderTraining
from ._batches import shuffled
from ._data import ImageSet
from ._random import generator


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Args:
    x: images with values in [-1, 1].
    known: their pixels that are not hidden.
    eps: standard normal noise for their latents; None with a codebook.
    unreadable: names of images that others stand in for, each with the reason.
    """

    x: Float[Tensor, "b c h w"]
    known: Bool[Tensor, "b h w"]
    eps: Float[Tensor, "b k i j"] | None
    unreadable: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What :class:`AutoencoderLoss` takes."""
        return (self.x, self.known) if self.eps is None else (self.x, self.known, self.eps)

    def pin_memory(self) -> "ImageBatch":
        """In page-locked memory, from which a GPU copies without waiting; torch's ``DataLoader`` looks for this."""
        pinned = [tensor.pin_memory() for tensor in self.tensors]
        return replace(self, **dict(zip(("x", "known", "eps"), pinned, strict=False)))


class ImageBatches:
    """Batches by step number.

    Sample number ``c`` of a run, counted over all steps and devices, fixes its image, crop, flip, mask and noise.
    """

    def __init__(self, config: AutoencoderTraining, images: ImageSet) -> None:
        self._config, self._images = config, images
        self._latent = latent_shape(config.shape(images.channels), config.image_size)
        self._index = shuffled(config.seed, len(images))

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> ImageBatch:
        """The share of process ``rank`` of ``world`` in the batch of a step, counted from 0."""
        size = self._config.batch_size
        unreadable: list[str] = []
        samples = [self._sample(step * size + row, unreadable.append) for row in range(rank, size, world)]
        x, known, eps = (torch.stack(each) for each in zip(*samples, strict=True))
        return ImageBatch(x, known, eps if self._config.codes is None else None, tuple(unreadable))

    def _sample(self, counter: int, on_unreadable: Callable[[str], None]) -> tuple[Tensor, Tensor, Tensor]:
        config = self._config
        stream = generator(config.seed, "sample", counter)
        crop, flip, hide = torch.rand(3, generator=stream).tolist()
        known = some_known(config.image_size, stream) if hide < config.masked else all_known(config.image_size)
        eps = torch.randn(self._latent, generator=stream)
        flipped = config.flip and flip < 0.5
        return self._images.square(self._index(counter), crop, flipped, stream, on_unreadable), known, eps


def latent_shape(shape: AutoencoderConfig, image_size: int) -> tuple[int, int, int]:
    """Of the latent of an image."""
    side = image_size // shape.factor
    return shape.channels, side, side


def all_known(side: int) -> Bool[Tensor, "{side} {side}"]:
    return torch.ones(side, side, dtype=torch.bool)


def some_known(side: int, generator: Generator) -> Bool[Tensor, "{side} {side}"]:
    """One of the four families of :func:`apd_generate.draw_mask` or a box, or the complement of such, all equally
    likely; some pixels are known, and some are not."""
    kind, complement = torch.rand(2, generator=generator).tolist()
    names = (*MASK_FAMILIES, "box")
    name = names[int(kind * len(names))]
    known = (
        box((side, side))(1, generator).reshape(side, side) if name == "box" else draw_mask(name, side, side, generator)
    )
    return ~known if complement < 0.5 else known


def fixed_masks(count: int, side: int, masked: float) -> Bool[Tensor, "{count} {side} {side}"]:
    """Masks that do not depend on a run's seed; a share of them hides something, evenly spread."""
    return torch.stack(
        [
            some_known(side, generator(0, "held-out mask", k))
            if int((k + 1) * masked) > int(k * masked)
            else all_known(side)
            for k in range(count)
        ]
    )
