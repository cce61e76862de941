"""Make a model folder of public weights: `uv run apps/convert --from DiT-XL-2-256x256.pt --as dit --out models/xl`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    install_import_hook(["apd_schedules", "apd_samplers", "apd_models", "apd_train"], "beartype.beartype")

import tyro
from rich.console import Console

from apd_models import ForeignConvention, from_foreign, save_pretrained
from apd_train.app import UsageError, run_app

MODEL_FILES = {"config.json", "model.safetensors"}


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
    config, patchify = found.model.config, found.patchify
    try:
        save_pretrained(options.out, found.model, patchify, found.class_names, found.weights)
    except OSError as error:
        raise UsageError(f"{options.out} cannot be written: {error.strerror or error}") from error

    console = Console(soft_wrap=True, markup=False, highlight=False)
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    (rows, columns), patch = patchify.grid, patchify.patch
    for line in (
        f"weights  {found.weights}",
        f"network  {config.depth} blocks, width {config.width}, {config.heads} heads, {parameters:,} parameters",
        f"images   {patchify.channels}×{patchify.height}×{patchify.width}: {rows}×{columns} patches of {patch}×{patch}",
        f"classes  {config.classes}, and none",
    ):
        console.print(line)
    if patchify.channels == 4:
        console.print("images of 4 channels are latents: the autoencoder of the training decodes them, over 0.18215")
    console.print(f"→ {options.out}")


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
