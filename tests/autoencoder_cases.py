"""Autoencoders and runs of them, small enough for a test."""

import torch
from torch import Generator, Tensor

from apd_models import Autoencoder, AutoencoderConfig
from apd_train import Animals28, AutoencoderTraining, ImageSet

SMALL: dict[str, object] = {
    "data": Animals28(),
    "image_size": 8,
    "channels": 2,
    "widths": (4, 6),
    "blocks": (1, 1),
    "features_weight": 0.0,
    "batch_size": 4,
    "log_every": 2,
    "evaluate_every": 4,
}


def training_of(**options: object) -> AutoencoderTraining:
    return AutoencoderTraining(**{**SMALL, **options})  # pyrefly: ignore


def some_autoencoder(codes: int | None = None, seed: int = 0) -> Autoencoder:
    """In float64, and nothing at zero."""
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Autoencoder(AutoencoderConfig(1, 2, (4, 6), (1, 1), codes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def some_images(count: int = 40) -> ImageSet:
    """Grey, of two classes, each a smooth pattern of its own: what can be learned in a moment."""
    at = torch.linspace(0, 3, 8)
    draw = torch.rand(4, count, 1, 1, generator=Generator().manual_seed(3))
    waves = torch.sin(6.3 * draw[0] + draw[1] * 2 * at[:, None] + draw[2] * 2 * at) * (0.3 + 0.7 * draw[3])
    pixels = ((waves + 1) * 127.5).round().to(torch.uint8)[:, None]
    return ImageSet([*pixels], torch.arange(count) % 2, ("a", "b"), 8)


def some_batch(count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Images, of which every second one is masked, and noise for their latents; in float64."""
    generator = Generator().manual_seed(1)
    x = torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1
    known = torch.rand(count, 8, 8, generator=generator) < 0.7
    known[1:, :4] = True
    known[::2] = True
    return x, known, torch.randn(count, 2, 4, 4, generator=generator, dtype=torch.float64)
