"""Laws of random monotone paths: what a likelihood bound is averaged over, and may be trained with.

A path runs from all clean (``u = 0``) to all noise (``u = 1``). A law draws what is random in it, its offsets, once;
then every ``u`` gives levels and the velocities ``d level / du`` that the bound weights each error with. The offsets
stay fixed along a path: drawing them anew at the two ends of a step would not be a path, and no bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ._noise import Path


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels of a batch of maps, and how fast each moves.

    Args:
        level: in [0, 1], 0 clean, shape ``(b, n, e)``.
        velocity: ``d level / du`` along the path, not negative, or its mean over all paths through ``level``.
    """

    level: Float[Tensor, "b n e"]
    velocity: Float[Tensor, "b n e"]


@dataclass(frozen=True, slots=True)
class PathLaw:
    """A law of paths, each from all levels 0 at ``u = 0`` to all levels 1 at ``u = 1``, none ever going back.

    Build one of your own with :func:`law_of`, which differentiates the levels: velocities that do not belong to the
    levels make numbers that look like likelihoods and are none. :func:`flux` tells.

    Args:
        draw: (paths, generator) to the offsets, ``(b, …)`` in float64. They must not depend on the data.
        at: (u, offsets) to levels and velocities; ``u`` has shape ``(b,)``, one number a path.
        averaged: the velocities are means over all paths through a map, not those of the path drawn.
    """

    draw: Callable[[int, Generator | None], Float[Tensor, "b ..."]]
    at: Callable[[Float[Tensor, " b"], Float[Tensor, "b ..."]], Levels]
    averaged: bool = False

    def check(self, u: Float[Tensor, " b"], offsets: Float[Tensor, "b ..."], free: Tensor | bool = True) -> None:
        """Tries on some paths whether this is what it says.

        Args:
            free: which levels count, broadcast against them.

        Raises:
            ValueError: a path does not run from all clean to all noise, or its velocities are not its levels'.
        """
        for end, name in ((0.0, "clean"), (1.0, "noise")):
            level = self.at(torch.full_like(u, end), offsets).level
            if not ((level == end) | ~torch.as_tensor(free)).all():
                raise ValueError(
                    f"at u = {end:g} the path's levels are not all {end:g} ({name}), but from {float(level.min()):g} "
                    f"to {float(level.max()):g}; what is held fixed is said by known= and context="
                )
        if self.averaged:
            return
        step = 1e-6
        u = u.clamp(step, 1 - step)
        slope = (self.at(u + step, offsets).level - self.at(u - step, offsets).level) / (2 * step)
        velocity = self.at(u, offsets).velocity
        off = ((slope - velocity).abs() > 1e-3 * (1 + velocity.abs())) & torch.as_tensor(free)
        if off.double().mean() > 0.2:  # near a kink the difference is of neither side
            raise ValueError(
                "the law's velocities are not the derivatives of its levels by u: weighted by them, errors do not sum "
                "to a likelihood bound, and can fall below the true negative log-likelihood (see law_of and flux)"
            )


def law_of(
    levels: Callable[[Float[Tensor, " b"], Float[Tensor, "b ..."]], Float[Tensor, "b n e"]],
    draw: Callable[[int, Generator | None], Float[Tensor, "b ..."]],
) -> PathLaw:
    """A law from its levels alone; the velocities are their derivatives (forward mode).

    Args:
        levels: (u, offsets) to levels, row by row: non-decreasing in ``u``, 0 at 0 and 1 at 1, differentiable by torch.
        draw: (paths, generator) to the offsets.

    Raises:
        ValueError: on a few paths that are tried, the ends are not met or a level goes back.
    """
    offsets = draw(64, Generator().manual_seed(0))
    tried = torch.stack([levels(torch.full((64,), u / 32, dtype=torch.float64), offsets) for u in range(33)])
    if not ((tried[0] == 0).all() and (tried[-1] == 1).all()):
        raise ValueError("a path of the law does not run from all levels 0 at u = 0 to all levels 1 at u = 1")
    if not (tried.diff(dim=0) >= -1e-12).all():
        raise ValueError("a level goes back towards clean as u grows: the law is not one of monotone paths")

    def at(u: Float[Tensor, " b"], offsets: Float[Tensor, "b ..."]) -> Levels:
        level, velocity, *_ = torch.func.jvp(lambda u: levels(u, offsets), (u,), (torch.ones_like(u),))
        return Levels(level, velocity)

    return PathLaw(draw, at)


def path_law(path: Path) -> PathLaw:
    """The law of one path, without batch axes; its velocities are derivatives in ``s`` (forward mode)."""

    def at(u: Float[Tensor, " b"], offsets: Float[Tensor, "b 0"]) -> Levels:
        level, velocity, *_ = torch.func.jvp(path, (u,), (torch.ones_like(u),))
        if level.ndim != 3:
            raise ValueError(
                f"a law takes a path without batch axes, of levels (*s, n, e); this one adds {level.ndim - 3} "
                "(what is known of each sample is said to elbo by known=)"
            )
        return Levels(level, velocity)

    return PathLaw(lambda batch, generator: torch.zeros(batch, 0, dtype=torch.float64), at)


def mixture_law(parts: Sequence[tuple[float, PathLaw]]) -> PathLaw:
    """Each path comes from one of the laws. A mixture of bounds is a bound.

    Args:
        parts: pairs (share, law); the shares are positive and are divided by their sum.
    """
    if not parts or any(not share > 0 for share, _ in parts):
        raise ValueError(f"a mixture needs parts with positive shares, got {[share for share, _ in parts]}")
    shares = torch.tensor([share for share, _ in parts], dtype=torch.float64)
    shapes = [law.draw(1, Generator().manual_seed(0)).shape[1:] for _, law in parts]

    def draw(batch: int, generator: Generator | None) -> Float[Tensor, "b k"]:
        part = torch.bucketize(
            torch.rand(batch, generator=generator, dtype=torch.float64) * shares.sum(),
            shares.cumsum(0)[:-1],
            right=True,
        )
        return torch.cat([part[:, None], *(law.draw(batch, generator).flatten(1) for _, law in parts)], 1)

    def at(u: Float[Tensor, " b"], offsets: Float[Tensor, "b k"]) -> Levels:
        part, *each = offsets.split([1, *(shape.numel() for shape in shapes)], 1)
        found = [
            law.at(u, own.unflatten(1, shape or (1,))) for (_, law), own, shape in zip(parts, each, shapes, strict=True)
        ]
        index = part.long()[:, :, None].expand_as(found[0].level)[None]
        pick = lambda tensors: torch.stack(tensors).gather(0, index)[0]
        return Levels(pick([f.level for f in found]), pick([f.velocity for f in found]))

    return PathLaw(draw, at, averaged=any(law.averaged for _, law in parts))
