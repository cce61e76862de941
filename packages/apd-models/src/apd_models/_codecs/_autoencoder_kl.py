"""The autoencoder of latent diffusion, from a local folder of diffusers. Needs diffusers (``apd-models[latents]``)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ._codec import LOG_VAR, Codec, CodecError, Moments, check_images, check_latents, digest_of, without_hidden
from ._latent_scale import LatentScale

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
    stats: LatentScale | None
    digest: str

    @property
    def config(self) -> Mapping[str, Any]:
        return {"kind": KIND, **{name: _as_json(value) for name, value in self.network.config.items()}}

    @torch.no_grad()
    def moments(self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
        check_images(self, images, known)
        given = self.network.encode(without_hidden(images, known).to(self.network.device)).latent_dist
        return Moments(given.mean, given.logvar.clamp(*LOG_VAR))

    def encode(
        self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b k i j"]:
        return self.moments(images, known).mean

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b k i j"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        check_latents(self, latents)
        return self.network.decode(latents.to(self.network.device)).sample

    def save(self, folder: Path) -> None:
        self.network.save_pretrained(folder, safe_serialization=True)


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
    stats = _stats(shape, shape["latent_channels"])
    digest = digest_of({"kind": KIND}, network.state_dict())
    return _AutoencoderKL(network, factor, shape["latent_channels"], shape["in_channels"], stats, digest)


def _stats(shape: Mapping[str, Any], channels: int) -> LatentScale | None:
    """Of ``shift_factor`` and ``scaling_factor``, or of numbers for each channel where it has those."""
    mean, std = shape.get("latents_mean"), shape.get("latents_std")
    if mean is not None and std is not None and len(mean) == len(std) == channels:
        return LatentScale(tuple(map(float, mean)), tuple(map(float, std)))
    scaling = shape.get("scaling_factor")
    if not scaling:
        return None
    return LatentScale((float(shape.get("shift_factor") or 0.0),) * channels, (1 / float(scaling),) * channels)


def _as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


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
