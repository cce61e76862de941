"""Levels on the paths of a law, by name: what is trained on is then what a likelihood bound is averaged over.

All of these may be given to :func:`bound`, which weights their levels by the velocities of their paths.
"""

from torch import Generator

from apd_schedules import (
    Offsets,
    Path,
    independent_offsets,
    path_law,
    quad_law,
    split_law,
    tent_law,
    two_level_law,
    walk_law,
)

from .._named import text_of
from ._masks import MaskSampler
from ._on_law import OnLaw


def mean_beta(tokens: int, sharpness: float = 1.0, shuffle: bool = True) -> OnLaw:
    """The mean level of every map is given, and evenly spread over a batch: SRM's sampler (Wewer et al. 2025,
    arXiv:2502.21075), on ``apd_schedules.split_law``, whose arguments these are.
    """
    return OnLaw(split_law(tokens, sharpness, shuffle), f"mean_beta({tokens=}, {sharpness=}, {shuffle=})")


def elbo_walk(tokens: int) -> OnLaw:
    """The random walks of AsyncPatch Diffusion's bound (Papa et al. 2026, arXiv:2606.07079, theorem 1), on
    ``apd_schedules.walk_law``. The mean level of the maps is uniform.
    """
    return OnLaw(walk_law(tokens), f"elbo_walk({tokens=})")


def quad(tokens: int, kappa: float = 1.0, *, exact: bool = False, offsets: Offsets | None = None) -> OnLaw:
    """``t = u + kappa u (1 - u) s`` with ``s ~ U(-1, 1)``: controlled mean and spread, on ``apd_schedules.quad_law``.

    Args:
        kappa: in [0, 1]; how far apart the levels of a map are.
        exact: the mean level of every map is exactly ``u``, which is evenly spread over a batch.
        offsets: which tokens are alike; by default ``independent_offsets(tokens)``.
    """
    law = quad_law(_offsets(tokens, offsets), kappa, exact)
    return OnLaw(law, f"quad({tokens=}, {kappa=}, {exact=}, offsets={text_of(offsets)})")


def tent(tokens: int, kappa: float = 1.0, *, exact: bool = False, offsets: Offsets | None = None) -> OnLaw:
    """``t = u + kappa min(u, 1 - u) s`` with ``s ~ U(-1, 1)``, on ``apd_schedules.tent_law``.

    With ``kappa = 1`` a map is one of :func:`async_patch` with a token a patch.

    Args:
        kappa, exact, offsets: as for :func:`quad`.
    """
    law = tent_law(_offsets(tokens, offsets), kappa, exact)
    return OnLaw(law, f"tent({tokens=}, {kappa=}, {exact=}, offsets={text_of(offsets)})")


def on_path(path: Path) -> OnLaw:
    """The levels that generation along ``path`` meets, at evenly spread places ``s``; on ``apd_schedules.path_law``.

    Args:
        path: without batch axes.
    """
    return OnLaw(path_law(path), f"on_path(path={text_of(path)})")


def inpainting_legs(masks: MaskSampler) -> OnLaw:
    """Both legs of inpainting, on ``apd_schedules.two_level_law``: half of the maps show the unknown tokens at one
    level beside clean known ones, the other half the known at one level beside pure noise.

    The first half is :func:`clean_context`; the second makes it a bound on the whole image.
    """
    return OnLaw(two_level_law(masks), f"inpainting_legs(masks={text_of(masks)})")


def _offsets(tokens: int, offsets: Offsets | None) -> Offsets:
    if offsets is None:
        return independent_offsets(tokens)
    found = offsets(1, Generator().manual_seed(0)).shape[1]
    if found != tokens:
        raise ValueError(f"the offsets are of {found} tokens, but tokens={tokens}")
    return offsets
