"""The network with its loss around it: what Fabric wraps and synchronises."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from apd_models import DiT
from apd_samplers import Draw, loss
from apd_schedules import NoiseMap


class LossModule(nn.Module):
    """A model whose forward pass is its training loss.

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
    ) -> Float[Tensor, ""]:
        """Mean over samples, tokens and elements."""
        draw = Draw(NoiseMap(log_snr), weight)
        return loss(self.model, x, draw, eps, label=label).mean() / x[0].numel()
