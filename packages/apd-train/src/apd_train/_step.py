"""The network with its losses around it: what Fabric wraps and synchronises."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from apd_models import DiT, error_nll
from apd_samplers import Draw, loss
from apd_schedules import NoiseMap, Posterior, corrupt

from ._watch import binned


def losses(
    model: DiT, x: Float[Tensor, "b n d"], draw: Draw, eps: Float[Tensor, "b n d"], label: Int[Tensor, " b"] | None
) -> tuple[Float[Tensor, " b"], ...]:
    """Of each sample: the weighted squared error, summed over its tokens and elements; and, if the model has an error
    head, the :func:`apd_models.error_nll` of its tokens that weigh something, averaged."""
    return losses_of(model(corrupt(x, draw.noise, eps), draw.noise, label=label), x, draw, eps)


def losses_of(
    posterior: Posterior, x: Float[Tensor, "b n d"], draw: Draw, eps: Float[Tensor, "b n d"]
) -> tuple[Float[Tensor, " b"], ...]:
    """:func:`losses` of a guess."""
    squared = loss(lambda z, noise: posterior, x, draw, eps)
    if posterior.log_var is None:
        return (squared,)
    counts = (draw.weight > 0).any(-1)
    nll = torch.where(counts, error_nll(posterior.log_var, posterior.mean, x), 0.0)
    # Averaged sample by sample, so that it does not matter how samples are divided among devices.
    return squared, nll.sum(-1) / counts.sum(-1).clamp(min=1)


class LossModule(nn.Module):
    """A model whose forward pass is its training losses.

    Takes plain tensors: Fabric casts and moves arguments, and cannot do so inside frozen dataclasses.
    """

    def __init__(self, model: DiT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        eps: Float[Tensor, "b n d"],
        log_snr: Float[Tensor, "b n e"],
        weight: Float[Tensor, "b n e"],
        label: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, " parts"], Float[Tensor, "2 cells"]]:
        """The weighted squared error, a mean over samples, tokens and elements, and with an error head the mean of its
        negative log-likelihood. Their sum is trained on: no parameter has a gradient of both. And, to be watched and
        without a gradient, where in level and spread the errors are: see :func:`binned`."""
        draw = Draw(NoiseMap(log_snr), weight)
        posterior = self.model(corrupt(x, draw.noise, eps), draw.noise, label=label)
        squared, *rest = losses_of(posterior, x, draw, eps)
        parts = torch.stack([squared.mean() / x[0].numel(), *(each.mean() for each in rest)])
        return parts, binned(posterior.mean, x, draw)
