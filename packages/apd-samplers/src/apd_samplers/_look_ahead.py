"""Guidance by what is certain: the uncertain tokens are guessed with the certain ones ahead."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap, NoiseSchedule, Posterior

from ._cost import token_evaluations
from ._schedulers._least import least, part
from ._schedulers._uncertainty import Error
from ._solvers import DDIM

CLEAN = 1e-3
"""A token this near to the clean end, in nats, is clean: ends of schedules are met to rounding."""


@dataclass(frozen=True, slots=True)
class LookAhead:
    """A guidance of two evaluations: certain tokens as the first says, all others as the second (Patch Forcing,
    arXiv:2604.19141).

    Between the two, the certain tokens go ahead on trial by a step of ``DDIM(0)``, to the flow time ``1 - t`` (1 minus
    ``NoiseMap.flow_level``) times ``reach``, or to clean where that is nearer. Certain are the tokens of least
    uncertainty in their image, by the first evaluation, among those under way: of flow time above ``begin`` and not
    clean. Where none is under way both evaluations are of one map and the guess is the plain one; the second is made
    all the same, since the host does not wait to know.

    It goes with any solver and scheduler. Tokens ahead are guesses that the second evaluation takes for observations.
    It therefore does not sample the model's law, however small the steps; nor is the second ``log_var`` to be
    trusted, and the first is passed on.

    With ``only_moving`` the first evaluation is of the tokens under way too: any of them may go ahead on trial. That
    cannot be asked for in the evaluations that :class:`Heun` makes: there the result is not that of all tokens.

    Args:
        schedule: that of the scheduler; only its clean end counts.
        share: of an image's tokens under way that are certain, in [0, 1], to the nearest number.
        reach: above 1; ``math.inf`` is all the way to clean.
        begin: flow time, in [0, 1).
        uncertainty: of (map, first posterior), log of each token's expected squared error ``(*batch, n)``. By default
            the posterior's ``log_var``.

    Raises:
        ValueError: numbers out of range; when called, a denoiser that has no ``log_var`` where it is asked for.
    """

    schedule: NoiseSchedule
    share: float = 0.4
    reach: float = 1.4
    begin: float = 0.05
    uncertainty: Callable[[NoiseMap, Posterior], Error] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is the part of the tokens that goes ahead, in [0, 1]: got {self.share}")
        if not self.reach > 1:
            raise ValueError(f"reach multiplies the flow time of what goes ahead, by more than 1: got {self.reach}")
        if not 0 <= self.begin < 1:
            raise ValueError(f"begin is a flow time, in [0, 1): got {self.begin}")

    def __call__(self, denoise: Denoiser) -> Denoiser:
        def guided(z: Float[Tensor, "*batch n d"], noise: NoiseMap, **cond: Any) -> Posterior:
            under_way = self._under_way(noise)
            needed = cond if cond.get("moving") is None else {**cond, "moving": cond["moving"] | under_way.any(-1)}
            first = denoise(z, noise, **needed)
            certain = self._certain(noise, first)[..., None]
            clean = self._clean(noise)
            reached = (self.reach * (1 - noise.flow_level)).clamp(max=1)
            # The logit, written so that it rounds alike wherever in a batch a token stands.
            further = (2 * (reached.log() - (-reached).log1p())).minimum(clean)
            ahead = NoiseMap(torch.where(certain & under_way, further, noise.log_snr))
            moved, _ = DDIM().step(z, first, noise, ahead, None)
            second = denoise(moved.to(z), ahead, **cond)
            mean = torch.where(certain, first.mean, second.mean)
            of_tokens = token_evaluations(first) + token_evaluations(second)
            return Posterior(mean, first.log_var, first.evaluations + second.evaluations, of_tokens)

        return guided

    def _clean(self, noise: NoiseMap) -> Float[Tensor, ""]:
        return self.schedule(noise.log_snr.new_zeros(()))

    def _under_way(self, noise: NoiseMap) -> Bool[Tensor, "*batch n e"]:
        return (1 - noise.flow_level > self.begin) & (noise.log_snr < self._clean(noise) - CLEAN)

    def _certain(self, noise: NoiseMap, posterior: Posterior) -> Bool[Tensor, "*batch n"]:
        error = posterior.log_var if self.uncertainty is None else self.uncertainty(noise, posterior)
        if error is None:
            raise ValueError(
                "this denoiser does not predict its error (Posterior.log_var is None): use one that does, or pass "
                "LookAhead(uncertainty=…)"
            )
        under_way = self._under_way(noise).any(-1).expand(error.shape)
        return least(error, under_way, part(self.share, under_way.sum(-1)))
