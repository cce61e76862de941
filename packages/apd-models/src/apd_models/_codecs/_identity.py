"""Images as their own latents."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from ._codec import Codec, CodecError, Moments, check_images, check_latents, digest_of, put_whole, without_hidden
from ._latent_scale import LatentScale

FORMAT, VERSION = "apd-models/identity", 1


@dataclass(frozen=True, slots=True)
class _Identity:
    image_channels: int

    @property
    def factor(self) -> int:
        return 1

    @property
    def channels(self) -> int:
        return self.image_channels

    @property
    def config(self) -> Mapping[str, Any]:
        return {"kind": "identity", "image_channels": self.image_channels}

    @property
    def digest(self) -> str:
        return digest_of(self.config, {})

    @property
    def stats(self) -> LatentScale | None:
        return None

    def moments(self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
        check_images(self, images, known)
        return Moments(without_hidden(images.float(), known), None)

    def encode(
        self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        return self.moments(images, known).mean

    def decode(
        self, latents: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        check_latents(self, latents, known)
        return latents.float()

    def save(self, folder: Path) -> None:
        put_whole(folder, self._write)

    def _write(self, folder: Path) -> None:
        config = {"format": FORMAT, "version": VERSION, "image_channels": self.image_channels}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def identity(image_channels: int = 3) -> Codec:
    """The autoencoder that changes nothing: what works on latents then works on pixels.

    Raises:
        CodecError: no channels.
    """
    if image_channels < 1:
        raise CodecError(f"images have 1 channel at least, got {image_channels}")
    return _Identity(image_channels)
