"""Is a predicted error the error that is made? By noise level."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from apd_schedules import Denoiser, NoiseMap, corrupt

EDGES = (0.001, *(k / 10 for k in range(1, 11)))
"""Tenths of the flow level, without tokens that are clean: at level 10⁻⁴ there is no error to speak of."""


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Tokens of one range of flow levels. NaN is what cannot be told.

    Errors are those of the flow velocity (of the clean tokens, over the flow level) squared, per element: levels within
    the range then count alike, and ``actual`` is the flow loss of that range.

    Args:
        low, high: the range.
        tokens: how many there are.
        predicted, actual: mean squared error.
        ratio: of ``actual`` to ``predicted``: above 1, more is wrong than was said.
        ratio_error: its standard error, over samples.
        pearson: correlation of the logs of predicted and actual error over the tokens. Also an exact prediction does
            not reach 1: of ``d`` normal elements the log of the error has a variance of ``trigamma(d / 2)``.
        spearman: correlation of their ranks, equal ones sharing theirs.
        nll: of the errors, see :func:`error_nll`; nats an element, up to a constant.
        nll_constant: the same of the one prediction for all these tokens that is best.
    """

    low: float
    high: float
    tokens: int
    predicted: float
    actual: float
    ratio: float
    ratio_error: float
    pearson: float
    spearman: float
    nll: float
    nll_constant: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Predicted and actual errors of tokens; the sum of two is that of all their samples.

    Args:
        sample: which sample each token is of, counted from 0.
        level: flow level.
        log_predicted, log_actual: log of the squared error of the flow velocity, per element; float64.
        samples: how many there are.
        edges: of the ranges of flow levels.
    """

    sample: Int[Tensor, " m"]
    level: Float[Tensor, " m"]
    log_predicted: Float[Tensor, " m"]
    log_actual: Float[Tensor, " m"]
    samples: int
    edges: tuple[float, ...] = EDGES

    def __post_init__(self) -> None:
        pairs = zip(self.edges, self.edges[1:], strict=False)
        if len(self.edges) < 2 or not all(a < b for a, b in pairs) or self.edges[0] < 0 or self.edges[-1] > 1:
            raise ValueError(f"edges are two or more flow levels in [0, 1], ascending, got {self.edges}")

    def __add__(self, other: "Calibration") -> "Calibration":
        if self.edges != other.edges:
            raise ValueError(f"calibrations of equal edges can be added, got {self.edges} and {other.edges}")
        return Calibration(
            torch.cat([self.sample, other.sample + self.samples]),
            torch.cat([self.level, other.level]),
            torch.cat([self.log_predicted, other.log_predicted]),
            torch.cat([self.log_actual, other.log_actual]),
            self.samples + other.samples,
            self.edges,
        )

    @property
    def rows(self) -> tuple[CalibrationRow, ...]:
        """A row for each range that has tokens; the last range includes its end."""
        inner = torch.tensor(self.edges[1:-1], dtype=self.level.dtype, device=self.level.device)
        place = torch.bucketize(self.level, inner, right=True)
        inside = (self.level >= self.edges[0]) & (self.level <= self.edges[-1])
        chosen = [inside & (place == k) for k in range(len(self.edges) - 1)]
        return tuple(self._row(self.edges[k], self.edges[k + 1], each) for k, each in enumerate(chosen) if each.any())

    def _row(self, low: float, high: float, chosen: Bool[Tensor, " m"]) -> CalibrationRow:
        sample, said, made = (each[chosen] for each in (self.sample, self.log_predicted, self.log_actual))
        predicted, actual = said.exp(), made.exp()
        ratio = float(actual.mean() / predicted.mean())
        # A ratio of two sums over samples, linearised (the delta method).
        count = len(sample.unique())
        off = actual.new_zeros(self.samples).index_add(0, sample, actual - ratio * predicted)
        spread = (off.square().sum() * count / (count - 1)).sqrt() if count > 1 else off.new_tensor(math.nan)
        return CalibrationRow(
            low,
            high,
            len(sample),
            float(predicted.mean()),
            float(actual.mean()),
            ratio,
            float(spread / predicted.sum()),
            _correlation(said, made),
            _correlation(_ranks(said), _ranks(made)) if _varies(said) else math.nan,
            float((said + (made - said).exp()).mean()) / 2,
            (math.log(float(actual.mean())) + 1) / 2,
        )

    def record(self) -> list[dict[str, float | int | None]]:
        """The rows for JSON, which has no NaN: ``None`` instead."""
        return [{name: _plain(value) for name, value in asdict(row).items()} for row in self.rows]

    def __str__(self) -> str:
        """A table, a row for each range of levels."""
        lines = [
            f"{'flow level':>11} {'tokens':>8} {'predicted':>9} {'actual':>9}  {'actual/predicted':^16} "
            f"{'pearson':>8} {'spearman':>8} {'nll':>7} {'constant':>8}"
        ]
        for row in self.rows:
            lines.append(
                f"{row.low:5.3g}-{row.high:<5.3g} {row.tokens:8} {row.predicted:9.4g} {row.actual:9.4g}  "
                f"{row.ratio:7.3f} ± {row.ratio_error:<6.3f} {row.pearson:8.3f} {row.spearman:8.3f} {row.nll:7.3f} "
                f"{row.nll_constant:8.3f}"
            )
        return "\n".join(lines)


@torch.no_grad()
def calibration(
    denoise: Denoiser,
    x: Float[Tensor, "b n d"],
    noise: NoiseMap,
    eps: Float[Tensor, "*k b n d"],
    *,
    edges: Sequence[float] = EDGES,
    **cond: Any,
) -> Calibration:
    """Compares the error that a denoiser predicts (``Posterior.log_var``) with the one it makes.

    Of one batch; add up those of several.

    Args:
        x: clean tokens, best of images that the denoiser was not trained on.
        noise: maps that broadcast against ``eps``.
        eps: standard normal noise. Axes before the batch are further looks at the same samples, which go through the
            network together; standard errors are over samples.
        edges: of the ranges of flow levels that tokens are sorted into, ascending; others are left out.
        cond: conditions; tensors have a row for each sample.

    Raises:
        ValueError: the denoiser predicts no error or what is not finite, or ``edges`` do not ascend in [0, 1].
    """
    looks = math.prod(eps.shape[:-3])
    many = lambda value: value.repeat(looks, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value
    log_snr = noise.log_snr.expand(*eps.shape[:-1], noise.log_snr.shape[-1]).flatten(0, -3)
    clean = many(x)
    z = corrupt(clean, NoiseMap(log_snr), eps.flatten(0, -3))
    posterior = denoise(z, NoiseMap(log_snr), **{name: many(value) for name, value in cond.items()})
    if posterior.log_var is None:
        raise ValueError("this denoiser does not predict its error (Posterior.log_var is None)")
    if not (posterior.mean.isfinite().all() and posterior.log_var.isfinite().all()):
        raise ValueError("the denoiser's mean or its predicted error is not finite")
    squared = (clean - posterior.mean).double().square().mean(-1)
    log_actual = squared.clamp(min=torch.finfo(squared.dtype).tiny).log()
    half = -0.5 * log_snr.double().amin(-1)  # a token is as noisy as its noisiest element
    to_flow = 2 * F.logsigmoid(half)
    sample = many(torch.arange(len(x), device=x.device))[:, None].expand(half.shape)
    return Calibration(
        sample.flatten(),
        half.sigmoid().flatten(),
        (posterior.log_var.double() - to_flow).flatten(),
        (log_actual - to_flow).flatten(),
        len(x),
        tuple(edges),
    )


def _ranks(values: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Ranks; equal values share the mean of theirs."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2).to(values)[place]


def _varies(values: Float[Tensor, " m"]) -> bool:
    """By more than rounding."""
    return bool(values.amax() - values.amin() > 1e-9)


def _correlation(a: Float[Tensor, " m"], b: Float[Tensor, " m"]) -> float:
    if not (_varies(a) and _varies(b)):
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt())


def _plain(value: float | int) -> float | int | None:
    return None if math.isnan(value) else value
