"""Laws of random monotone paths: what a likelihood bound is averaged over, and may be trained with.

A path runs from all clean (``u = 0``) to all noise (``u = 1``). A law draws what is random in it, its offsets, once;
then every ``u`` gives levels and the velocities ``d level / du`` that the bound weights each error with. The offsets
stay fixed along a path: drawing them anew at the two ends of a step would not be a path, and no bound.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ._noise import Path
from ._path_combinators import ROUNDING, check_monotone


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
        draw: (paths, generator) to the offsets, ``(b, …)`` in float64 on the CPU, as the generator is. They must not
            depend on the data.
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
            ValueError: a path does not run from all clean to all noise, goes back, or its velocities are not those of
                its levels. (Averaged velocities are not tried against levels; :func:`flux` speaks of them.)
        """
        for end, name in ((0.0, "clean"), (1.0, "noise")):
            level = self.at(torch.full_like(u, end), offsets).level
            if not (((level - end).abs() <= ROUNDING) | ~torch.as_tensor(free)).all():
                raise ValueError(
                    f"at u = {end:g} the path's levels are not all {end:g} ({name}), but from {float(level.min()):.7g} "
                    f"to {float(level.max()):.7g}; what is held fixed is said by known= and context="
                )
        step = 1e-6
        u = u.clamp(step, 1 - step)
        now, before, after = self.at(u, offsets), self.at(u - step, offsets).level, self.at(u + step, offsets).level
        velocity, slope = now.velocity, (after - before) / (2 * step)
        back = ((slope < -1e-6) | (velocity < -1e-9)) & torch.as_tensor(free)
        if back.any():
            raise ValueError("a level goes back towards clean as u grows: a bound is taken along monotone paths")
        if self.averaged:
            return
        moving = ((slope != 0) | (velocity != 0)) & torch.as_tensor(free)
        # Across a kink one of the two sides is right; where paths are curved, the middle is.
        slopes = torch.stack([slope, (after - now.level) / step, (now.level - before) / step])
        off = ((slopes - velocity).abs() > 1e-3 * (1 + velocity.abs())).all(0) & moving
        if off.sum() > 0.02 * moving.sum():
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
    off = float(torch.maximum(tried[0].abs().max(), (tried[-1] - 1).abs().max()))
    if not off <= ROUNDING:
        raise ValueError(
            f"a path of the law does not run from all levels 0 at u = 0 to all levels 1 at 1, but misses by {off:.3g}"
        )
    if not (tried.diff(dim=0) >= -ROUNDING).all():
        raise ValueError("a level goes back towards clean as u grows: the law is not one of monotone paths")

    def at(u: Float[Tensor, " b"], offsets: Float[Tensor, "b ..."]) -> Levels:
        u = u.contiguous()  # forward mode writes beside it
        level, velocity, *_ = torch.func.jvp(lambda u: levels(u, offsets), (u,), (torch.ones_like(u),))
        return Levels(level, velocity)

    return PathLaw(draw, at)


def path_law(path: Path) -> PathLaw:
    """The law of one path, without batch axes; its velocities are derivatives in ``s`` (forward mode).

    Raises:
        ValueError: on a grid of ``s``, a level leaves [0, 1] or goes back.
    """
    check_monotone(path)

    def at(u: Float[Tensor, " b"], offsets: Float[Tensor, "b 0"]) -> Levels:
        u = u.contiguous()
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
    if not parts or any(not 0 < share < math.inf for share, _ in parts):
        raise ValueError(f"a mixture needs parts with positive, finite shares, got {[share for share, _ in parts]}")
    shares = torch.tensor([share for share, _ in parts], dtype=torch.float64)
    tried = [law.draw(1, Generator().manual_seed(0)) for _, law in parts]
    shapes = [offsets.shape[1:] for offsets in tried]
    half = torch.full((1,), 0.5, dtype=torch.float64)
    maps = {tuple(law.at(half, offsets).level.shape[1:]) for (_, law), offsets in zip(parts, tried, strict=True)}
    if len(maps) > 1:
        raise ValueError(f"the parts of a mixture have levels of different shapes: {sorted(maps)}")

    def draw(batch: int, generator: Generator | None) -> Float[Tensor, "b k"]:
        part = torch.bucketize(
            torch.rand(batch, generator=generator, dtype=torch.float64) * shares.sum(),
            shares.cumsum(0)[:-1],
            right=True,
        )
        return torch.cat(
            [
                part[:, None],
                *(
                    law.draw(batch, generator).reshape(batch, shape.numel())
                    for (_, law), shape in zip(parts, shapes, strict=True)
                ),
            ],
            1,
        )

    def at(u: Float[Tensor, " b"], offsets: Float[Tensor, "b k"]) -> Levels:
        part, *each = offsets.split([1, *(shape.numel() for shape in shapes)], 1)
        found = [
            law.at(u, own.reshape(len(own), *shape)) for (_, law), own, shape in zip(parts, each, shapes, strict=True)
        ]
        index = part.long()[:, :, None].expand_as(found[0].level)[None]
        pick = lambda tensors: torch.stack(tensors).gather(0, index)[0]
        return Levels(pick([f.level for f in found]), pick([f.velocity for f in found]))

    return PathLaw(draw, at, averaged=any(law.averaged for _, law in parts))
