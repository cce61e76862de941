"""Small models of latents and their autoencoders, as folders."""

from pathlib import Path

import torch
from torch import Generator

from apd_models import (
    Autoencoder,
    AutoencoderConfig,
    DiT,
    DiTConfig,
    LatentScale,
    Patchify,
    as_codec,
    load_codec,
    save_pretrained,
)


def make_codec(folder: Path, seed: int = 0) -> Path:
    """One of ours with random weights, of RGB images, twice as large as its latents of 4 channels."""
    network = Autoencoder(AutoencoderConfig(widths=(8, 8), blocks=(1, 0)))
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    as_codec(network).save(folder)
    return folder


def make_latent_model(
    folder: Path,
    codec: Path | None,
    inside: bool = True,
    side: int = 8,
    names: tuple[str, ...] = (),
    error_head: bool = False,
) -> Path:
    """Of latents in patches of 2×2 cells.

    Args:
        codec: that it says it is of.
        inside: the model folder has it.
        side: of the latents, half of that of the images.
    """
    torch.manual_seed(0)
    shape = DiTConfig((side // 2, side // 2), 16, 32, 1, 2, classes=len(names), error_head=error_head)
    dit = DiT(shape)
    torch.nn.init.normal_(dit.head.weight, std=0.1)
    digest = None if codec is None else load_codec(codec).digest
    scale = LatentScale((0.1, 0.0, -0.2, 0.0), (0.5, 0.4, 0.5, 0.6), digest)
    save_pretrained(folder, dit, Patchify(side, side, 4, 2), names, "at random", scale, codec if inside else None)
    return folder
