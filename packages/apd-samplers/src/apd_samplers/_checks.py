"""Early and clear errors of the generation loop."""

import torch
from jaxtyping import Bool
from torch import Tensor

from apd_schedules import NoiseMap, Posterior


def check_map(noise: NoiseMap, z: Tensor) -> None:
    """Raises ValueError if a map is not of the tokens ``z``."""
    check_fits("a noise map", noise.log_snr, z)


def check_fits(what: str, value: Tensor, z: Tensor) -> None:
    """Raises ValueError if ``value`` is not one number for each token of ``z``, or for each element."""
    if z.ndim < 2:
        raise ValueError(f"tokens have the shape (*batch, n, d), got {tuple(z.shape)}")
    *batch, n, e = value.shape if value.ndim > 1 else (0, 0)
    fits = n == z.shape[-2] and e in (1, z.shape[-1]) and len(batch) <= z.ndim - 2
    lead = z.shape[z.ndim - 2 - len(batch) : z.ndim - 2]
    if not fits or any(size not in (1, of) for size, of in zip(batch, lead, strict=True)):
        raise ValueError(
            f"{what} of shape {tuple(value.shape)} does not fit tokens of shape {tuple(z.shape)}: it must broadcast "
            "against them and have their number of tokens"
        )


def check_mask(known: Tensor, x: Tensor) -> None:
    """Raises ValueError if ``known`` is not a mask of the tokens ``x``."""
    if known.dtype != torch.bool:
        raise ValueError(f"known is a mask of booleans, true where known, got {known.dtype}")
    check_fits("a mask", known, x)


def check_mean(posterior: Posterior, z: Tensor) -> None:
    """Raises ValueError if the posterior is not of the tokens ``z``."""
    if posterior.mean.shape != z.shape:
        raise ValueError(
            f"the denoiser returned a mean of shape {tuple(posterior.mean.shape)} for tokens of shape {tuple(z.shape)}"
        )
    if posterior.log_var is not None and posterior.log_var.shape != z.shape[:-1]:
        raise ValueError(
            f"the denoiser returned log_var of shape {tuple(posterior.log_var.shape)}, one number a token is "
            f"{tuple(z.shape[:-1])}"
        )


def _faults(posterior: Posterior) -> Bool[Tensor, "*batch n"]:
    bad = ~posterior.mean.isfinite().all(-1)
    if posterior.log_var is None:
        return bad
    return bad | ~(posterior.log_var < torch.inf)  # -inf, nothing left to tell, is no fault


class FiniteCheck:
    """Finds the first step at which a denoiser's mean is not finite, or its ``log_var`` is NaN or infinitely large.

    On the CPU it speaks up at once. Elsewhere looking at a number means waiting for the device, so what was found
    stays there until :meth:`close`.
    """

    def __init__(self, device: torch.device, at_once: bool | None = None) -> None:
        self._at_once = device.type == "cpu" if at_once is None else at_once
        # step, place of the token among all, and its flow level; step 0 is "nothing found"
        self._found = torch.zeros(3, dtype=torch.float64, device=device)
        self._shape: torch.Size | None = None

    def look(self, step: int, posterior: Posterior, noise: NoiseMap) -> None:
        self._shape = posterior.mean.shape[:-1]
        if self._at_once:
            if not _faults(posterior).any():
                return
            self._record(step, posterior, noise)
            self.close()
        elif posterior.mean.numel():
            self._record(step, posterior, noise)

    def _record(self, step: int, posterior: Posterior, noise: NoiseMap) -> None:
        bad = _faults(posterior)
        first = bad.flatten().long().argmax()
        level = noise.flow_level.double().mean(-1).expand(bad.shape).flatten().gather(0, first[None])[0]
        here = torch.stack([torch.full_like(level, step), first.double(), level])
        self._found = torch.where((self._found[0] == 0) & bad.any(), here, self._found)

    def close(self) -> None:
        """Raises FloatingPointError if anything was found."""
        step, place, level = self._found.tolist()
        if not step:
            return
        assert self._shape is not None
        *sample, token = (int(k) for k in torch.unravel_index(torch.tensor(int(place)), self._shape))
        of = f" of sample {', '.join(map(str, sample))}" if sample else ""
        raise FloatingPointError(
            f"the denoiser's mean or log_var is not finite: first in step {step:g}, token {token}{of}, which was at "
            f"flow level {level:.4g} (0 clean, 1 noise)"
        )
