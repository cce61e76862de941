"""Which autoencoder a folder holds."""

import json
from pathlib import Path

import torch

from ._autoencoder_kl import autoencoder_kl
from ._codec import Codec, CodecError
from ._identity import FORMAT as IDENTITY, identity
from ._trained import FORMAT as OURS, autoencoder


def load_codec(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The autoencoder of a folder or file: one that ``apps/train autoencoder-…`` trained, an ``AutoencoderKL`` of
    diffusers, or an :func:`identity` that was saved.

    Raises:
        CodecError: there is none, or it is incomplete or damaged, or diffusers is needed and not installed.
    """
    source = Path(source)
    config = source / "config.json"
    try:
        said = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
    except (OSError, ValueError) as error:
        raise CodecError(f"{config} cannot be read as JSON: {' '.join(str(error).split()):.200}") from error
    match said.get("format") if isinstance(said, dict) else None:
        case found if found == OURS:
            return autoencoder(source, device)
        case found if found == IDENTITY:
            channels = said.get("image_channels")
            if not isinstance(channels, int):
                raise CodecError(f"{config} does not say image_channels, a whole number")
            return identity(channels)
        case _:
            return autoencoder_kl(source, device)
