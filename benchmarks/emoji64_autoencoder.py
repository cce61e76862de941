"""Measures an autoencoder on images that it was not trained on, whole and with a part of them hidden.

    uv run python benchmarks/emoji64_autoencoder.py runs/emoji-autoencoder/model emoji64/test docs/results/OUT.json

Of a masked image, cells that are known whole have the latents that the encoder made of the visible pixels alone, and
the others those of the whole image, as a perfect model of latents would make them: what is lost is what hiding cost.
"""

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_generate import MASK_FAMILIES, draw_mask
from apd_metrics import efficientnet_lite0, feature_distance, psnr
from apd_models import Codec, known_cells, leak, load_codec
from apd_train import load_folder

SIDE, BATCH = 64, 32


def reconstructed(
    codec: Codec, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None
) -> Float[Tensor, "b c h w"]:
    """Through the latents and back, cut off at [-1, 1]."""
    latents = codec.encode(images)
    if known is not None:
        cells = known_cells(known, codec.factor)[:, None]
        latents = torch.where(cells, codec.encode(images, known), latents)
    return codec.decode(latents, known).clamp(-1, 1)


def measured(codec: Codec, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None) -> dict[str, float]:
    """Means over images with their standard errors; the PSNR of 8-bit images."""
    extractor = efficientnet_lite0(SIDE)
    rows: list[Tensor] = []
    for at in range(0, len(images), BATCH):
        x = images[at : at + BATCH]
        y = reconstructed(codec, x, None if known is None else known[at : at + BATCH])
        y = ((y + 1) * 127.5).round() / 127.5 - 1
        apart = feature_distance(extractor(x, maps=True).maps, extractor(y, maps=True).maps)
        rows.append(torch.stack([psnr(y, x), apart]))
    both = torch.cat(rows, 1)
    mean, error = both.mean(1).tolist(), (both.std(1) / len(images) ** 0.5).tolist()
    return {
        "psnr": round(mean[0], 3),
        "psnr_error": round(error[0], 3),
        "feature_distance": round(mean[1], 4),
        "feature_distance_error": round(error[1], 4),
    }


def main(model: str, folder: str, out: str) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    codec = load_codec(model)
    images = load_folder(folder, SIDE).squares()
    result: dict[str, Any] = {
        "codec": dict(codec.config),
        "digest": codec.digest,
        "images": len(images),
        "whole": measured(codec, images, None),
        "masked": {},
        "hiding_moves_rms_by_distance": {},
    }
    for family in MASK_FAMILIES:
        generator = torch.Generator().manual_seed(0)
        known = torch.stack([draw_mask(family, SIDE, SIDE, generator) for _ in images])
        result["masked"][family] = measured(codec, images, known)
        found = leak(codec, images, known, instead=images.roll(1, 0))
        result["hiding_moves_rms_by_distance"][family] = [round(rms, 5) for rms in found.hiding.rms]
        assert found.changing is not None
        result["masked"][family]["largest_change_by_hidden_pixels"] = max(found.changing.largest)
        print(family, result["masked"][family], result["hiding_moves_rms_by_distance"][family], flush=True)
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["machine"] = f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
    Path(out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["whole"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
