"""Shapes and options of the transformer."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ._conventions import CONVENTIONS, ConventionName
from ._patch import Patchify

Conditioning = Literal["token", "separable", "joint"]


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """Shape of a :class:`DiT`.

    Args:
        grid: token rows and columns.
        token_dim: elements of a token.
        width: size of the residual stream; a multiple of ``4`` and of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden size of the feed-forward networks over ``width``.
        classes: number of class labels; 0 for an unconditional model.
        data_std: standard deviation of the clean tokens, about zero.
        conditioning: where the label enters. ``token``: it is added to the tokens. ``separable``: it has modulation
            rows of its own, added to the level's. ``joint``: level and label are added inside the nonlinearity before
            the modulation, as in DiT; the table then has a row for each pair of level and label that occurs.
        position: ``learned``, a vector added to each token that starts as sines and cosines of row and column; or
            ``rope``, queries and keys turned by row and column (Su et al. 2021, arXiv:2104.09864, in its axial form of
            Heo et al. 2024, arXiv:2403.13298).
        position_grid: with ``rope``, the grid that the model was trained on, if it is another than ``grid``: positions
            are scaled to it. See :func:`interpolated`.
        qk_norm: normalise queries and keys (Dehghani et al. 2023, arXiv:2302.05442).
        biases: in the linear layers of the blocks.
        gelu: its exact form, or the one by tanh of DiT, which costs six times as much on a CPU.
        element_levels: accept maps of one level an element. Modulation goes by the noisiest element of a token; how
            much cleaner each of the others is enters with the token.
        error_head: predict the error of the mean, as ``Posterior.log_var``.
        context_dim: size of tokens that are given in context (text, another image's features); 0 for none.
        one_way: a token sees itself, those that are cleaner, and those as noisy as itself unless these are clean (noise
            below half of one of 256 grey levels) or pure noise (log-SNR of -12 or less). What is clean then depends on
            nothing else, so its keys and values can be kept, exactly; and nobody has to look at what has not begun: see
            :class:`ActiveTokens`.
        convention: what the network is told of the level, what it is shown and what it predicts. ``flow`` is this
            library's own; the others are for weights trained elsewhere, see :func:`from_foreign`.
        embedders: one embedding of the level and label for all blocks, or one in each, as diffusers' DiT has.
    """

    grid: tuple[int, int]
    token_dim: int
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    classes: int = 0
    data_std: float = 1.0
    conditioning: Conditioning = "token"
    position: Literal["learned", "rope"] = "learned"
    position_grid: tuple[int, int] | None = None
    qk_norm: bool = True
    biases: bool = False
    gelu: Literal["erf", "tanh"] = "erf"
    element_levels: bool = False
    error_head: bool = False
    context_dim: int = 0
    one_way: bool = False
    convention: ConventionName = "flow"
    embedders: Literal["shared", "per_block"] = "shared"

    def __post_init__(self) -> None:
        sizes = (*self.grid, *(self.position_grid or ()), self.token_dim, self.width, self.depth, self.heads)
        if min(sizes) < 1:
            raise ValueError(f"sizes must be at least 1, got {self}")
        for name in ("qk_norm", "biases", "element_levels", "error_head", "one_way"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is true or false, got {getattr(self, name)!r}")
        if min(self.classes, self.context_dim) < 0:
            raise ValueError(f"there are 0 classes or more, and 0 elements of context or more, got {self}")
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of 4 and of heads={self.heads}, got width={self.width}")
        if not (0 < self.mlp_ratio < math.inf and 0 < self.data_std < math.inf):
            raise ValueError(
                f"mlp_ratio and data_std must be positive and finite, got {self.mlp_ratio}, {self.data_std}"
            )
        if int(self.width * self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} leaves nothing of a width of {self.width}")
        if self.position == "rope" and self.width // self.heads % 4:
            raise ValueError(f"rope turns heads whose width is a multiple of 4, got {self.width // self.heads}")
        if self.position != "rope" and self.position_grid is not None:
            raise ValueError("position_grid is for rope; learned positions have the grid itself")
        choices = {
            "conditioning": get_args(Conditioning),
            "position": ("learned", "rope"),
            "gelu": ("erf", "tanh"),
            "convention": tuple(CONVENTIONS),
            "embedders": ("shared", "per_block"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.embedders == "per_block" and self.conditioning != "joint":
            raise ValueError("embedders in each block are for conditioning='joint', as in diffusers' DiT")


SHAPES: dict[str, tuple[int, int, int]] = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 18),
}
"""Depth, width, heads of the published sizes (Peebles & Xie 2023, arXiv:2212.09748)."""


def dit_config(size: str, patchify: Patchify, **options: Any) -> DiTConfig:
    """The configuration of a published size; the patch (2, 4, 8 there) is that of ``patchify``.

    All heads are 64 wide. The published XL has 16 heads of 72, which attention kernels pad; 18 of 64 cost the same
    arithmetic.

    Args:
        size: S, B, L or XL.
        options: further fields of :class:`DiTConfig`.
    """
    if size not in SHAPES:
        raise ValueError(f"size must be one of {', '.join(SHAPES)}, got {size!r}")
    depth, width, heads = SHAPES[size]
    given: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, **options}
    return DiTConfig(grid=patchify.grid, token_dim=patchify.token_dim, **given)
