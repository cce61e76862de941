"""What an autoencoder is to a model of latents."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._latent_scale import LatentScale

LOG_VAR = (-30.0, 20.0)
"""Where log-variances of autoencoders are cut off (Rombach et al. 2022, in their code)."""


class CodecError(ValueError):
    """An autoencoder that cannot be had, or does not fit what it is used with. The message is one line."""


class Moments(NamedTuple):
    """Normal distributions over latents.

    Args:
        mean: of each element.
        log_var: logarithm of the variance; None where an image has one latent.
    """

    mean: Float[Tensor, "b k i j"]
    log_var: Float[Tensor, "b k i j"] | None


@runtime_checkable
class Codec(Protocol):
    """An autoencoder: from images to latents, a ``factor`` smaller along each side, and back.

    Both ways are deterministic. The latents are the autoencoder's own; the scale that a model sees them at belongs to
    the model (:class:`LatentScale`, :func:`to_latents`).

    Where pixels are hidden, they are removed before anything is computed: whatever is in their place, NaN too, not a
    bit of a latent changes. A latent whose pixels are all known may still differ from that of the whole image, since
    autoencoders look beyond a cell: :func:`leak` measures how much.
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

    @property
    def config(self) -> Mapping[str, Any]:
        """What it is, in terms of JSON; ``"kind"`` is its name."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of its weights and what else decides which latents it makes, in hexadecimal: two autoencoders have
        one digest only if they make the same latents. How the weights lie in their file does not matter."""
        ...

    @property
    def stats(self) -> LatentScale | None:
        """The scale of its latents on what it was trained on, where it says so."""
        ...

    def moments(self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
        """What :meth:`encode` is the mean of."""
        ...

    def encode(
        self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b k i j"]:
        """Latents of images with values in [-1, 1], ``i = h / factor``, ``j = w / factor``, on its own device.

        Where the autoencoder has a distribution for each image, its mean.

        Args:
            known: pixels that it may see; all by default. Latents of cells that are not known whole are of no use.

        Raises:
            CodecError: the images have other channels, or sides that are not multiples of the factor.
        """
        ...

    def decode(
        self, latents: Float[Tensor, "b k i j"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images with values about [-1, 1], not cut off there, on the autoencoder's device.

        Args:
            known: what :meth:`encode` saw of the image, where the latents of cells that are known whole are from there
                and the others were made otherwise. All by default.

        Raises:
            CodecError: the latents have other channels.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes it into a folder, which is made, as :func:`load_codec` reads it."""
        ...


def without_hidden(images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None) -> Float[Tensor, "b c h w"]:
    """Images with grey, 0, in the place of what is hidden."""
    return images if known is None else torch.where(known[:, None], images, 0.0)


def check_images(codec: Codec, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None) -> None:
    """Raises :class:`CodecError` for what ``codec`` cannot encode."""
    if images.ndim != 4:
        raise CodecError(f"the autoencoder takes a batch of images, (b, c, h, w): got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise CodecError(f"the autoencoder takes images with values in [-1, 1], in float32: got {images.dtype}")
    batch, channels, height, width = images.shape
    if channels != codec.image_channels or height % codec.factor or width % codec.factor:
        raise CodecError(
            f"the autoencoder takes images of {codec.image_channels} channels, height and width multiples of "
            f"{codec.factor}: got {channels}×{height}×{width}"
        )
    _check_known(known, (batch, height, width))


def check_latents(codec: Codec, latents: Float[Tensor, "b k i j"], known: Bool[Tensor, "b h w"] | None = None) -> None:
    """Raises :class:`CodecError` for what ``codec`` cannot decode."""
    if latents.ndim != 4 or latents.shape[1] != codec.channels or not latents.is_floating_point():
        raise CodecError(
            f"the autoencoder takes latents of {codec.channels} channels, (b, {codec.channels}, i, j), in float32: got "
            f"{tuple(latents.shape)} in {latents.dtype}"
        )
    batch, _, rows, columns = latents.shape
    _check_known(known, (batch, rows * codec.factor, columns * codec.factor))


def _check_known(known: Bool[Tensor, "b h w"] | None, shape: tuple[int, int, int]) -> None:
    if known is not None and (known.shape != shape or known.dtype != torch.bool):
        raise CodecError(
            f"which pixels are known is said in booleans for each of {shape}: got {tuple(known.shape)} in {known.dtype}"
        )


def no_autocast(device: torch.device) -> torch.autocast:
    """Autoencoders compute in the precision of their weights, wherever they are called."""
    return torch.autocast(device.type, enabled=False)


def put_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Files that ``write`` makes in a folder take the places of those of their names in ``folder`` one by one, each
    whole: another folder may have links to the old ones, which stay as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder) as draft:
        write(Path(draft))
        for file in sorted(Path(draft).iterdir()):
            file.chmod(0o644)  # as other files; some libraries keep theirs from other users
            os.replace(file, folder / file.name)


def digest_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a configuration and tensors, whatever their order, in hexadecimal."""
    total = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
