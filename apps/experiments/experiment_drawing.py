"""Images of seeds, with what they cost and how often each token moved."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apd_generate import Recipe, Step, generate
from apd_models import Pretrained

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
    pretrained: Pretrained, recipe: Recipe, seeds: Sequence[int], labels: Tensor | None, *, leave_out: bool = True
) -> Drawn:
    """
    Args:
        labels: a class for each seed.
        leave_out: see :func:`apd_generate.generate`.
    """
    moves: dict[int, Tensor] = {}

    def see(step: Step) -> None:
        moves[step.rows.start] = step.progress.token_updates

    model, patchify = pretrained.model, pretrained.patchify
    made = generate(model, patchify, recipe, seeds, labels, batch=BATCH, leave_out=leave_out, on_step=see)
    through = made.token_evaluations / patchify.tokens
    return Drawn(made.images, made.evaluations, through, torch.cat([*moves.values()]).cpu())
