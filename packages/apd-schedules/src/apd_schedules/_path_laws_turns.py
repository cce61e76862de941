"""Laws of paths that take tokens one after another, divide a total among them, or walk at random."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from ._path_law import Levels, PathLaw
from ._paths import _count_turns

U = Float[Tensor, " b"]


def autoregressive_law(turn: Int[Tensor, " n"], shuffle: bool = False) -> PathLaw:
    """One group of tokens after another: ``t = clip(k u - (k - 1 - turn), 0, 1)``, velocity ``k`` while it moves.

    The chain rule: each group given those of earlier turns, clean, and without the later ones.

    Args:
        turn: the turn of token i in generation, 0 first; equal turns go together.
        shuffle: the groups take random turns, all orders equally likely.
    """
    turns = _count_turns(turn)

    def draw(batch: int, generator: Generator | None) -> Float[Tensor, "b n"]:
        """When a token starts to become noise, in turns: the last generated first."""
        wait = (turns - 1 - turn).double().expand(batch, -1)
        if not shuffle:
            return wait
        order = torch.rand(batch, turns, generator=generator).argsort(1).double()
        return order.gather(1, wait.long())

    def at(u: U, wait: Float[Tensor, "b n"]) -> Levels:
        here = (turns * u[:, None] - wait)[..., None]
        return Levels(here.clamp(0, 1), torch.where((here > 0) & (here < 1), float(turns), 0.0).to(here))

    return PathLaw(draw, at)


def two_level_law(masks: Callable[[int, Generator | None], Bool[Tensor, "b n e"]]) -> PathLaw:
    """Inpainting in two legs: the unknown tokens cross while the known are clean, then the known, beside pure noise.

    The first leg alone bounds ``-log p(x_U | x_K)`` (see ``elbo``, argument ``known``), both together the joint.

    Args:
        masks: (batch, generator) to which tokens are known.
    """

    def draw(batch: int, generator: Generator | None) -> Float[Tensor, "b n e"]:
        return masks(batch, generator).double()

    def at(u: U, known: Float[Tensor, "b n e"]) -> Levels:
        here = 2 * u[:, None, None] - known
        moves = (u[:, None, None] < 0.5) != known.bool()
        return Levels(here.clamp(0, 1), torch.where(moves, 2.0, 0.0).to(here))

    return PathLaw(draw, at)


def split_law(tokens: int, sharpness: float = 1.0, shuffle: bool = True) -> PathLaw:
    """The mean level of every map is exactly ``u``: the sum is divided in halves, recursively, by Beta splits.

    The level sampler of SRM (Wewer et al. 2025, arXiv:2502.21075) with the splits held fixed along a path, which makes
    it one; the velocity is carried through the recursion and sums to ``tokens``.

    Args:
        sharpness: of the splits, at least 1/2; large keeps the levels of a map close together.
        shuffle: the halves are of tokens in random order; else of neighbours in row-major order, so that large parts of
            a map differ in their mean, while the last splits still set neighbours apart.
    """
    if tokens < 1 or not sharpness >= 0.5:
        raise ValueError(f"splits need at least one token and sharpness >= 0.5, got {tokens} and {sharpness}")
    rounds: list[Int[Tensor, " g"]] = []  # sizes of the groups that each round divides
    sizes = torch.tensor([tokens])
    while sizes.max() > 1:
        rounds.append(sizes)
        halves = torch.stack([(sizes + 1) // 2, sizes // 2], 1).flatten()
        sizes = halves[halves > 0]
    total = sum(len(sizes) for sizes in rounds)

    def draw(batch: int, generator: Generator | None) -> Float[Tensor, "b k"]:
        order = torch.rand(batch, tokens, generator=generator, dtype=torch.float64).argsort(1).double()
        if not shuffle:
            order = torch.arange(tokens, dtype=torch.float64).expand(batch, -1)
        size = torch.cat([torch.zeros(0, dtype=torch.long), *rounds]).clamp(min=2)
        power = (size - 1 - size % 2).double() ** 1.05 * sharpness
        # Beta(a, a) of Ulrich 1984: a projection of a point on a circle of random radius; exact for a >= 1/2.
        v = torch.rand(2, batch, total, generator=generator, dtype=torch.float64)
        radius = (1 - v[0] ** (2 / (2 * power - 1))).clamp(min=0).sqrt()
        return torch.cat([order, 0.5 + 0.5 * radius * torch.cos(2 * torch.pi * v[1])], 1)

    def at(u: U, offsets: Float[Tensor, "b k"]) -> Levels:
        order, splits = offsets.split([tokens, total], 1)
        sums, rate = tokens * u[:, None], torch.full_like(u, float(tokens))[:, None]
        for sizes, split in zip(rounds, splits.split([len(sizes) for sizes in rounds], 1), strict=True):
            first, second = ((sizes + 1) // 2).to(u), (sizes // 2).to(u)
            low, high = (sums - second).clamp(min=0), torch.minimum(sums, first)
            low_rate, high_rate = torch.where(sums > second, rate, 0.0), torch.where(sums < first, rate, 0.0)
            one = low + (high - low) * split
            one_rate = low_rate + (high_rate - low_rate) * split
            kept = torch.stack([first, second], 1).flatten() > 0
            sums = torch.stack([one, sums - one], 2).flatten(1)[:, kept]
            rate = torch.stack([one_rate, rate - one_rate], 2).flatten(1)[:, kept]
        back = order.long()
        return Levels(sums.gather(1, back).clamp(0, 1)[..., None], rate.gather(1, back)[..., None])

    return PathLaw(draw, at)


def walk_law(tokens: int) -> PathLaw:
    """The monotone random walks of AsyncPatch Diffusion's bound (Papa et al. 2026, arXiv:2606.07079, theorem 1).

    Token j approaches noise at its own rate ``alpha_j ~ Exp(1)``: ``t_j = 1 - (1 - u)^(alpha_j / alpha_i)``, seen from
    a token i drawn at random, whose level is ``u``. The maps have the density of the theorem's weights, which is made
    of factorials and N-th powers; drawing them needs neither. The mean level is uniform too.

    The velocity is its mean over all walks through the map, ``tokens`` times :func:`path_weights` (Rao-Blackwell). A
    single walk's own velocity would be unbiased too, but of infinite variance.
    """
    if tokens < 1:
        raise ValueError(f"a law needs at least one token, got {tokens}")

    def draw(batch: int, generator: Generator | None) -> Float[Tensor, "b n"]:
        """The rates relative to that of a random token."""
        alpha = -torch.log1p(-torch.rand(batch, tokens, generator=generator, dtype=torch.float64))
        alpha = alpha.clamp(min=torch.finfo(torch.float64).tiny)
        seen_from = torch.randint(tokens, (batch, 1), generator=generator)
        return alpha / alpha.gather(1, seen_from)

    def at(u: U, ratio: Float[Tensor, "b n"]) -> Levels:
        h = -ratio * torch.log1p(-u)[:, None]  # -log(1 - t), without rounding t first
        velocity = tokens * (h.log() - h).softmax(1)
        inside = ((u > 0) & (u < 1))[:, None]
        level = torch.where(u[:, None] < 1, -torch.expm1(-h), 1.0)
        return Levels(level[..., None], torch.where(inside, velocity, 1.0)[..., None])

    return PathLaw(draw, at, averaged=True)


def path_weights(level: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Which token moves next on the walks of :func:`walk_law` through a map.

    ``(1 - t_i) h_i / sum_j (1 - t_j) h_j`` with ``h = -log(1 - t)``; levels in (0, 1).
    """
    h = -torch.log1p(-level)
    return (h.log() - h).softmax(-1)


def walk_log_density(level: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Log of the ratio of theorem 1's weights to the ordinary bound's, ``log(lambda_i(t) / lambda(t_i))``: the joint
    density of "token i is looked at" and the map, for drawing, checking and reading, not for weighting.

    ``(n - 1)! (1 - t_i) h_i / (prod_j (1 - t_j) (sum_j h_j)^n)``, in logarithms. Levels in (0, 1).
    """
    h, n = -torch.log1p(-level), level.shape[-1]
    factorial = torch.lgamma(torch.tensor(float(n), dtype=level.dtype, device=level.device))
    return factorial + h.log() - h + h.sum(-1, keepdim=True) - n * h.sum(-1, keepdim=True).log()
