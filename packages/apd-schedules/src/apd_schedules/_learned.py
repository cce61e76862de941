"""A noise schedule that is learned."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ._schedules import check_ends, mix


class LearnedSchedule(nn.Module):
    """VDM's monotone network between two fixed ends (Kingma et al. 2021, arXiv:2107.00630, appendix H).

    There it is ``l1(t) + l3(sigmoid(l2(l1(t))))`` with positive weights, normalised to the ends. Normalising takes out
    the bias of ``l3`` and the scale of the sum, and ``l2`` takes in the weights of ``l1``: what is left is ``t`` plus a
    sum of rising sigmoids. It is thus strictly decreasing whatever its parameters, which start near a log-SNR linear in
    level. It can be differentiated in its parameters and in the level.

    Args:
        clean, noise: log-SNR at level 0 and 1, in nats.
        width: number of sigmoids. VDM has 1024; each costs an evaluation at every element of a noise map.
        generator: draws where the sigmoids rise, and how steeply.
    """

    def __init__(self, clean: float = 13.3, noise: float = -5.0, width: int = 64, *, generator: Generator) -> None:
        super().__init__()
        check_ends(clean, noise)
        if width < 1:
            raise ValueError(f"a learned schedule needs at least one sigmoid, got width={width}")
        self.clean, self.noise = clean, noise
        middle, slope = torch.rand(2, width, generator=generator, device=generator.device).cpu()
        slope = 2 + 14 * slope
        self.steepness = nn.Parameter(slope.expm1().log())  # softplus gives the slope
        self.bias = nn.Parameter(-slope * middle)
        self.height = nn.Parameter(torch.full((width,), math.log(math.expm1(0.1 / width))))  # 0.1 of the way in all

    def forward(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        height, slope, bias = F.softplus(self.height).to(t), F.softplus(self.steepness).to(t), self.bias.to(t)
        # How far the sum is from its values at 0 and 1, each term as in `flow_parts`: exactly zero there.
        at = slope * t[..., None] + bias
        risen = -at.sigmoid() * (-bias).sigmoid() * (-slope * t[..., None]).expm1()
        left = -(slope + bias).sigmoid() * (-at).sigmoid() * (-slope * (1 - t[..., None])).expm1()
        p, q = t + (height * risen).sum(-1), 1 - t + (height * left).sum(-1)
        return mix(self.clean, self.noise, p / (p + q))

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The level of a log-SNR, by bisection in float64, without gradient."""
        with torch.no_grad():
            target = log_snr.double()
            low, high = torch.zeros_like(target), torch.ones_like(target)
            for _ in range(60):
                middle = (low + high) / 2
                cleaner = self(middle) > target
                low, high = torch.where(cleaner, middle, low), torch.where(cleaner, high, middle)
            # The ends as they are in the precision asked for, where 0.1 may lie below itself in float64.
            level = high.masked_fill(log_snr >= self.clean, 0).masked_fill(log_snr <= self.noise, 1)
            return level.masked_fill(target.isnan(), math.nan).to(log_snr.dtype)
