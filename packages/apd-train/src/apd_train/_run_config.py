"""What every run says of its steps, whatever it trains."""

import math
from dataclasses import fields
from typing import Any, Literal, Protocol, runtime_checkable

from ._averages import WIDEST
from ._data import DataSource
from ._rates import constant_rate, cosine_rate, inverse_sqrt_rate


class ConfigError(ValueError):
    """A run that cannot be: the message is one line and says what would be right."""


@runtime_checkable
class RunConfig(Protocol):
    """A run, as far as it does not matter what is trained: :class:`TrainConfig`, :class:`AutoencoderTraining`. See
    there."""

    @property
    def data(self) -> DataSource: ...
    @property
    def image_size(self) -> int: ...
    @property
    def held_out(self) -> int: ...
    @property
    def flip(self) -> bool: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def rate_schedule(self) -> Literal["cosine", "constant", "inverse_sqrt"]: ...
    @property
    def rate_constant_steps(self) -> int: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def final_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def clip_norm(self) -> float: ...
    @property
    def ema_sigma_rels(self) -> tuple[float, ...]: ...
    @property
    def max_skipped(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def seed(self) -> int: ...

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        ...


def check(good: bool, message: str) -> None:
    """Raises :class:`ConfigError` with the message unless all is good."""
    if not good:
        raise ConfigError(message)


def check_run(config: RunConfig) -> None:
    """Raises :class:`ConfigError` for what no run can have."""
    of: Any = config
    for item in fields(of):
        value = getattr(config, item.name)
        check(not isinstance(value, float) or math.isfinite(value), f"{item.name} must be finite, got {value}")
    check(0 <= config.final_rate <= 1, f"final_rate is a share in [0, 1], got {config.final_rate}")
    check(config.weight_decay >= 0, f"weight_decay must not be negative, got {config.weight_decay}")
    check(all(0 <= beta < 1 for beta in config.betas), f"betas lie in [0, 1), got {config.betas}")
    whole = "image_size held_out steps batch_size log_every evaluate_every rate_constant_steps max_skipped"
    for name in whole.split():
        check(getattr(config, name) >= 1, f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("learning_rate", "clip_norm"):
        check(getattr(config, name) > 0, f"{name} must be positive, got {getattr(config, name)}")
    check(config.warmup_steps >= 0, f"warmup_steps must not be negative, got {config.warmup_steps}")
    check(len(config.ema_sigma_rels) > 0, "ema_sigma_rels must name at least one width")
    for width in config.ema_sigma_rels:
        check(0 < width < WIDEST, f"ema_sigma_rels must be in (0, {WIDEST:.3f}), got {width}")
    check(len({*config.ema_sigma_rels}) == len(config.ema_sigma_rels), "ema_sigma_rels must differ")
    check(0 <= config.seed < 2**63, f"seed must be in [0, 2^63), got {config.seed}")


def rate_of(config: RunConfig, step: int) -> float:
    """:meth:`RunConfig.rate` of a configuration, from the rest of it."""
    warmup = min(config.warmup_steps, config.steps // 10)
    match config.rate_schedule:
        case "cosine":
            rate = cosine_rate(config.learning_rate, config.steps, warmup, config.final_rate)
        case "constant":
            rate = constant_rate(config.learning_rate, warmup)
        case "inverse_sqrt":
            rate = inverse_sqrt_rate(config.learning_rate, config.rate_constant_steps, warmup)
    return rate(step)
