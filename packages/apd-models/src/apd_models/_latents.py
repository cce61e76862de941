"""Between images and what a model of latents sees of them."""

from jaxtyping import Bool, Float
from torch import Tensor

from ._codecs import Codec, CodecError, LatentScale
from ._hub import Pretrained
from ._patch import Patchify


def image_patchify(codec: Codec, patchify: Patchify) -> Patchify:
    """How the tokens of a model of latents lie on the images: patches that are ``codec.factor`` times as large.

    Its ``known_tokens`` says which tokens a mask of pixels leaves whole. Most autoencoders look beyond a token's own
    pixels, so the latents of a whole token may still change with what is hidden beside it.
    """
    height, width, patch = (codec.factor * size for size in (patchify.height, patchify.width, patchify.patch))
    return Patchify(height, width, codec.image_channels, patch)


def to_latents(
    codec: Codec,
    pretrained: Pretrained,
    images: Float[Tensor, "b c h w"],
    known: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, "b k i j"]:
    """Images with values in [-1, 1] as the model's: encoded and standardised, for ``pretrained.patchify.to_tokens``.

    Args:
        known: pixels that the autoencoder may see, see :meth:`Codec.encode`; all by default.

    Raises:
        CodecError: the model is not of latents, or not of such latents, or the images are not of its size.
    """
    scale = _scale(codec, pretrained)
    on = image_patchify(codec, pretrained.patchify)
    if images.shape[1:] != (on.channels, on.height, on.width):
        raise CodecError(
            f"the model and its autoencoder take images of {on.channels}×{on.height}×{on.width}, got "
            f"{'×'.join(map(str, images.shape[1:]))}"
        )
    return scale.standardise(codec.encode(images, known))


def to_pixels(
    codec: Codec,
    pretrained: Pretrained,
    latents: Float[Tensor, "b k i j"],
    known: Bool[Tensor, "b h w"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """What the model made, put together by ``pretrained.patchify.to_images``, as images with values about [-1, 1].

    Args:
        known: pixels that the autoencoder saw of what was given, see :meth:`Codec.decode`; all by default.

    Raises:
        CodecError: the model is not of latents, or not of such latents, or these are not of its size.
    """
    scale, of = _scale(codec, pretrained), pretrained.patchify
    if latents.shape[1:] != (of.channels, of.height, of.width):
        raise CodecError(
            f"the model makes latents of {of.channels}×{of.height}×{of.width}, got "
            f"{'×'.join(map(str, latents.shape[1:]))}"
        )
    return codec.decode(scale.restore(latents), known)


def check_codec(codec: Codec, pretrained: Pretrained) -> None:
    """Raises :class:`CodecError` where a model is not of the latents of ``codec``, as far as can be told."""
    _scale(codec, pretrained)


def _scale(codec: Codec, pretrained: Pretrained) -> LatentScale:
    if pretrained.latents is None:
        raise CodecError(
            "the model's folder does not say that it is one of latents, nor their mean and std: give save_pretrained "
            "the LatentScale of what it was trained on"
        )
    if codec.channels != pretrained.patchify.channels:
        raise CodecError(
            f"the autoencoder makes latents of {codec.channels} channels, and the model is of "
            f"{pretrained.patchify.channels}: take the one that its training data were encoded with"
        )
    if pretrained.latents.codec not in (None, codec.digest):
        raise CodecError(
            f"the model is of the latents of another autoencoder: that has the digest {pretrained.latents.codec:.12}…, "
            f"and this one {codec.digest:.12}…"
        )
    return pretrained.latents
