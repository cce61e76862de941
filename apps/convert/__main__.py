"""Make a model folder of public weights.

  uv run apps/convert --from DiT-XL-2-256x256.pt --as dit --codec sd-vae-ft-mse --out models/xl
  uv run apps/convert --from SiT-B-2.pt --as sit --heads 12 --out models/b

With the autoencoder that the weights were trained with, the folder is complete: apps/sample and the others decode with
no further flag.
"""

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    install_import_hook(["apd_schedules", "apd_samplers", "apd_models", "apd_train"], "beartype.beartype")

import tyro
from rich.console import Console

from apd_models import Codec, ForeignConvention, Pretrained, check_codec, from_foreign, load_codec, save_pretrained
from apd_train.app import UsageError, run_app

MODEL_FILES = {"config.json", "model.safetensors", "codec"}


@dataclass(frozen=True)
class Options:
    from_: Annotated[Path, tyro.conf.arg(name="from", metavar="PATH")]
    """What to convert: a checkpoint of DiT or SiT (.safetensors, .pt, .pth, .ckpt; of a training checkpoint its average
    is taken), or a folder of diffusers, of a DiTTransformer2DModel or of its pipeline. A pickle is read as weights
    only: no code in it is run."""
    as_: Annotated[ForeignConvention, tyro.conf.arg(name="as")]
    """What the weights were trained to do. dit: predict the noise at a timestep of DDPM. sit: predict the velocity on
    the linear path; the files of the two look alike. diffusers: what diffusers computes, which is dit with other
    frequencies of the timestep's features; of weights that diffusers has from the original DiT, dit is what they were
    trained with."""
    out: Path
    """Model folder to write, whole or not at all."""
    codec: Path | None = None
    """Autoencoder of the latents that the weights are of: a folder, whose config.json says the scale of its latents. It
    becomes a part of the model folder, and the scale the model's. That of the published DiT and SiT is Stable
    Diffusion's AutoencoderKL, whose scaling_factor is 0.18215."""
    heads: int | None = None
    """Attention heads. Weights do not tell; those of S, B, L, XL and of diffusers are known."""
    names: Path | None = None
    """Text file of class names, one a line, in the order of the labels. By default the pipeline's, or numbers."""
    overwrite: bool = False
    """Replace a model that is there already."""


def convert(options: Options) -> None:
    if options.heads is not None and options.heads < 1:
        raise UsageError(f"--heads must be at least 1, got {options.heads}")
    check_out(options.out, options.from_, options.overwrite)
    names = None if options.names is None else read_names(options.names)
    found = from_foreign(options.from_, options.as_, heads=options.heads, class_names=names)
    codec = None
    if options.codec is not None:
        codec = load_codec(options.codec)
        found = with_scale(found, codec, options.codec)
    config, patchify = found.model.config, found.patchify
    try:
        write(options.out, found, codec)
    except OSError as error:
        raise UsageError(f"{options.out} cannot be written: {error.strerror or error}") from error

    console = Console(soft_wrap=True, markup=False, highlight=False)
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    (rows, columns), patch = patchify.grid, patchify.patch
    of = "images" if codec is None else "latents"
    for line in (
        f"weights  {found.weights}",
        f"network  {config.depth} blocks, width {config.width}, {config.heads} heads, {parameters:,} parameters",
        f"{of:7}  {patchify.channels}×{patchify.height}×{patchify.width}: {rows}×{columns} patches of {patch}×{patch}",
        f"classes  {config.classes}, and none",
    ):
        console.print(line)
    if codec is not None:
        height, width = patchify.height * codec.factor, patchify.width * codec.factor
        console.print(
            f"images   {codec.image_channels}×{height}×{width}, by {codec.config['kind']} {codec.digest:.12}…"
        )
    elif patchify.channels not in (1, 3):
        console.print(
            f"images of {patchify.channels} channels are latents: with --codec PATH, the autoencoder of the training "
            "comes into the folder"
        )
    console.print(f"→ {options.out}")


def with_scale(found: Pretrained, codec: Codec, source: Path) -> Pretrained:
    """The model as one of these latents, at the scale that the autoencoder says."""
    if codec.stats is None:
        raise UsageError(f"{source} does not say the scale of its latents (scaling_factor), which the model needs")
    of_latents = replace(found, latents=replace(codec.stats, codec=codec.digest))
    check_codec(codec, of_latents)
    return of_latents


def write(out: Path, found: Pretrained, codec: Codec | None) -> None:
    """The model folder, and its autoencoder in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}-codec-", dir=out.parent) as place:
        folder = None
        if codec is not None:
            folder = Path(place) / "codec"
            codec.save(folder)
        of = found
        save_pretrained(out, of.model, of.patchify, of.class_names, of.weights, of.latents, folder)


def check_out(out: Path, source: Path, overwrite: bool) -> None:
    """Refuses to replace anything but a model, and that unless asked."""
    try:
        present = {file.name for file in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UsageError(f"{out} cannot be a model folder: {error.strerror}") from error
    if present - MODEL_FILES or (present and source.resolve().is_relative_to(out.resolve())):
        raise UsageError(f"{out} holds other files than a model: choose another --out")
    if present and not overwrite:
        raise UsageError(f"{out} already holds a model: pass --overwrite or another --out")


def read_names(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read as a text file of class names: {error}") from error


if __name__ == "__main__":
    run_app("apps/convert", Options, convert, (__doc__ or "").replace("`", ""), sys.argv[1:])
