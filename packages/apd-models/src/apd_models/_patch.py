"""The one place where images become tokens and tokens images."""

from dataclasses import dataclass

from einops import rearrange, reduce
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Patchify:
    """Square patches of an image as tokens, row-major.

    Args:
        height, width: of the image, in pixels.
        channels: of the image.
        patch: side of a patch, in pixels; it divides height and width.
    """

    height: int
    width: int
    channels: int
    patch: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels, self.patch) < 1:
            raise ValueError(f"sizes must be at least 1, got {self}")
        if self.height % self.patch or self.width % self.patch:
            raise ValueError(f"a patch of {self.patch} pixels does not divide an image of {self.height}×{self.width}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def token_dim(self) -> int:
        return self.channels * self.patch**2

    def to_tokens(self, images: Shaped[Tensor, "*batch c h w"]) -> Shaped[Tensor, "*batch n d"]:
        if images.shape[-3:] != (self.channels, self.height, self.width):
            raise ValueError(
                f"expected images of shape (…, {self.channels}, {self.height}, {self.width}), got {tuple(images.shape)}"
            )
        p = self.patch
        return rearrange(images, "... c (i p) (j q) -> ... (i j) (p q c)", p=p, q=p)

    def to_images(self, tokens: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch c h w"]:
        if tokens.shape[-2:] != (self.tokens, self.token_dim):
            raise ValueError(
                f"expected tokens of shape (…, {self.tokens}, {self.token_dim}), got {tuple(tokens.shape)}"
            )
        rows, columns = self.grid
        p = self.patch
        return rearrange(tokens, "... (i j) (p q c) -> ... c (i p) (j q)", i=rows, j=columns, p=p, q=p)

    def known_tokens(self, known: Bool[Tensor, "*batch h w"]) -> Bool[Tensor, "*batch n 1"]:
        """Tokens all of whose pixels are known: a token with one hidden pixel is generated whole."""
        if known.shape[-2:] != (self.height, self.width):
            raise ValueError(f"expected a mask of shape (…, {self.height}, {self.width}), got {tuple(known.shape)}")
        p = self.patch
        return reduce(known, "... (i p) (j q) -> ... (i j) 1", "min", p=p, q=p)
