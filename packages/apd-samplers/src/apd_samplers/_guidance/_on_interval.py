"""Guidance at some noise levels only."""

import torch

from apd_schedules import Denoiser, Posterior

from .._named import named
from ._guided import Answer, Calls, Guidance, Guided
from ._query import Query


@named
def on_interval(guidance: Guidance, low: float, high: float) -> Guidance:
    """``guidance`` for tokens whose :attr:`NoiseMap.flow_level` lies in [low, high], the plain denoiser for the others.

    Kynkäänniemi et al. 2024 (arXiv:2404.07724), per token. Where no token is inside, only the plain denoiser is asked;
    where all are, only the guided one. In between both are, and what they share is asked once: classifier-free guidance
    costs two evaluations there, not three. ``log_var`` is then the plain denoiser's. Whether tokens are inside decides
    what is asked, so the host waits for the device once an evaluation.

    Args:
        low, high: flow levels, 0 clean and 1 noise, both included. Known tokens are clean: with ``low = 0`` they are
            inside, and guidance is paid for as long as there are any.

    Raises:
        ValueError: not ``0 <= low <= high <= 1``.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"an interval of flow levels has 0 <= low <= high <= 1, got low={low}, high={high}")

    def guide(denoise: Denoiser) -> Denoiser:
        guided = guidance(denoise)

        def plan(query: Query, calls: Calls) -> Answer:
            level = query.noise.flow_level
            inside = (level >= low) & (level <= high)
            some, every = torch.stack([inside.any(), inside.all()]).tolist()
            if every:
                return calls.ask(guided, query)
            plain = calls.ask(denoise, query)
            if not some:
                return plain
            told = calls.ask(guided, query)
            return lambda: Posterior(torch.where(inside, told().mean, plain().mean), plain().log_var)

        return Guided(plan)

    return guide
