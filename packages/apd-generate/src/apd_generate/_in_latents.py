"""Known pixels as a model of latents is given them, and what it made as pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from apd_models import Codec, Pretrained, image_patchify, known_cells, to_latents, to_pixels

from ._film import Frame
from ._given import Given

MOST_PIXELS = 2**20
"""Of images that go through an autoencoder together, on a GPU."""


@dataclass(frozen=True, slots=True)
class GivenLatents:
    """Args:
    given: standardised latents, and which of their cells are known.
    seen: pixels that the decoder is to take for known, see :meth:`Codec.decode`: not those of cells that are made
        though all of their pixels are known; and all where all cells are made, as in plain generation.
    """

    given: Given
    seen: Bool[Tensor, "b h w"]

    def repeated(self, times: int) -> "GivenLatents":
        """All rows, then all again."""
        return GivenLatents(self.given.repeated(times), self.seen.repeat(times, 1, 1))


def given_latents(
    codec: Codec,
    pretrained: Pretrained,
    images: Float[Tensor, "b c h w"],
    levels: Float[Tensor, "b h w"],
    dilate: int = 0,
) -> GivenLatents:
    """What :func:`generate` is given of images that are known in part, where its model is one of latents.

    The autoencoder sees no pixel that starts from noise, so no latent knows of one, to the bit. Tokens that lie on
    known pixels alone are known, and stay as they are; the others are made.

    Args:
        images: values in [-1, 1].
        levels: that their pixels start from, 0 known, 1 noise.
        dilate: cells by which what is hidden grows. Most autoencoders look beyond a cell: the latents next to what is
            hidden are not what they are in a whole image (:func:`apd_models.leak`), and the model is better off
            without them.

    Raises:
        CodecError: an autoencoder that is not the model's, or images that are not of its size.
    """
    patchify = image_patchify(codec, pretrained.patchify)
    encode = lambda some, visible: to_latents(codec, pretrained, some, visible)
    latents = _in_parts(pretrained, patchify.height * patchify.width, encode, images, levels < 1)
    reached = latent_levels(levels, codec.factor, dilate)
    whole = patchify.known_tokens(reached == 0)
    kept = pretrained.patchify.to_images(whole.float().expand(-1, -1, pretrained.patchify.token_dim))[:, 0] > 0
    start = None
    if ((reached > 0) & (reached < 1)).any():
        start = max_pool2d(reached[:, None], patchify.patch).flatten(1)[..., None]
    known = levels == 0
    made_anew = known_cells(known, codec.factor) & ~kept
    all_made = ~kept.any((1, 2), keepdim=True)
    return GivenLatents(Given(latents, kept, start), all_made | known & ~_on_pixels(made_anew, codec.factor))


def latent_levels(levels: Float[Tensor, "b h w"], factor: int, dilate: int = 0) -> Float[Tensor, "b h w"]:
    """The levels that pixels start from in a model of latents: noise in every cell with a hidden pixel, and within
    ``dilate`` cells of one."""
    return torch.where(_on_pixels(known_cells(levels < 1, factor, dilate), factor), levels, 1.0)


def decoded(
    codec: Codec,
    pretrained: Pretrained,
    latents: Float[Tensor, "b k i j"],
    seen: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The images of latents that a model made, on the CPU; an image does not depend on the others (on GPUs, but for
    rounding).

    Args:
        seen: of :class:`GivenLatents`, where something was known.
    """
    decode = lambda some, known=None: to_pixels(codec, pretrained, some, known)
    pixels = latents.shape[2] * latents.shape[3] * codec.factor**2
    return _in_parts(pretrained, pixels, decode, latents, *(() if seen is None else (seen,)))


def decoded_film(codec: Codec, pretrained: Pretrained, frames: Sequence[Frame]) -> list[Frame]:
    """Frames of a model of latents as ones of images, whose patches are those of :func:`apd_models.image_patchify`."""
    images = decoded(codec, pretrained, torch.stack([frame.image for frame in frames]))
    return [replace(frame, image=image) for frame, image in zip(frames, images, strict=True)]


def _in_parts(pretrained: Pretrained, pixels: int, run: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Sums of convolutions are in an order that depends on the batch: on a CPU one goes at a time, so that a seed is an
    image to the bit."""
    most = 1 if pretrained.model.device.type == "cpu" else max(1, MOST_PIXELS // pixels)
    return torch.cat([run(*some).cpu() for some in zip(*(each.split(most) for each in rows), strict=True)])


def _on_pixels(cells: Bool[Tensor, "b i j"], factor: int) -> Bool[Tensor, "b h w"]:
    return cells.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
