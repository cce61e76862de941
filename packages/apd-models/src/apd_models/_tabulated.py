"""The modulation of a fixed schedule, computed once."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

from ._dit import DiT, Modulations
from ._modulation import Levels, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Tabulated:
    """What :func:`tabulated` returns: the model, asked at levels that were said beforehand.

    Args:
        log_snr: those levels, rising.
        labels: the labels that may be asked for, rising.
        tables: rows of each level, or of each pair of level and label; of each label, where they are apart.
        synchronous: all tokens have one level.
    """

    model: DiT
    log_snr: Float[Tensor, " u"]
    labels: Int[Tensor, " c"]
    tables: Modulations
    synchronous: bool

    def __call__(
        self,
        z: Float[Tensor, "b n d"],
        noise: NoiseMap,
        label: Int[Tensor, " b"] | None = None,
        *,
        context: Float[Tensor, "b k c"] | None = None,
    ) -> Posterior:
        """See :meth:`DiT.forward`.

        Raises:
            ValueError: a level or a label that was not said. On a device other than the CPU the sample's mean is then
                not a number, so that the host does not wait.
        """
        if label is None:
            label = torch.full((len(z),), self.model.null_label, device=z.device)
        log_snr = self.model.token_levels(noise.to(z))
        index, known = _find(self.log_snr, log_snr)
        known = known.all(1).expand(len(z))
        if self.synchronous:
            known = known & (log_snr == log_snr[:, :1]).all(1)
            index = index[:, :1]
        place, said = _find(self.labels, label)
        known = known & said
        if z.device.type == "cpu" and not known.all():
            raise ValueError(
                "a level or a label was asked for that is not in the table: tabulate every map and label of the run"
            )
        joint = self.model.config.conditioning == "joint"
        if joint:
            index = index * len(self.labels) + place[:, None]

        def rows(of: Rows) -> Rows:
            return Rows(of.table, index, None if of.sample is None else of.sample[place])

        error = self.tables.error
        modulations = Modulations(
            tuple(map(rows, self.tables.blocks)), rows(self.tables.head), None if error is None else rows(error)
        )
        posterior = self.model(z, noise, label, context=context, modulations=modulations)
        poison = torch.where(known, 0.0, torch.nan)[:, None]
        log_var = None if posterior.log_var is None else posterior.log_var + poison
        return Posterior(posterior.mean + poison[..., None], log_var)


@torch.no_grad()
def tabulated(model: DiT, maps: Iterable[NoiseMap], labels: Int[Tensor, " c"] | None = None) -> Tabulated:
    """The model with the modulation of all ``maps`` computed beforehand, exactly: for schedules that are fixed.

    A step then reads one row a level in place of the modulation's weights, a third of all of a block's. It makes no
    choice by the values of tensors, so CUDA graphs can record it. The tables are those of the model's weights now.

    Args:
        maps: all that the model will be asked at, such as ``[walk.at(k, z) for k in range(walk.max_steps + 1)]`` of a
            :class:`FollowPath` in apd-samplers.
        labels: all that it will be asked for; by default every label and none. They cost memory only where the
            modulation depends on them.

    Raises:
        ValueError: no maps, no labels, or labels that are none.
    """
    levels = [model.token_levels(noise.to(model.head.weight)) for noise in maps]
    if not levels:
        raise ValueError("there is nothing to tabulate: give at least one map")
    log_snr = torch.cat([level.flatten() for level in levels]).unique()
    if labels is None:
        labels = torch.arange(model.config.classes + 1, device=log_snr.device)
    if not len(labels) or not ((labels >= 0) & (labels <= model.null_label)).all():
        raise ValueError(f"labels are one or more of 0 to {model.null_label}, which is none, got {labels.tolist()}")
    labels = labels.to(log_snr.device).unique()
    grid = Levels(log_snr, torch.arange(len(log_snr), device=log_snr.device)[:, None])
    if model.config.conditioning == "joint":
        level, label = torch.cartesian_prod(
            torch.arange(len(log_snr), device=labels.device), torch.arange(len(labels), device=labels.device)
        ).T
        grid = Levels(log_snr[level], torch.arange(len(level), device=labels.device)[:, None], labels[label])
    synchronous = all(bool((level == level[:, :1]).all()) for level in levels)
    return Tabulated(model, log_snr, labels, model.modulations(grid, labels), synchronous)


def _find(rising: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Where each number is in a table, and whether it is."""
    place = torch.searchsorted(rising, asked.contiguous()).clamp(max=len(rising) - 1)
    return place, rising[place] == asked
