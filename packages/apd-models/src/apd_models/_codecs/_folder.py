"""Which autoencoder a folder holds."""

import json
import os
from pathlib import Path

import torch

from ._autoencoder_dc import autoencoder_dc
from ._autoencoder_kl import autoencoder_kl
from ._codec import Codec, CodecError
from ._diffusers import DC
from ._identity import FORMAT as IDENTITY, VERSION as IDENTITY_VERSION, identity
from ._trained import FORMAT as OURS, WEIGHTS, autoencoder


def load_codec(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The autoencoder of a folder or file: one that ``apps/train autoencoder-…`` trained, an ``AutoencoderKL`` or
    ``AutoencoderDC`` of diffusers, an ``AutoencoderKL`` in a file of its own, or an :func:`identity` that was saved.

    Raises:
        CodecError: there is none, or it is incomplete or damaged, or diffusers is needed and not installed.
    """
    source = Path(source)
    try:
        config = source / "config.json" if source.is_dir() else source.with_name("config.json")
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
    except (OSError, ValueError) as error:
        raise CodecError(f"{source} cannot be read: {' '.join(str(error).split()):.200}") from error
    said = said if isinstance(said, dict) else {}
    if said.get("format") in (OURS, IDENTITY) and not (
        source.is_dir() or (source.name == WEIGHTS and source.is_file())
    ):
        raise CodecError(f"{source} is no autoencoder; {source.parent} is the folder of one")
    if not os.path.exists(source):
        raise CodecError(
            f"{source} is no autoencoder: expected a folder with one, of apps/train autoencoder-… or of diffusers, "
            "or a .safetensors, and there is nothing"
        )
    match said.get("format"):
        case found if found == OURS:
            return autoencoder(config.parent, device)
        case found if found == IDENTITY:
            channels = said.get("image_channels")
            if said.get("version") != IDENTITY_VERSION or not isinstance(channels, int):
                raise CodecError(f"{config} does not say image_channels, or is not of version {IDENTITY_VERSION}")
            return identity(channels)
        case _ if said.get("_class_name") == DC.name:
            return autoencoder_dc(source, device)
        case _:
            return autoencoder_kl(source, device)
