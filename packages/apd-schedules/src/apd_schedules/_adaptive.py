"""The bound along paths that are chosen on the way, from what generation has seen so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ._bound_terms import discrete_diffusion_nats, prior_nats, reconstruction_nats, step_back
from ._denoiser import Denoiser, Posterior
from ._elbo import Elbo, check_data
from ._estimate import Rows, check_posterior
from ._likelihood import DiscretizedGaussian, Likelihood
from ._noise import NoiseMap, NoiseSchedule, corrupt

Choose = Callable[[Float[Tensor, "b n 1"], Posterior], Float[Tensor, "b n 1"]]
"""(levels, posterior) to the next levels, none of them higher; all 0 ends the path."""


@torch.no_grad()
def adaptive_elbo(
    denoise: Denoiser,
    x: Float[Tensor, "b n d"],
    schedule: NoiseSchedule,
    choose: Choose,
    *,
    generator: Generator,
    max_steps: int,
    likelihood: Likelihood = DiscretizedGaussian(),
    draws: int = 4,
    cond: Mapping[str, Any] = MappingProxyType({}),
    batch: int = 256,
    on_batch: Callable[[int, int], None] | None = None,
) -> Elbo:
    """Bounds ``-log p(x)`` of generation whose next map depends on the tokens so far, as uncertainty-guided ones do.

    The path then depends on the noise, and marginal draws at one map are not enough: whole trajectories are drawn, in
    the order of generation, each step from ``q(z_cleaner | z, x)`` towards the data. What is chosen depends on the past
    alone, so every step's divergence is still that of two normal laws, and their sum still a bound.

    Args:
        choose: the rule. It sees noisy tokens through the posterior only, never ``x``.
        generator: on the CPU.
        max_steps: within which all levels must reach 0.
        draws: trajectories for each image, at least 2; the standard error is from their spread.
        cond: conditions; tensors have a row for each image.
        batch: trajectories that go through the network together, about.
        on_batch: called with (images done, images in all).

    Raises:
        ValueError: the rule raises a level, leaves [0, 1], has another shape or has not finished after ``max_steps``;
            the denoiser returns what is not finite.
    """
    check_data(x, schedule, cond)
    if draws < 2:
        raise ValueError(f"a bound with a standard error takes at least 2 draws, got {draws}")
    walk = _Walk(denoise, schedule, choose, max_steps, likelihood)
    whole, group = Rows(x, None, cond), max(1, batch // draws)
    parts: list[tuple[Tensor, ...]] = []
    evaluations = 0
    for start in range(0, len(x), group):
        images = whole.cut(slice(start, start + group))
        reconstruction, diffusion, calls = walk(images.repeat(draws), generator)
        each = [value.unflatten(0, (-1, draws)) for value in (reconstruction, diffusion)]
        error = (each[0] + each[1]).std(1) / draws**0.5
        parts.append((each[0].mean(1), each[1].mean(1), error))
        evaluations = max(evaluations, calls * draws)
        if on_batch is not None:
            on_batch(min(start + group, len(x)), len(x))
    reconstruction, diffusion, error = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
    prior = prior_nats(x.double(), NoiseMap(schedule(torch.ones(1, 1, dtype=torch.float64, device=x.device)))).cpu()
    return Elbo(prior, reconstruction, diffusion, error, torch.full_like(prior, float(x[0].numel())), evaluations)


@dataclass(frozen=True, slots=True)
class _Walk:
    denoise: Denoiser
    schedule: NoiseSchedule
    choose: Choose
    max_steps: int
    likelihood: Likelihood

    def __call__(self, rows: Rows, generator: Generator) -> tuple[Tensor, Tensor, int]:
        """Reconstruction and diffusion of each trajectory, in nats, and evaluations."""
        x = rows.x.double()  # the trajectory in float64: near the clean end float32 would lose the noise
        normal = lambda: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        level = torch.ones(*x.shape[:2], 1, dtype=torch.float64, device=x.device)
        noise = NoiseMap(self.schedule(level))
        z = corrupt(x, noise, normal())
        spent = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        evaluations = 0
        for _ in range(self.max_steps):
            seen = noise.to(rows.x)
            posterior = self.denoise(z.to(rows.x.dtype), seen, **rows.cond)
            check_posterior(posterior, z, seen)
            evaluations += posterior.evaluations
            after = self.choose(level, posterior).to(level)
            if after.shape != level.shape:
                raise ValueError(f"the rule must return levels of shape {tuple(level.shape)}, got {tuple(after.shape)}")
            if not ((after <= level) & (after >= 0)).all():
                raise ValueError("the rule raised a level or left [0, 1]: generation goes from noise to clean")
            cleaner = NoiseMap(self.schedule(after))
            spent = spent + discrete_diffusion_nats(x, posterior.mean.double(), noise, cleaner)
            z = step_back(z, x, noise, cleaner, normal())
            level, noise = after, cleaner
            if (level == 0).all():
                eps = (z - noise.alpha * x) / noise.sigma
                return reconstruction_nats(x, noise, eps, self.likelihood), spent, evaluations
        raise ValueError(f"the rule has not brought all levels to 0 within {self.max_steps} steps")
