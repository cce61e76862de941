"""The bound along paths that are chosen on the way, from what generation has seen so far."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ._bound_terms import discrete_diffusion_nats, prior_nats, reconstruction_nats, step_back
from ._denoiser import Denoiser, Posterior
from ._elbo import Elbo
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
    **cond: Tensor,
) -> Elbo:
    """Bounds ``-log p(x)`` of generation whose next map depends on the tokens so far, as uncertainty-guided ones do.

    The path then depends on the noise, and marginal draws at one map are not enough: whole trajectories are drawn, in
    the order of generation, each step from ``q(z_cleaner | z, x)`` towards the data. What is chosen depends on the past
    alone, so every step's divergence is still that of two normal laws, and their sum still a bound.

    Args:
        choose: the rule. It sees noisy tokens through the posterior only, never ``x``.
        max_steps: within which all levels must reach 0.
        draws: trajectories for each image, at least 2; the standard error is from their spread.
        cond: conditions, tensors with a row for each image.

    Raises:
        ValueError: the rule raises a level, leaves [0, 1] or has not finished after ``max_steps``.
    """
    if draws < 2:
        raise ValueError(f"a bound with a standard error takes at least 2 draws, got {draws}")
    cond = {name: value.repeat_interleave(draws, 0) for name, value in cond.items()}
    tokens = x.repeat_interleave(draws, 0)
    level = torch.ones(*tokens.shape[:2], 1, dtype=torch.float64, device=x.device)
    noise = NoiseMap(schedule(level))
    normal = lambda: torch.randn(tokens.shape, generator=generator).to(x)
    z = corrupt(tokens, noise.to(x), normal())
    spent = torch.zeros(len(tokens), dtype=torch.float64, device=x.device)
    evaluations = 0
    for _ in range(max_steps):
        posterior = denoise(z, noise.to(x), **cond)
        evaluations += posterior.evaluations
        after = choose(level, posterior).to(level)
        if not ((after <= level) & (after >= 0)).all():
            raise ValueError("the rule raised a level or left [0, 1]: a path of generation goes from noise to clean")
        cleaner = NoiseMap(schedule(after))
        spent = spent + discrete_diffusion_nats(tokens.double(), posterior.mean.double(), noise, cleaner)
        z = step_back(z, tokens, noise.to(x), cleaner.to(x), normal())
        level, noise = after, cleaner
        if (level == 0).all():
            break
    else:
        raise ValueError(f"the rule has not brought all levels to 0 within {max_steps} steps")
    eps = (z.double() - noise.alpha * tokens.double()) / noise.sigma
    reconstruction = reconstruction_nats(tokens.double(), noise, eps, likelihood)
    prior = prior_nats(x.double(), NoiseMap(schedule(torch.ones(1, 1, dtype=torch.float64, device=x.device))))
    by_image = lambda value: value.unflatten(0, (-1, draws))
    error = by_image(spent + reconstruction).std(1) / draws**0.5
    dims = torch.full_like(prior, float(x[0].numel()))
    return Elbo(
        prior.cpu(),
        by_image(reconstruction).mean(1).cpu(),
        by_image(spent).mean(1).cpu(),
        error.cpu(),
        dims.cpu(),
        evaluations * draws,
    )
