"""Autoencoders, images and masks to test with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from apd_generate import MASK_FAMILIES, draw_mask
from apd_models import Autoencoder, AutoencoderConfig, LatentScale, Moments, without_hidden


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Values in [-1, 1]."""
    return 2 * torch.rand(*shape, generator=Generator().manual_seed(seed)) - 1


def our_network(config: AutoencoderConfig) -> Autoencoder:
    """With weights at random, none as it begins, so that no layer is without effect."""
    return _random(lambda: Autoencoder(config), 0.2)


def masks(height: int, width: int, seed: int = 0) -> Tensor:
    """Known pixels: of each family twice, boxes, single pixels, all, none."""
    generator = Generator().manual_seed(seed)
    known = [draw_mask(family, height, width, generator) for family in MASK_FAMILIES for _ in range(2)]
    for _ in range(4):
        top, left = (int(torch.randint(size - 1, (), generator=generator)) for size in (height, width))
        boxed, dotted = torch.ones(2, height, width, dtype=torch.bool)
        boxed[top : top + 5, left : left + 9] = False
        dotted[top, left] = False
        known += [boxed, ~boxed, dotted]
    return torch.stack([*known, torch.ones_like(known[0]), torch.zeros_like(known[0])])


@dataclass(frozen=True)
class Blurred:
    """Latents are the pixels of a block after a blur: linear, and it looks two pixels beyond a block.

    Args:
        removes: what is hidden; one that does not is no codec.
    """

    removes: bool = True
    factor: int = 2
    channels: int = 3
    image_channels: int = 3
    digest: str = "blurred"
    stats: LatentScale | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {"kind": "blurred"}

    def moments(self, images: Tensor, known: Tensor | None = None) -> Moments:
        shown = without_hidden(images, known) if self.removes else images
        return Moments(F.avg_pool2d(F.avg_pool2d(shown, 5, 1, 2), self.factor), None)

    def encode(self, images: Tensor, known: Tensor | None = None) -> Tensor:
        return self.moments(images, known).mean

    def decode(self, latents: Tensor, known: Tensor | None = None) -> Tensor:
        return F.interpolate(latents, scale_factor=self.factor)

    def save(self, folder: Path) -> None:
        raise AssertionError("no test saves it")


def kl_network(**options: Any) -> Any:
    """An ``AutoencoderKL`` of diffusers with weights at random, those of norms too."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    options = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "layers_per_block": 1, **options}
    resolutions = len(options["block_out_channels"])
    shape = {
        "down_block_types": ("DownEncoderBlock2D",) * resolutions,
        "up_block_types": ("UpDecoderBlock2D",) * resolutions,
        "latent_channels": 4,
        "scaling_factor": 0.25,
        "shift_factor": 0.5,
    }
    return _random(lambda: AutoencoderKL(**{**shape, **options}), 0.1).requires_grad_(False)


def dc_network(**options: Any) -> Any:
    """An ``AutoencoderDC`` of diffusers with weights at random, with a stage of convolutions and one of attention."""
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

    shape = {"latent_channels": 4, "attention_head_dim": 4, "scaling_factor": 0.4}
    for way in ("encoder", "decoder"):
        stages = {"block_types": ("ResBlock", "EfficientViTBlock"), "block_out_channels": (8, 16)}
        stages |= {"layers_per_block": (1, 1), "qkv_multiscales": ((), (5,))}
        shape |= {f"{way}_{name}": value for name, value in stages.items()}
    return _random(lambda: AutoencoderDC(**{**shape, **options}), 0.1).requires_grad_(False)


def _random(make: Callable[[], Any], spread: float) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make()
        for parameter in network.parameters():
            parameter.data += spread * torch.randn_like(parameter)
    return network.eval()
