"""How far images are from each other in a network's feature maps, to be trained on. Needs apd-metrics."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._run_config import ConfigError


class FeatureLoss(nn.Module):
    """:func:`apd_metrics.feature_distance` with a gradient: images are neither rounded to 8 bits nor clamped.

    Args:
        side: that images are resized to; at least 32.

    Raises:
        ConfigError: apd-metrics is not installed.
    """

    def __init__(self, side: int) -> None:
        try:
            from apd_metrics import efficientnet_lite0, feature_distance
        except ImportError as error:
            raise ConfigError(
                'features_weight needs the package apd-metrics: pip install "apd-train[features]", or set it to 0'
            ) from error
        super().__init__()
        extractor = efficientnet_lite0(side)
        self.network, self._resize, self._side = extractor.network.requires_grad_(False), extractor.resize, side
        self._distance = feature_distance

    def forward(self, images: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Of each image from its truth."""
        with torch.no_grad():
            theirs = self._maps(truth)
        return self._distance(self._maps(images), theirs)

    def _maps(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        pixels = ((images + 1) * 127.5).expand(-1, 3, -1, -1)
        return self.network(self._resize(pixels, self._side), True).maps
