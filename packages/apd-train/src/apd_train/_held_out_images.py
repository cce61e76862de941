"""What an autoencoder achieves on images that it is not trained on."""

from collections.abc import Callable

import torch

from ._autoencoder_config import AutoencoderTraining
from ._autoencoder_loss import PARTS, AutoencoderLoss, watched, watched_sums
from ._data import ImageSet
from ._held_out import HeldOut
from ._image_batches import fixed_masks, latent_shape
from ._random import generator
from ._signals import Stopped


class HeldOutReconstruction:
    """The training losses on held-out images, with masks and noise that never change, not even with the run's seed.

    Args:
        module: the model that is trained, with its losses around it.
        together: images that go through the network together.
    """

    def __init__(self, config: AutoencoderTraining, images: ImageSet, module: AutoencoderLoss, together: int) -> None:
        self._module, self._images, self._together = module, images, together
        self._known = fixed_masks(len(images), config.image_size, config.masked)
        shape = latent_shape(module.model.config, config.image_size)
        draws = torch.randn(len(images), *shape, generator=generator(0, "held-out latents"))
        self._eps = draws if config.codes is None else None
        self._sums = watched_sums(config)

    @torch.no_grad()
    def __call__(self, should_stop: Callable[[], bool] = lambda: False) -> HeldOut:
        """
        Args:
            should_stop: asked now and then, by all processes alike.

        Raises:
            Stopped: it said so.
        """
        device, count = self._module.model.device, len(self._images)
        totals, sums = torch.zeros(len(PARTS), device=device), torch.zeros(self._sums, device=device)
        for start in range(0, count, self._together):
            if should_stop():
                raise Stopped
            rows = range(start, min(start + self._together, count))
            x, known = self._images.squares(rows), self._known[start : rows.stop]
            eps = None if self._eps is None else self._eps[start : rows.stop].to(device)
            parts, counted = self._module(x.to(device), known.to(device), eps)
            totals += parts * (len(rows) / count)
            sums += counted
        parts = dict(zip(PARTS, totals.tolist(), strict=True))
        return HeldOut(sum(parts.values()), others={**parts, **watched(sums)})
