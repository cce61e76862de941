"""What a model achieves on images that it is not trained on."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from apd_models import DiT, Patchify
from apd_samplers import Draw
from apd_schedules import NoiseMap

from ._batches import training_draws
from ._config import TrainConfig
from ._data import ImageSet
from ._random import generator
from ._signals import Stopped
from ._step import losses


class HeldOut(NamedTuple):
    """Args:
    loss: what is trained on; of a diffusion model, the weighted squared error per element.
    error_nll: negative log-likelihood of the errors; None without an error head.
    others: what else was measured, by name.
    """

    loss: float
    error_nll: float | None = None
    others: Mapping[str, float] = MappingProxyType({})

    def metrics(self) -> dict[str, float]:
        """As ``metrics.jsonl`` has them."""
        named = {"loss": self.loss, "error_nll": self.error_nll, **self.others}
        return {f"heldout_{name}": value for name, value in named.items() if value is not None}


class HeldOutLoss:
    """The training losses on held-out images, with labels and with noise and levels that never change.

    They do not even depend on the run's seed, so the numbers of two runs with one law of levels can be compared.

    Args:
        together: images that go through the network together; by default a batch.
    """

    def __init__(self, config: TrainConfig, images: ImageSet, patchify: Patchify, together: int | None = None) -> None:
        self._x = patchify.to_tokens(images.squares())
        self._eps = torch.randn(self._x.shape, generator=generator(0, "held-out noise"))
        self._label = images.labels if images.class_names else None
        self._draw = training_draws(config, patchify)(len(images), generator(0, "held-out levels"))
        self._chunk = together or config.batch_size

    @torch.no_grad()
    def __call__(self, model: DiT, should_stop: Callable[[], bool] = lambda: False) -> HeldOut:
        """
        Args:
            should_stop: asked now and then, by all processes alike.

        Raises:
            Stopped: it said so.
        """
        device = model.device
        totals = [0.0] * (1 if model.error is None else 2)
        for i in range(0, len(self._x), self._chunk):
            if should_stop():
                raise Stopped
            rows = slice(i, i + self._chunk)
            draw = Draw(NoiseMap(self._draw.noise.log_snr[rows]), self._draw.weight[rows]).to(device)
            label = None if self._label is None else self._label[rows].to(device)
            parts = losses(model, self._x[rows].to(device), draw, self._eps[rows].to(device), label)
            totals = [total + float(part.sum()) for total, part in zip(totals, parts, strict=True)]
        squared, *nll = totals
        return HeldOut(squared / self._x.numel(), nll[0] / len(self._x) if nll else None)
