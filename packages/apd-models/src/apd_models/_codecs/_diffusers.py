"""Autoencoders as diffusers has them: which there are, and one that is loaded. Needs diffusers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._codec import (
    LOG_VAR,
    Codec,
    CodecError,
    Moments,
    check_images,
    check_latents,
    digest_of,
    no_autocast,
    put_whole,
    without_hidden,
)
from ._latent_scale import LatentScale


@dataclass(frozen=True, slots=True)
class Kind:
    """
    Args:
        name: of its class.
        widths: entry of the configuration with the channels at each resolution, each half of the one before.
        unseen: entries that decide what it computes and that no shape of a weight tells.
        moments: of what its ``encode`` returns.
    """

    name: str
    widths: str
    unseen: tuple[str, ...]
    moments: Callable[[Any], Moments]


def _normal(encoded: Any) -> Moments:
    given = encoded.latent_dist
    return Moments(given.mean, given.logvar.clamp(*LOG_VAR))


def _lone(encoded: Any) -> Moments:
    return Moments(encoded.latent, None)


KL = Kind("AutoencoderKL", "block_out_channels", ("act_fn", "norm_num_groups"), _normal)
DC = Kind(
    "AutoencoderDC",
    "encoder_block_out_channels",
    (
        *("attention_head_dim", "encoder_out_shortcut", "decoder_in_shortcut"),
        *("decoder_norm_types", "decoder_act_fns", "decoder_conv_act_fn"),
    ),
    _lone,
)
KINDS = {kind.name: kind for kind in (KL, DC)}


@dataclass(frozen=True, slots=True, eq=False)
class _OfDiffusers:
    """Args: network: an autoencoder of diffusers, in evaluation mode."""

    kind: Kind
    network: Any
    factor: int
    channels: int
    image_channels: int
    stats: LatentScale | None
    digest: str

    @property
    def config(self) -> Mapping[str, Any]:
        """Without names that begin with ``_``: the version of diffusers, and where it was loaded from."""
        said = {name: value for name, value in self.network.config.items() if not name.startswith("_")}
        return {"kind": self.kind.name, **{name: _as_json(value) for name, value in said.items()}}

    @torch.no_grad()
    def moments(self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
        check_images(self, images, known)
        device = self.network.device
        shown = without_hidden(images.to(device, torch.float32), None if known is None else known.to(device))
        with no_autocast(device):
            return self.kind.moments(self.network.encode(shown))

    def encode(
        self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b k i j"]:
        return self.moments(images, known).mean

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b k i j"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        check_latents(self, latents, known)
        device = self.network.device
        with no_autocast(device):
            return self.network.decode(latents.to(device, torch.float32)).sample

    def save(self, folder: Path) -> None:
        put_whole(folder, lambda draft: self.network.save_pretrained(draft, safe_serialization=True))

    def __repr__(self) -> str:
        return f"{self.kind.name}(factor={self.factor}, channels={self.channels}, image_channels={self.image_channels})"


def built(kind: Kind, config: Mapping[str, Any]) -> Any:
    """The network of a configuration, without weights yet.

    Raises:
        CodecError: diffusers is not installed.
        Exception: this is no configuration of that kind. It fails in ways of its own.
    """
    try:
        import diffusers
    except ImportError as error:
        raise CodecError(f'an {kind.name} needs the package diffusers: pip install "apd-models[latents]"') from error
    with torch.device("meta"):
        network: Any = getattr(diffusers, kind.name).from_config(dict(config))
    shape = network.config
    if shape["in_channels"] != shape.get("out_channels", shape["in_channels"]):
        raise ValueError(f"it encodes {shape['in_channels']} channels and decodes to {shape['out_channels']}")
    return network


def codec_of(kind: Kind, network: Any) -> Codec:
    """A network with its weights as a codec."""
    network.eval().requires_grad_(False)
    shape = network.config
    channels = shape["latent_channels"]
    settings = {"kind": kind.name, **{name: shape[name] for name in kind.unseen}}
    return _OfDiffusers(
        kind,
        network,
        2 ** (len(shape[kind.widths]) - 1),
        channels,
        shape["in_channels"],
        _stats(shape, channels),
        digest_of(settings, network.state_dict()),
    )


def _stats(shape: Mapping[str, Any], channels: int) -> LatentScale | None:
    """Of ``shift_factor`` and ``scaling_factor``, or of numbers for each channel where it has those."""
    mean, std = shape.get("latents_mean"), shape.get("latents_std")
    scaling = shape.get("scaling_factor")
    if mean is not None and std is not None and len(mean) == len(std) == channels:  # diffusers multiplies by both
        return LatentScale(tuple(map(float, mean)), tuple(float(value) / float(scaling or 1) for value in std))
    if not scaling:
        return None
    return LatentScale((float(shape.get("shift_factor") or 0.0),) * channels, (1 / float(scaling),) * channels)


def _as_json(value: object) -> object:
    return [_as_json(each) for each in value] if isinstance(value, (tuple, list)) else value
