"""How much the latents of what is visible move when the rest is hidden, by distance from it.

    uv run python benchmarks/leak.py docs/results/leak.json [DIR ...]

Measures two autoencoders with weights at random, an `AutoencoderKL` of diffusers in its standard architecture (that of
Stable Diffusion, 83.7 million parameters) and the library's own in its default size, and each DIR. An image is a mosaic
of sixteen embedded animals, 128×128; its left quarter is hidden, and the negative of it takes its place in `changing`
and `unmasked`. Random weights tell how far an autoencoder looks; how much a trained one makes of it they do not.
"""

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from apd_models import Autoencoder, AutoencoderConfig, Codec, as_codec, dilation, leak, load_codec
from apd_train import load_animals28

SIDE, IMAGES = 128, 4
BOUNDS = (0.3, 0.1, 0.03, 0.0)


def mosaics(channels: int) -> Tensor:
    """Images with values in [-1, 1]."""
    images = load_animals28().images
    animals = torch.stack([images[k] for k in range(16 * IMAGES)]).float() / 127.5 - 1
    padded = F.pad(animals, (2, 2, 2, 2), value=-1.0)
    rows = padded.view(IMAGES, 4, 4, 32, 32).transpose(2, 3).reshape(IMAGES, 1, SIDE, SIDE)
    return rows.expand(-1, channels, -1, -1).contiguous()


def standard() -> Codec:
    """By way of a folder, as any other."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    network: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return load_codec(folder)


def ours() -> Codec:
    """With its zeros at random too: as it begins, its blocks look at nothing."""
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderConfig())
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return as_codec(network)


def measured(codec: Codec) -> dict[str, Any]:
    start, images = time.perf_counter(), mosaics(codec.image_channels)
    known = torch.ones(IMAGES, SIDE, SIDE, dtype=torch.bool)
    known[:, :, : SIDE // 4] = False
    found = leak(codec, images, known, -images)
    print(found)
    grow = {str(bound): dilation(found, bound) for bound in BOUNDS}
    seconds = round(time.perf_counter() - start, 1)
    print(f"cells to grow by for a bound of hiding: {grow}; {seconds} s\n")
    return {"digest": codec.digest, "factor": codec.factor, "grow": grow, "seconds": seconds, **asdict(found)}


def main() -> None:
    out, *folders = map(Path, sys.argv[1:])
    codecs = {"AutoencoderKL, random weights": standard, "Autoencoder, random weights": ours}
    codecs |= {str(folder): lambda folder=folder: load_codec(folder) for folder in folders}
    results = {}
    for name, make in codecs.items():
        print(name)
        results[name] = measured(make())
    out.write_text(json.dumps({"torch": torch.__version__, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
