"""The deep compression autoencoder, from local files. Needs diffusers (``apd-models[latents]``)."""

from pathlib import Path

import torch

from ._codec import Codec
from ._diffusers import DC
from ._diffusers_files import weights_at, with_config


def autoencoder_dc(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The deep compression autoencoder (Chen et al. 2024, arXiv:2410.10733), of Sana and others, as diffusers has it.

    It has no distribution over latents: an image has one, and ``log_var`` is None. For the rest it is as
    :func:`autoencoder_kl`.

    Args:
        source: a folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``, or a ``.safetensors`` of
            diffusers with ``config.json`` beside it.

    Raises:
        CodecError: diffusers is not installed, or there is no such autoencoder, or it is incomplete or damaged.
    """
    return with_config(DC, weights_at(Path(source), alone=False), device)
