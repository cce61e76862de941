"""Images of seeds, with what they cost and how often each token moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apd_generate import Recipe, Step, generate
from apd_models import ActiveTokens, Pretrained
from apd_samplers import DDIM, Changing, PerSampleNoise, Predicted, UncertaintyGuided, sample
from apd_schedules import RectifiedFlow

BATCH = 100


@dataclass(frozen=True, slots=True)
class Drawn:
    """Args:
    images: values about [-1, 1].
    evaluations: of the network, for each image.
    through: tokens that went through the network, over those that an image has.
    moves: steps in which each token moved, ``(images, tokens)``.
    """

    images: Tensor
    evaluations: int
    through: float
    moves: Tensor


def drawn(
    pretrained: Pretrained,
    recipe: Recipe,
    seeds: Sequence[int],
    labels: Tensor | None,
    *,
    lagged: bool = False,
    leave_out: bool = True,
) -> Drawn:
    """
    Args:
        labels: a class for each seed.
        lagged: of uncertainty-guided: who moves is chosen before each evaluation, and the others are left out of it.
            That changes nothing of a model with one-way attention; another one then sees of tokens at rest what they
            were when it last looked at them.
        leave_out: whether a model with one-way attention leaves out tokens at rest.
    """
    if lagged:
        parts = [slice(start, start + BATCH) for start in range(0, len(seeds), BATCH)]
        told = lambda part: None if labels is None else labels[part]
        return _joined([_lagged(pretrained, recipe, seeds[part], told(part)) for part in parts])
    moves: dict[int, Tensor] = {}

    def see(step: Step) -> None:
        moves[step.rows.start] = step.progress.token_updates

    model = pretrained.model
    made = generate(model, pretrained.patchify, recipe, seeds, labels, batch=BATCH, leave_out=leave_out, on_step=see)
    through = made.token_evaluations / pretrained.patchify.tokens
    return Drawn(made.images, made.evaluations, through, torch.cat([*moves.values()]).cpu())


def _lagged(pretrained: Pretrained, recipe: Recipe, seeds: Sequence[int], labels: Tensor | None) -> Drawn:
    model, patchify = pretrained.model, pretrained.patchify
    recipe = recipe.resolved(model)
    assert recipe.scheduler == "uncertainty-guided"
    assert recipe.guidance in (None, 1.0)
    assert recipe.steps is not None
    uncertainty = Predicted() if recipe.uncertainty == "predicted" else Changing(variance=model.config.data_std**2)
    patience = recipe.patience or 0.0
    scheduler = UncertaintyGuided(RectifiedFlow(), recipe.steps, uncertainty, patience=patience, lagged=True)
    start = PerSampleNoise(seeds)(torch.empty(len(seeds), patchify.tokens, patchify.token_dim, device=model.device))
    cond: dict[str, Any] = {} if labels is None else {"label": labels.to(model.device)}
    made = sample(ActiveTokens(model), DDIM(), scheduler, start, only_moving=True, **cond)
    images = patchify.to_images(made.tokens).cpu()
    return Drawn(images, made.evaluations, made.token_evaluations / patchify.tokens, made.token_updates.cpu())


def _joined(parts: Sequence[Drawn]) -> Drawn:
    """Costs are the most of any part, as those of :func:`generate` are."""
    return Drawn(
        torch.cat([part.images for part in parts]),
        max(part.evaluations for part in parts),
        max(part.through for part in parts),
        torch.cat([part.moves for part in parts]),
    )
