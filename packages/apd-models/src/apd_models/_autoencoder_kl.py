"""The autoencoder of latent diffusion, from a local folder of diffusers. Needs diffusers (``apd-models[latents]``)."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ._codec import Codec, CodecError, check_images, check_latents

KIND = "AutoencoderKL"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention as diffusers called them until 2023; many published files still do."""


@dataclass(frozen=True, slots=True, eq=False)
class _AutoencoderKL:
    """Args: network: diffusers' ``AutoencoderKL``, in evaluation mode."""

    network: Any = field(repr=False)
    factor: int
    channels: int
    image_channels: int

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        check_images(self, images)
        return self.network.encode(images).latent_dist.mean

    def decode(self, latents: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        check_latents(self, latents)
        return self.network.decode(latents).sample


def autoencoder_kl(source: str | Path, device: str | torch.device = "cpu") -> Codec:
    """The autoencoder of Stable Diffusion and its kin (Rombach et al. 2022, arXiv:2112.10752) as diffusers has it.

    It computes in float32, whatever precision the file has. ``encode`` gives the mean of the posterior, not multiplied
    by the ``scaling_factor`` in its configuration: the scale belongs to the model, see :class:`LatentScale`. Nothing is
    downloaded, and no pickle is opened.

    Args:
        source: a folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``, or a ``.safetensors`` of
            diffusers with ``config.json`` beside it, such as that of half precision.

    Raises:
        CodecError: diffusers is not installed, or there is no such autoencoder, or it is incomplete or damaged.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise CodecError(f'an {KIND} needs the package diffusers: pip install "apd-models[latents]"') from error

    file = _weights_at(Path(source))
    config = _read_config(file.with_name(CONFIG))
    try:
        with torch.device("meta"):
            network: Any = AutoencoderKL.from_config(config)
        shape = network.config
        if shape["in_channels"] != shape["out_channels"]:
            raise ValueError(f"it encodes {shape['in_channels']} channels and decodes to {shape['out_channels']}")
    except Exception as error:  # what is not its configuration fails in ways of its own
        raise CodecError(f"{file.with_name(CONFIG)} does not describe an {KIND}: {_line(error)}") from error
    try:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            state = {_renamed(name): tensors.get_tensor(name).float() for name in tensors.keys()}
        network.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CodecError(f"{file} does not hold the weights of this {KIND}: {_line(error)}") from error
    network.eval().requires_grad_(False)
    factor = 2 ** (len(shape["block_out_channels"]) - 1)
    return _AutoencoderKL(network, factor, shape["latent_channels"], shape["in_channels"])


def _weights_at(source: Path) -> Path:
    try:
        file = source / WEIGHTS if source.is_dir() else source
        if file.suffix == ".safetensors" and file.is_file() and file.with_name(CONFIG).is_file():
            return file
    except OSError as error:
        raise CodecError(f"{source} cannot be read: {error.strerror}") from error
    nested = f"; try {source / 'vae'}" if (source / "vae" / CONFIG).is_file() else ""
    pickles = "; pickles are not opened" if source.suffix == ".bin" or [*source.glob("*.bin")] else ""
    raise CodecError(
        f"{source} is no autoencoder: expected a folder with {CONFIG} and {WEIGHTS}, or a .safetensors with {CONFIG} "
        f"beside it{nested}{pickles}"
    )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CodecError(f"{file} cannot be read as JSON: {_line(error)}") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found != KIND:
        raise CodecError(f"{file} is not of an {KIND} of diffusers: _class_name is {found!r}")
    return config


def _renamed(name: str) -> str:
    return re.sub(r"(?<=attentions\.0\.)(query|key|value|proj_attn)\b", lambda old: RENAMED[old[1]], name)


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.200}"
