"""Paths that some tokens join late: soft masks."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._noise import Path
from ._path_combinators import _lead


def capped(path: Path, levels: Float[Tensor, "*batch n e"]) -> Path:
    """No token (or element) noisier than its own level: ``min(path(s), levels)``.

    A soft mask, which says how noisy each token starts: 0 is known and stays clean (:func:`hold_clean`), 1 is unknown
    and follows the path, and between a token is kept in part; it waits at its level until the path comes by. With one
    level for all it is image-to-image by SDEdit (Meng et al. 2021, arXiv:2108.01073).

    The path begins at ``levels`` (where ``path`` begins with noise), not with all noise: tokens start as
    ``alpha x + sigma eps`` there, as :func:`apd_samplers.inpaint` makes them.

    Args:
        levels: in [0, 1], ``(*batch, n, 1)`` for tokens, ``(*batch, n, d)`` for elements. With batch axes each sample
            has its own mask, and the path returns ``(*s, *batch, n, e)``.
    """
    inside = (levels >= 0) & (levels <= 1)  # false for NaN
    if not inside.all():
        raise ValueError(f"tokens start at levels in [0, 1], got {levels[~inside].flatten()[0].item()}")

    def path_below(s: Float[Tensor, "*s"]) -> Float[Tensor, "*sbatch n e"]:
        on_path = _lead(path(s), s.ndim, levels.ndim)
        return torch.minimum(on_path, levels.to(on_path))

    return path_below
