"""One run: from a task to what the library takes, and from what it tells on the way to frames."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from demo_tasks import Task, TaskError
from numpy.typing import NDArray
from torch import Tensor

from apd_generate import Given, Step, generate, spread, to_image, token_mask
from apd_models import Patchify, Pretrained


@dataclass(frozen=True, slots=True)
class Frame:
    """Where all candidates of a run are.

    Args:
        step, total: made, and to be made at most.
        evaluations: of the network, for each image.
        images: 8-bit pixels, candidates × rows × columns × channels.
        levels: of each token of each candidate, 0 clean to 255 noise.
    """

    step: int
    total: int
    evaluations: int
    images: bytes
    levels: bytes


@dataclass(frozen=True, slots=True)
class Drawn:
    """Args:
    images: candidates × channels × rows × columns, values in [-1, 1].
    evaluations: of the network, for each image.
    spread: standard deviation between candidates, of each token, in 8-bit steps; None for one candidate.
    """

    images: Tensor
    evaluations: int
    spread: list[float] | None

    def png(self, index: int) -> bytes:
        file = io.BytesIO()
        to_image(self.images[index]).save(file, "PNG")
        return file.getvalue()


def draw(pretrained: Pretrained, task: Task, on_frame: Callable[[Frame], None]) -> Drawn:
    """Raises:
    TaskError: nothing to generate.
    RecipeError: a recipe that does not go with what is known.
    """
    patchify, count = pretrained.patchify, len(task.seeds)
    labels = None if task.label is None else torch.full((count,), task.label)

    def tell(step: Step) -> None:
        progress = step.progress
        images = eight_bit(patchify.to_images(progress.tokens))
        levels = (progress.noise.flow_level.mean(-1) * 255).round().to(torch.uint8).expand(count, -1)
        on_frame(
            Frame(step.done, step.total, progress.evaluations, images.tobytes(), levels.cpu().numpy().tobytes()),
        )

    result = generate(
        pretrained.model,
        patchify,
        task.recipe,
        task.seeds,
        labels,
        given=given_of(task, patchify),
        batch=count,
        on_step=tell,
    )
    deviation = (127.5 * spread(result.images.clamp(-1, 1), patchify).sqrt()).tolist() if count > 1 else None
    return Drawn(result.images, result.evaluations, deviation)


def given_of(task: Task, patchify: Patchify) -> Given | None:
    """What the task's image tells, for each candidate.

    A painted level rules the whole patch: 0 keeps it as it is, above 0 it is generated from that level on. Elsewhere
    the hole rules, pixel by pixel.
    """
    if task.image is None or task.hole is None:
        return None
    levels = torch.from_numpy(task.hole).float()
    if task.levels is not None:
        on_pixels = lambda tokens: patchify.to_images(tokens.float().expand(-1, patchify.token_dim))[0]
        painted = on_pixels(torch.from_numpy(task.levels)[:, None])
        whole = on_pixels(patchify.known_tokens(levels == 0)) > 0
        levels = torch.where(painted.isnan(), levels, torch.where(whole | (levels > 0), painted, 0.0))
    mask = token_mask(levels, patchify)
    if mask.known.all():
        raise TaskError("hole", "all of the image is kept: paint a hole, or noise levels above 0")
    if mask.start is None and not mask.known.any():
        return None
    image = torch.from_numpy(task.image).movedim(-1, 0).float().div(127.5).sub(1)
    start = None if mask.start is None else mask.start[None]
    return Given(image[None], mask.known[None], start).repeated(len(task.seeds))


def eight_bit(images: Tensor) -> NDArray[np.uint8]:
    """Images ``(b, c, h, w)`` with values in [-1, 1] as ``(b, h, w, c)``, rounded as :func:`to_image` does."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.movedim(1, -1).cpu().numpy())
