"""Which latents a model is trained on, and at what scale."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LatentScale:
    """Mean and standard deviation of each channel of an autoencoder's latents; ``(z - mean) / std`` is trained on.

    Latents that were shifted and multiplied by an autoencoder's own ``shift_factor`` and ``scaling_factor`` have that
    shift as ``mean`` and one over that factor as ``std``, in every channel.

    Args:
        codec: digest of the autoencoder that they are of, see :class:`Codec`; None where that is not known.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    codec: str | None = None

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"expected a mean and a std for each channel, got {len(self.mean)} and {len(self.std)}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"means must be finite, stds finite and more than 0, got {self.mean} and {self.std}")

    @classmethod
    def said(cls, record: Any) -> "LatentScale":
        """What ``asdict`` and JSON made of one.

        Raises:
            KeyError, TypeError, ValueError: this is none.
        """
        codec = record.get("codec") if isinstance(record, dict) else None
        mean, std = (tuple(map(float, record[name])) for name in ("mean", "std"))
        return cls(mean, std, None if codec is None else str(codec))

    @property
    def channels(self) -> int:
        return len(self.mean)

    def standardise(self, latents: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """``(z - mean) / std``."""
        mean, std = self._as(latents)
        return (latents - mean) / std

    def restore(self, standardised: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """``std z + mean``."""
        mean, std = self._as(standardised)
        return std * standardised + mean

    def _as(self, latents: Float[Tensor, "*batch c h w"]) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
        if latents.shape[-3] != self.channels:
            raise ValueError(f"expected latents of {self.channels} channels, got {latents.shape[-3]}")
        mean, std = (latents.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return mean, std
