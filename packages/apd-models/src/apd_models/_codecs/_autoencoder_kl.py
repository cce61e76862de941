"""The autoencoder of latent diffusion, from local files. Needs diffusers (``apd-models[latents]``)."""

from pathlib import Path

import torch

from ._codec import Codec
from ._diffusers import KL
from ._diffusers_files import CONFIG, weights_at, with_config
from ._lone_file import without_config


def autoencoder_kl(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The autoencoder of Stable Diffusion and its kin (Rombach et al. 2022, arXiv:2112.10752) as diffusers has it.

    It computes in float32, whatever precision the file has. ``encode`` gives the mean of the posterior, not multiplied
    by the ``scaling_factor`` in its configuration: the scale belongs to the model, see :class:`LatentScale`. Nothing is
    downloaded, and no pickle is opened.

    Args:
        source: a folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``; or a ``.safetensors``, in the
            names of diffusers or of the original code. Where there is no ``config.json`` beside it, its shapes say
            what it is, and ``stats`` is None, for nothing tells the scale. A checkpoint of a whole model will do.

    Raises:
        CodecError: diffusers is not installed, or there is no such autoencoder, or it is incomplete or damaged.
    """
    file = weights_at(Path(source), alone=True)
    return with_config(KL, file, device) if file.with_name(CONFIG).is_file() else without_config(file, device)
