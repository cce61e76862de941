"""Noise maps: the log-SNR of every token, or of every element of every token.

A token is observed as ``z = alpha x + sigma eps`` with ``eps`` standard normal and ``alpha² + sigma² = 1``. The pair is
fixed by ``log_snr = log(alpha² / sigma²)`` in nats: large is clean. Both factors come from a sigmoid of the log-SNR;
``sqrt(1 - alpha²)`` would lose all digits of a small ``sigma``.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class NoiseMap:
    """Noise levels of the tokens of a batch.

    Args:
        log_snr: shape ``(*batch, n, e)``, nats, finite. ``e = 1`` gives one level a token, ``e = d`` one level an
            element (pixel) of a token of ``d`` elements. It broadcasts against tokens of shape ``(*batch, n, d)``, so
            a map without batch axes serves every sample.
    """

    log_snr: Float[Tensor, "*batch n e"]

    @property
    def alpha(self) -> Float[Tensor, "*batch n e"]:
        """Signal factor, in (0, 1]."""
        return logistic(self.log_snr).sqrt()

    @property
    def sigma(self) -> Float[Tensor, "*batch n e"]:
        """Noise factor, in (0, 1]."""
        return logistic(-self.log_snr).sqrt()

    @property
    def flow_level(self) -> Float[Tensor, "*batch n e"]:
        """``sigma / (alpha + sigma)``: the time of rectified flow, in [0, 1], 0 clean.

        What models are conditioned on, whatever schedule the map came from.
        """
        return logistic(-0.5 * self.log_snr)

    def to(self, like: Tensor) -> "NoiseMap":
        """The map on the device of ``like``, in its precision but never below float32."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return NoiseMap(self.log_snr.to(device=like.device, dtype=dtype))


@runtime_checkable
class NoiseSchedule(Protocol):
    """A strictly decreasing map from level (0 clean, 1 noise) to log-SNR in nats, elementwise."""

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]: ...


@runtime_checkable
class Path(Protocol):
    """A curve of noise maps from all noise (``s = 1``) to all clean (``s = 0``), in levels.

    Every level is non-decreasing in ``s``. A path built from batched data (a known region for each sample, say)
    returns ``(*s, *batch, n, e)``.
    """

    def __call__(self, s: Float[Tensor, "*s"]) -> Float[Tensor, "*s n e"]: ...


def logistic(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """``1 / (1 + exp(-x))``, equal to the bit wherever in a tensor a number stands.

    ``torch.sigmoid`` rounds differently on a CPU at the end of a tensor than inside it: the levels of one sample would
    depend on how many share its batch. For log-SNRs, whose exponentials do not overflow.
    """
    return 1 / (1 + (-x).exp())


def corrupt(
    x: Float[Tensor, "*batch n d"], noise: NoiseMap, eps: Float[Tensor, "*batch n d"]
) -> Float[Tensor, "*batch n d"]:
    """``alpha x + sigma eps``: clean tokens brought to the levels of a map by standard normal ``eps``."""
    return noise.alpha * x + noise.sigma * eps
