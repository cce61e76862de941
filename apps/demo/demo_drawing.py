"""One run: from a task to what the library takes, and from what it tells on the way to frames."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from demo_tasks import Task
from demo_views import of_latents, of_pixels
from numpy.typing import NDArray
from torch import Tensor

from apd_generate import Dilate, Step, generate, spread, to_image
from apd_models import Codec, Pretrained


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
    note: what else is to be known of it; often nothing.
    """

    images: Tensor
    evaluations: int
    spread: list[float] | None
    note: str = ""

    def png(self, index: int) -> bytes:
        file = io.BytesIO()
        to_image(self.images[index]).save(file, "PNG")
        return file.getvalue()


def draw(
    pretrained: Pretrained,
    task: Task,
    on_frame: Callable[[Frame], None],
    codec: Codec | None = None,
    dilate: Dilate = 0,
) -> Drawn:
    """Args:
        codec: the autoencoder of a model of latents; the task is about images all the same.
        dilate: of such a model, see :func:`apd_generate.complete`.

    Raises:
        TaskError: nothing to generate.
        RecipeError: a recipe that does not go with what is known.
    """
    count, labels = len(task.seeds), None if task.label is None else torch.full((len(task.seeds),), task.label)
    view = of_pixels(pretrained, task) if codec is None else of_latents(pretrained, codec, task, dilate)
    last: Frame | None = None

    def tell(step: Step) -> None:
        nonlocal last
        progress = step.progress
        images = eight_bit(view.under_way(pretrained.patchify.to_images(progress.tokens)))
        levels = (progress.noise.flow_level.mean(-1) * 255).round().to(torch.uint8).expand(count, -1)
        last = Frame(step.done, step.total, progress.evaluations, images.tobytes(), levels.cpu().numpy().tobytes())
        on_frame(last)

    result = generate(
        pretrained.model,
        pretrained.patchify,
        task.recipe,
        task.seeds,
        labels,
        given=view.given,
        batch=count,
        on_step=tell,
    )
    images = view.finished(result.images)
    if codec is not None and last is not None:  # what was shown of it may be some steps old
        on_frame(replace(last, images=eight_bit(images).tobytes()))
    deviation = (127.5 * spread(images.clamp(-1, 1), view.patchify).sqrt()).tolist() if count > 1 else None
    return Drawn(images, result.evaluations, deviation, view.note)


def eight_bit(images: Tensor) -> NDArray[np.uint8]:
    """Images ``(b, c, h, w)`` with values in [-1, 1] as ``(b, h, w, c)``, rounded as :func:`to_image` does."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.movedim(1, -1).cpu().numpy())
