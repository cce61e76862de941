"""Between the images of the page and what the model makes: pixels, or latents that an autoencoder decodes."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from demo_tasks import Task, TaskError
from torch import Tensor

from apd_generate import Dilate, Given, decoded, given_latents, token_mask
from apd_models import Codec, Patchify, Pretrained, image_patchify, without_hidden


@dataclass(frozen=True, slots=True)
class View:
    """Args:
    patchify: of the images.
    given: what :func:`generate` is told of them.
    under_way, finished: images of what the model makes, while it does and in the end.
    note: for who made the task.
    """

    patchify: Patchify
    given: Given | None
    under_way: Callable[[Tensor], Tensor]
    finished: Callable[[Tensor], Tensor]
    note: str = ""


def of_pixels(pretrained: Pretrained, task: Task) -> View:
    as_they_are = lambda images: images
    return View(pretrained.patchify, given_of(task, pretrained.patchify), as_they_are, as_they_are)


def of_latents(pretrained: Pretrained, codec: Codec, task: Task, dilate: Dilate) -> View:
    """Known pixels come back as they were, whatever the autoencoder makes of them.

    To decode may take longer than to make a step. So while the model is at it, an image is decoded only if that has
    taken no more than half of the time so far; else the one before is shown.
    """
    patchify, count = image_patchify(codec, pretrained.patchify), len(task.seeds)
    of_image = given_of(task, patchify)
    given, seen, note = None, None, ""
    if of_image is not None:
        levels = levels_of(task, patchify)
        assert levels is not None
        image, visible = of_image.images[:1], levels[None] < 1
        shown = without_hidden(image, visible)
        cells = dilate if isinstance(dilate, int) else dilate(shown[0], visible[0])
        latents = given_latents(codec, pretrained, image, levels[None], cells).repeated(count)
        given, seen = latents.given, latents.seen
        far = "1 cell" if cells == 1 else f"{cells} cells"
        note = f"Latents within {far} of what is hidden were made anew, too." if cells else ""

    def finished(made: Tensor) -> Tensor:
        images = decoded(codec, pretrained, made.cpu(), seen)
        return images if of_image is None else torch.where(of_image.known[:, None], of_image.images, images)

    begun, spent, last = perf_counter(), 0.0, torch.empty(0)

    def under_way(made: Tensor) -> Tensor:
        nonlocal spent, last
        now = perf_counter()
        if not len(last) or 2 * spent <= now - begun:
            last = finished(made)
            spent += perf_counter() - now
        return last

    return View(patchify, given, under_way, finished, note)


def given_of(task: Task, patchify: Patchify) -> Given | None:
    """What the task's image tells, for each candidate."""
    levels = levels_of(task, patchify)
    if levels is None or task.image is None:
        return None
    mask = token_mask(levels, patchify)
    if mask.known.all():
        raise TaskError("hole", "all of the image is kept: paint a hole, or noise levels above 0")
    if mask.start is None and not mask.known.any():
        return None
    image = torch.from_numpy(task.image).movedim(-1, 0).float().div(127.5).sub(1)
    start = None if mask.start is None else mask.start[None]
    return Given(image[None], mask.known[None], start).repeated(len(task.seeds))


def levels_of(task: Task, patchify: Patchify) -> Tensor | None:
    """That the pixels start from; None where there is no image.

    A painted level rules the whole patch: 0 keeps it as it is, above 0 it is generated from that level on. Elsewhere
    the hole rules, pixel by pixel.
    """
    if task.image is None or task.hole is None:
        return None
    levels = torch.from_numpy(task.hole).float()
    if task.levels is None:
        return levels
    on_pixels = lambda tokens: patchify.to_images(tokens.float().expand(-1, patchify.token_dim))[0]
    painted = on_pixels(torch.from_numpy(task.levels)[:, None])
    whole = on_pixels(patchify.known_tokens(levels == 0)) > 0
    return torch.where(painted.isnan(), levels, torch.where(whole | (levels > 0), painted, 0.0))
