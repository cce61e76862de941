"""What the command line says, and what is to be encoded by it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from apd_models import Codec, identity, load_codec
from apd_train import ImageSet, ToEncode, load_to_encode, source_of
from apd_train.app import UsageError

IDENTITY = "identity"
OnImage = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    data: Path | None = None
    """Images to encode: a folder, in which each sub-folder is a class, or a .zip of one; LSUN's LMDB; parquet files; an
    .npz or .safetensors of arrays. See docs/data.md."""
    codec: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """The autoencoder: the model folder of apps/train autoencoder-…; the folder of an AutoencoderKL or AutoencoderDC of
    diffusers, such as the vae of a Stable Diffusion, or its .safetensors file; or identity, for pixels as they are."""
    size: int | None = None
    """Side of the square images in pixels, a multiple of the autoencoder's factor. Latents are smaller by that
    factor."""
    out: Path
    """Folder for the set."""
    no_mirror: bool = False
    """Leave out the latents of mirror images: half of the time and of the space. Latents cannot be mirrored afterwards:
    such a set is for recipes that mirror nothing, such as emoji64-latent."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the numbers in the set. float16 takes half of the space; its rounding is far below what the autoencoder
    loses."""
    batch: int = 16
    """Images that are encoded together. Less where memory is short; more does not help much."""
    shard: int = 2048
    """Images in a file. Whatever ends the app, at most the file under way has to be made anew."""
    workers: int | None = None
    """Processes that read and scale images ahead. By default 8 with a GPU, or as many as there are processors, else 1:
    the autoencoder needs them."""
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Make this part of the set, one of 0/N to N-1/N, which processes on N GPUs or machines that see --out make at the
    same time. Whichever ends last completes the set. Any of them goes on by the same command."""
    resume: bool = False
    """Go on with the set that the folder holds: give the same command and this. Files that are complete are kept. Where
    there is no set yet, one is begun."""
    overwrite: bool = False
    """Replace the set that the folder holds."""
    verify: bool = False
    """Make nothing, but look at all of the set: contents against their digests, that each image is there once, means
    and deviations; and encode a few images anew, if they are still where they were or --data says where they are."""
    threads: int | None = None
    """CPU threads. By default what PyTorch finds."""


@dataclass(frozen=True)
class Plan:
    """Args:
    workers: processes that read ahead.
    part: number of this part, and of how many.
    """

    options: Options
    wanted: ToEncode
    workers: int
    part: tuple[int, int]
    device: torch.device

    @property
    def side(self) -> int:
        """Of the latents."""
        return self.wanted.images.size // self.wanted.codec.factor


def plan_of(options: Options) -> Plan:
    """What the options come to; it changes nothing."""
    check(options)
    if options.data is None or options.codec is None or options.size is None:
        lacking = [name for name in ("data", "codec", "size") if getattr(options, name) is None]
        raise UsageError(f"say what to encode: --{', --'.join(lacking)} (see --help)")
    part, device = part_of(options.part), device_here()
    images = load_to_encode(source_of(options.data), options.size)
    codec = codec_of(options.codec, images, device)
    wanted = ToEncode(images, codec, not options.no_mirror, options.dtype, options.shard)
    workers = options.workers
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 1
    return Plan(options, wanted, workers, part, device)


def check(options: Options) -> None:
    for name, least in (("batch", 1), ("shard", 1), ("threads", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} must be at least {least}, got {value}")
    if options.verify:
        others = [name for name in ("codec", "size", "part") if getattr(options, name) is not None]
        others += [name for name in ("resume", "overwrite", "no_mirror") if getattr(options, name)]
        defaults = {"dtype": Options.dtype, "batch": Options.batch, "shard": Options.shard, "workers": None}
        others += [name for name, value in defaults.items() if getattr(options, name) != value]
        if others:
            raise UsageError(f"--{others[0].replace('_', '-')} goes without --verify, which looks at what is there")


def part_of(said: str | None) -> tuple[int, int]:
    """(0, 1) of all."""
    if said is None:
        return 0, 1
    found = re.fullmatch(r"(\d+)/(\d+)", said)
    if found is None or int(found[1]) >= int(found[2]):
        raise UsageError(f"--part is one of 0/N to N-1/N, such as 0/8, not {said}")
    return int(found[1]), int(found[2])


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def codec_of(said: str, images: ImageSet, device: torch.device) -> Codec:
    return identity(images.channels) if said == IDENTITY else load_codec(said, device)
