"""What an autoencoder is to a model of latents."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


class CodecError(ValueError):
    """An autoencoder that cannot be had, or does not fit what it is used with. The message is one line."""


@runtime_checkable
class Codec(Protocol):
    """An autoencoder: from images to latents, a ``factor`` smaller along each side, and back.

    Both ways are deterministic. The latents are the autoencoder's own; the scale that a model sees them at belongs to
    the model (:class:`LatentScale`, :func:`to_latents`).
    """

    @property
    def factor(self) -> int:
        """Side of the square of pixels that a cell of the latents stands for."""
        ...

    @property
    def channels(self) -> int:
        """Of the latents."""
        ...

    @property
    def image_channels(self) -> int: ...

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        """Latents of images with values in [-1, 1], ``i = h / factor``, ``j = w / factor``.

        Where the autoencoder has a distribution for each image, its mean.

        Raises:
            CodecError: the images have other channels, or sides that are not multiples of the factor.
        """
        ...

    def decode(self, latents: Float[Tensor, "b k i j"]) -> Float[Tensor, "b c h w"]:
        """Images with values about [-1, 1], not cut off there.

        Raises:
            CodecError: the latents have other channels.
        """
        ...


def check_images(codec: Codec, images: Float[Tensor, "b c h w"]) -> None:
    """Raises :class:`CodecError` for what ``codec`` cannot encode."""
    channels, height, width = images.shape[1:]
    if channels != codec.image_channels or height % codec.factor or width % codec.factor:
        raise CodecError(
            f"the autoencoder takes images of {codec.image_channels} channels, height and width multiples of "
            f"{codec.factor}: got {channels}×{height}×{width}"
        )


def check_latents(codec: Codec, latents: Float[Tensor, "b k i j"]) -> None:
    """Raises :class:`CodecError` for what ``codec`` cannot decode."""
    if latents.shape[1] != codec.channels:
        raise CodecError(f"the autoencoder takes latents of {codec.channels} channels: got {latents.shape[1]}")
