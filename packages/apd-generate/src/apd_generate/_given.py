"""What is known of the images that are to be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_models import Patchify


@dataclass(frozen=True, slots=True)
class Given:
    """Images and which of their pixels are known, a row for each image that is drawn.

    Args:
        images: values in [-1, 1]; not read where nothing is known of them.
        known: which pixels; they come back to the bit.
        start: a soft mask, the level that each token starts from unless it is known whole: 1 is noise, below it a
            part of the token is kept, and 0 all of it; ``(b, n, 1)``. Noise by default.
    """

    images: Float[Tensor, "b c h w"]
    known: Bool[Tensor, "b h w"]
    start: Float[Tensor, "b n 1"] | None = None

    def rows(self, which: slice | Sequence[int]) -> "Given":
        """Some of the rows, of a sequence in its order."""
        of = which if isinstance(which, slice) else list(which)
        return Given(self.images[of], self.known[of], None if self.start is None else self.start[of])

    def repeated(self, times: int) -> "Given":
        """All rows, then all again: for several candidates of each."""
        start = None if self.start is None else self.start.repeat(times, 1, 1)
        return Given(self.images.repeat(times, 1, 1, 1), self.known.repeat(times, 1, 1), start)

    def known_elements(self, patchify: Patchify) -> Bool[Tensor, "b n d"]:
        """Of tokens."""
        return patchify.to_tokens(self.known[:, None].expand(-1, patchify.channels, -1, -1))

    def check(self, patchify: Patchify, rows: int) -> None:
        """Raises ValueError where the parts do not fit the model or each other."""
        size = (rows, patchify.channels, patchify.height, patchify.width)
        if tuple(self.images.shape) != size:
            raise ValueError(f"{rows} images are drawn given images of shape {size}, got {tuple(self.images.shape)}")
        if self.images.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"images have values in [-1, 1], in float32, got {self.images.dtype}: x / 127.5 - 1 of bytes"
            )
        if tuple(self.known.shape) != (rows, *size[2:]) or self.known.dtype != torch.bool:
            raise ValueError(
                f"known says of each pixel, {(rows, *size[2:])}, in booleans, got {tuple(self.known.shape)} of "
                f"{self.known.dtype}"
            )
        if self.start is not None:
            if tuple(self.start.shape) != (rows, patchify.tokens, 1):
                raise ValueError(
                    f"a soft mask has a level a token, {(rows, patchify.tokens, 1)}, got {tuple(self.start.shape)}"
                )
            if not ((self.start >= 0) & (self.start <= 1)).all():
                raise ValueError("a soft mask has levels in [0, 1], 1 noise")
        read = torch.ones_like(self.known) if self.start is not None else self.known
        if not (torch.isfinite(self.images) | ~read[:, None]).all():
            raise ValueError("the images have values that are no numbers")
