"""An autoencoder of our own as a codec, and its folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._device import usable
from ._autoencoder import Autoencoder, AutoencoderConfig
from ._codec import (
    Codec,
    CodecError,
    Moments,
    check_images,
    check_latents,
    digest_of,
    no_autocast,
    put_whole,
)
from ._latent_scale import LatentScale

FORMAT, VERSION = "apd-models/autoencoder", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    network: Autoencoder = field(repr=False)
    stats: LatentScale | None
    digest: str

    @property
    def factor(self) -> int:
        return self.network.config.factor

    @property
    def channels(self) -> int:
        return self.network.config.channels

    @property
    def image_channels(self) -> int:
        return self.network.config.image_channels

    @property
    def config(self) -> Mapping[str, Any]:
        return {"kind": "autoencoder", **_as_json(self.network.config)}

    @torch.no_grad()
    def moments(self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
        check_images(self, images, known)
        like = self.network.encoder_in.weight
        with no_autocast(like.device):
            return self.network.moments(images.to(like), None if known is None else known.to(like.device))

    def encode(
        self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b k i j"]:
        return self.moments(images, known).mean

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b k i j"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        check_latents(self, latents, known)
        like = self.network.encoder_in.weight
        with no_autocast(like.device):
            quantised = self.network.quantised(latents.to(like))
            return self.network.decode(quantised, None if known is None else known.to(like.device))

    def save(self, folder: Path) -> None:
        put_whole(folder, self._write)

    def _write(self, folder: Path) -> None:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        try:
            save_file(state, folder / WEIGHTS, metadata={"format": FORMAT})
        except SafetensorError as error:  # of the operating system, in its words
            raise OSError(str(error)) from error
        config = {
            "format": FORMAT,
            "version": VERSION,
            "autoencoder": _as_json(self.network.config),
            **({} if self.stats is None else {"latents": asdict(self.stats)}),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def as_codec(network: Autoencoder, stats: LatentScale | None = None) -> Codec:
    """A trained autoencoder as a codec. Its weights must not change any more: they are part of its digest.

    With a codebook, ``encode`` gives latents that are not quantised yet, which is what diffusion models are trained on,
    and ``decode`` quantises them (Rombach et al. 2022, arXiv:2112.10752, section 3.2).

    Args:
        stats: the scale of its latents on what it was trained on.

    Raises:
        CodecError: the scale is of another number of channels, or weights are in half precision.
    """
    if stats is not None and stats.channels != network.config.channels:
        raise CodecError(
            f"the scale is of {stats.channels} channels, and the autoencoder makes latents of {network.config.channels}"
        )
    for name, tensor in network.state_dict().items():
        if tensor.dtype.itemsize < 4:
            raise CodecError(
                f"an autoencoder's weights are in float32, and {name} is in {tensor.dtype}: network.float()"
            )
    network.eval().requires_grad_(False)
    return _Trained(network, stats, digest_of(_as_json(network.config), network.state_dict()))


def autoencoder(folder: str | Path, device: str | torch.device = "cpu") -> Codec:
    """Loads an autoencoder that :func:`as_codec` saved, or ``apps/train autoencoder-…`` trained.

    Raises:
        CodecError: there is none, or it is incomplete or damaged; or there is no such device.
    """
    file = Path(folder) / CONFIG
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CodecError(f"{file} cannot be read: {_line(error)}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT or said.get("version") != VERSION:
        raise CodecError(f"{file} is not of an autoencoder of this kind, {FORMAT} of version {VERSION}")
    try:
        shape: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in said["autoencoder"].items()}
        config = AutoencoderConfig(**shape)
        scale = said.get("latents")
        stats = (
            None if scale is None else LatentScale(tuple(map(float, scale["mean"])), tuple(map(float, scale["std"])))
        )
        with torch.device("meta"):
            network = Autoencoder(config)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else _line(error)
        raise CodecError(f"{file} does not describe an autoencoder: {reason}") from error
    device = usable(device, CodecError)
    weights = file.with_name(WEIGHTS)
    try:
        with safe_open(weights, framework="pt", device=str(device)) as tensors:
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}
        state = {name: tensor.float() if tensor.dtype.itemsize < 4 else tensor for name, tensor in state.items()}
        network.load_state_dict(state, assign=True)
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CodecError(f"{weights} does not hold the weights of this autoencoder: {_line(error)}") from error
    return as_codec(network, stats)


def _as_json(config: AutoencoderConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.200}"
