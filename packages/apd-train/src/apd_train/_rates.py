"""Learning rates, as functions of the step alone: nothing about them has to be saved."""

import math
from collections.abc import Callable

Rate = Callable[[int], float]
"""From a step, counted from 0, to its learning rate."""


def constant_rate(peak: float, warmup: int = 0) -> Rate:
    """``peak`` from step ``warmup`` on.

    Args:
        warmup: steps of linear growth to the peak: step ``i`` of them has ``peak (i + 1) / warmup``. None has a rate of
            zero, which would waste it.

    Raises:
        ValueError: a peak that is not positive, a negative warm-up.
    """
    return _warmed(peak, warmup, lambda step: peak)


def cosine_rate(peak: float, steps: int, warmup: int = 0, final: float = 0.0) -> Rate:
    """Half a period of a cosine, from ``peak`` at step ``warmup`` to ``final peak`` one step after the last (Loshchilov
    & Hutter 2017, arXiv:1608.03983, without restarts).

    Args:
        steps: of the whole run. Later steps keep the last rate.
        warmup: see :func:`constant_rate`.
        final: share of the peak.

    Raises:
        ValueError: as :func:`constant_rate`; no steps; a share outside [0, 1].
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 <= final <= 1:
        raise ValueError(f"final is a share of the peak in [0, 1], got {final}")

    def after(step: int) -> float:
        done = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))

    return _warmed(peak, warmup, after)


def inverse_sqrt_rate(peak: float, reference: int, warmup: int = 0) -> Rate:
    """``peak / sqrt(max(step / reference, 1))``: constant up to step ``reference``, then falling without an end.

    Goes with a run whose length is not fixed beforehand: the average of the weights does what a cosine's end would
    (Karras et al. 2024, arXiv:2312.02696, equation 67).

    Args:
        reference: step at which the rate starts to fall.
        warmup: see :func:`constant_rate`.

    Raises:
        ValueError: as :func:`constant_rate`; a reference that is not positive.
    """
    if reference < 1:
        raise ValueError(f"reference must be at least 1, got {reference}")
    return _warmed(peak, warmup, lambda step: peak / math.sqrt(max(step / reference, 1.0)))


def _warmed(peak: float, warmup: int, after: Rate) -> Rate:
    if not (peak > 0 and math.isfinite(peak)):
        raise ValueError(f"the peak of the learning rate must be positive and finite, got {peak}")
    if warmup < 0:
        raise ValueError(f"warmup must not be negative, got {warmup}")
    return lambda step: peak * (step + 1) / warmup if step < warmup else after(step)
