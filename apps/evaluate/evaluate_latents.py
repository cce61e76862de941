"""Images as a model of latents is trained on them."""

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor

from apd_models import Codec, Pretrained


def latents_of(
    codec: Codec, pretrained: Pretrained, batches: Iterable[Tensor], seed: int, on_image: Callable[[int], None]
) -> Tensor:
    """Drawn from what the autoencoder says of each image, and standardised."""
    scale, seeded, found = pretrained.latents, Generator().manual_seed(seed), []
    assert scale is not None
    for images in batches:
        for image in images.split(1):
            mean, log_var = codec.moments(image)
            drawn = mean.cpu()
            if log_var is not None:
                drawn = drawn + (0.5 * log_var.cpu()).exp() * torch.randn(drawn.shape, generator=seeded)
            found.append(scale.standardise(drawn))
            on_image(len(found))
    return torch.cat(found)
