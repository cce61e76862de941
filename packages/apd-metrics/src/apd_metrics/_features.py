"""Features of images: what distances between sets of images are computed from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ._precision import float32_throughout
from ._resize import to_8_bits


@dataclass(frozen=True, slots=True)
class Features:
    """Features of a batch of images.

    Args:
        pooled: one vector an image.
        maps: at several depths of the network, fine to coarse, one vector a place; empty unless asked for.
    """

    pooled: Float[Tensor, "b d"]
    maps: tuple[Float[Tensor, "b _ _ _"], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A network, and all that decides which numbers come out of it: metrics of two extractors are never comparable.

    Args:
        name: such as ``"efficientnet-lite0-224"``; part of the name of every metric.
        size: side in pixels of what the network sees. An image that is not square is squeezed.
        dims: length of a feature vector.
        resize: from pixels 0…255 of any size to ``size``.
        sha256: of the file of weights.
        network: from resized pixels 0…255, and whether maps are wanted, to :class:`Features`.
    """

    name: str
    size: int
    dims: int
    resize: Callable[[Tensor, int], Tensor]
    sha256: str
    network: nn.Module

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"], *, maps: bool = False) -> Features:
        """Features on the network's device, computed in float32 whatever is switched on around.

        Args:
            images: of 1 or 3 channels, floats in [-1, 1] or bytes; rounded to 8 bits and resized.
            maps: whether to return feature maps too.
        """
        device = next(self.network.parameters()).device
        with float32_throughout(device):
            return self.network(self.resize(to_8_bits(images.to(device)), self.size), maps)

    def record(self) -> dict[str, Any]:
        """What to write beside a number that was computed from these features."""
        return {
            "extractor": self.name,
            "dims": self.dims,
            "resize": f"8 bits, {self.resize.__name__} to {self.size}×{self.size}",
            "sha256": self.sha256,
        }


def extract(
    extractor: Extractor,
    batches: Iterable[Float[Tensor, "_ c _ _"] | UInt8[Tensor, "_ c _ _"]],
    on_batch: Callable[[int], None] | None = None,
) -> Float[Tensor, "n d"]:
    """Pooled features of all images, on the CPU. How the images are batched changes no more than the last digits.

    Args:
        batches: of images, as :class:`Extractor` takes them; of one size within a batch.
        on_batch: told after each batch how many images are done.

    Raises:
        ValueError: there is no batch.
    """
    rows: list[Tensor] = []
    done = 0
    for images in batches:
        rows.append(extractor(images).pooled.cpu())
        done += len(images)
        if on_batch is not None:
            on_batch(done)
    if not rows:
        raise ValueError("there are no images to compute features of")
    return torch.cat(rows)
