"""How pictures show what a model is trained on: images as they are, latents decoded."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_generate import visible
from apd_models import Codec, CodecError, LatentScale, load_codec

from ._data import ImageSet


@dataclass(frozen=True, slots=True)
class View:
    """
    Args:
        scale: of latents; None of pixels.
        codec: their autoencoder. Without it three channels of latents are shown as colours.
    """

    scale: LatentScale | None = None
    codec: Codec | None = None

    def __call__(self, images: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch _ _ _"]:
        """Images of one or three channels with values in [-1, 1], on the CPU."""
        if self.codec is None or self.scale is None:
            return visible(images.cpu(), self.scale is None)
        latents = self.scale.restore(images.flatten(0, -4))
        decoded = torch.cat([self.codec.decode(each[None]).cpu() for each in latents])
        return decoded.clamp(-1, 1).unflatten(0, images.shape[:-3])

    def known(self, mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "_ _"]:
        """Of cells or pixels, as one of what is shown."""
        factor = 1 if self.codec is None else self.codec.factor
        return mask.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def view_of(images: ImageSet, device: str | torch.device = "cpu") -> View:
    """Of latents decoded, if their autoencoder lies beside them and can be loaded."""
    if images.latents is None or images.codec is None:
        return View(images.latents)
    try:
        codec = load_codec(images.codec, device)
    except CodecError:  # diffusers is not installed, or it is damaged: pictures are not worth more than a run
        return View(images.latents)
    good = images.latents.codec in (None, codec.digest) and codec.image_channels in (1, 3)
    return View(images.latents, codec if good else None)
