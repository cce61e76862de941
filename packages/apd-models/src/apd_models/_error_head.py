"""How wrong the mean is expected to be, token by token."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from apd_schedules import NoiseMap

from ._conventions import Convention
from ._fused import modulated_norm
from ._modulation import Modulation, Rows


class ErrorHead(nn.Module):
    """Log of the expected squared error of the network's output, per element, from its last features.

    Starts at an error of 1. It does not change what the rest of the network learns: no gradient leaves it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "b n width"], rows: Rows) -> Float[Tensor, "b n"]:
        """
        Args:
            x: the residual stream after the last block.
            rows: what :attr:`modulation` makes of the tokens' levels.
        """
        return self.out(F.gelu(self.hidden(modulated_norm(x.detach(), rows, 0, 1))))[..., 0]


def log_var_of_mean(log_error: Float[Tensor, "b n"], noise: NoiseMap, convention: Convention) -> Float[Tensor, "b n"]:
    """From the error of the output to that of the clean tokens, both per element."""
    gain = 2 * convention.log_gain(noise)
    return log_error + torch.logsumexp(gain, -1) - math.log(gain.shape[-1])


def error_nll(
    log_var: Float[Tensor, "*batch n"], mean: Float[Tensor, "*batch n d"], x: Float[Tensor, "*batch n d"]
) -> Float[Tensor, "*batch n"]:
    """``(log_var + |x - mean|² / (d exp(log_var))) / 2``: what the error head is trained by; the mean is held fixed.

    The negative log-likelihood, per element and up to a constant, of a normal variable of that variance; least where
    the variance is the expected squared error (Nix & Weigend 1994).

    Args:
        log_var, mean: of a :class:`apd_schedules.Posterior`.
        x: the clean tokens.
    """
    squared = (x - mean.detach()).square().mean(-1)
    # One exponential of the sum: at low noise both factors leave the range of float32.
    ratio = (squared.clamp(min=torch.finfo(squared.dtype).tiny).log() - log_var).exp()
    return (log_var + ratio) / 2
