"""Models that say how wrong each token's guess is, trained as long as those of other tables that compare drawing."""

from collections.abc import Callable
from dataclasses import replace

from experiment_laws import LONG_DEFAULT, MIXED, MODELS as LONG
from experiment_setting import Setting

from apd_train import TrainConfig


def with_head(setting: Setting) -> TrainConfig:
    """The network is the one that it would be without the head."""
    return replace(LONG[LONG_DEFAULT](setting), error_head=True)


def one_way(setting: Setting) -> TrainConfig:
    """Tokens see cleaner ones only: those at rest can be left out, and no number changes by it."""
    return replace(with_head(setting), one_way=True)


def half_shared(setting: Setting) -> TrainConfig:
    """Half of the maps are uneven, as those are on the way where tokens take steps of their own; by default a tenth."""
    return replace(with_head(setting), levels=MIXED["shared-50-wavefront-20-context-30"])


MODELS: dict[str, Callable[[Setting], TrainConfig]] = {
    "long-error-head": with_head,
    "long-one-way": one_way,
    "long-half-shared": half_shared,
}
