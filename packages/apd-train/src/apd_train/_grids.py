"""Pictures of what a model can do so far: samples and completions, the same ones at every step of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from apd_generate import Given, Recipe, Step, generate, hide, picture_grid
from apd_models import DiT, Patchify

from ._data import ImageSet
from ._example_masks import example_masks
from ._files import written_aside
from ._random import generator
from ._signals import Stopped
from ._view import View, view_of

GUIDANCE = 2.0
STEPS = 20
"""Few: the pictures are to show how far training is, not how good a sampler can be."""
_ROWS, _COLUMNS, _CANDIDATES = 8, 4, 2


@dataclass(frozen=True, slots=True)
class Grids:
    """What the pictures of a run show; :func:`grids_of` chooses it.

    Args:
        patchify: the model's.
        classes: labels to draw, each with its name; none where there are no classes.
        originals: held-out images to complete, one for each of ``known``.
        labels: their classes.
        known: which of their pixels the model is shown, by name.
        seed: what the noise is a function of.
        view: how they are shown.
    """

    patchify: Patchify
    classes: Mapping[int, str]
    originals: Float[Tensor, "m c h w"]
    labels: Int[Tensor, " m"] | None
    known: Mapping[str, Bool[Tensor, "h w"]]
    seed: int
    view: View = field(default_factory=View)


def grids_of(held_out: ImageSet, patchify: Patchify, seed: int, device: str | torch.device = "cpu") -> Grids:
    """Classes evenly among all, and held-out images of different classes as far as there are.

    Args:
        seed: the run's.
        device: where latents are decoded.
    """
    names, masks = held_out.class_names, example_masks(patchify)
    rows = min(_ROWS, len(names))
    chosen = [i * len(held_out) // len(masks) for i in range(len(masks))]
    if names:
        by_class = torch.argsort(held_out.labels, stable=True)
        chosen = [int(by_class[i]) for i in chosen]
    return Grids(
        patchify,
        {k: names[k] for k in (i * len(names) // rows for i in range(rows))},
        held_out.squares(chosen),
        held_out.labels[chosen] if names else None,
        masks,
        seed,
        view_of(held_out, device),
    )


def draw_grids(
    grids: Grids,
    model: DiT,
    folder: Path,
    step: int,
    should_stop: Callable[[], bool] = lambda: False,
    write: bool = True,
    on_problem: Callable[[str], None] = lambda problem: None,
) -> dict[str, Path]:
    """Draws with the weights that the model has now, and writes ``samples-00001000.png`` and
    ``inpainting-00001000.png`` into ``folder``, each whole or not at all.

    All randomness is a function of the run's seed, and nothing else draws from the generators used here: training goes
    on as without pictures.

    Args:
        model: on its device. It may be sharded; then all processes call this together.
        folder: made if it is not there.
        step: for the names.
        should_stop: asked before each step of the solver, by all processes alike; true ends it, with nothing written.
        write: false on all processes but the first.
        on_problem: on the process that writes, is told in one line why there is no picture: the model puts out what is
            not finite, or a file cannot be written.

    Returns:
        The files written, by ``samples`` and ``inpainting``.
    """

    def ask(now: Step | None = None) -> None:
        if should_stop():
            raise Stopped

    try:
        ask()
        pictures = {"samples": _samples(grids, model, ask), "inpainting": _completions(grids, model, ask)}
    except Stopped:
        return {}
    except FloatingPointError as error:
        if write:
            on_problem(f"no pictures at step {step}: {error}")
        return {}
    return write_pictures(pictures, folder, step, on_problem) if write else {}


def _samples(grids: Grids, model: DiT, on_step: Callable[[Step], None]) -> Image.Image:
    """A row for each class; without classes, rows without names."""
    rows = len(grids.classes) or _ROWS // 2
    labels = torch.tensor([*grids.classes]).repeat_interleave(_COLUMNS) if grids.classes else None
    seeds = _seeds(grids, "grid of samples", rows * _COLUMNS)
    recipe = Recipe(steps=STEPS, guidance=GUIDANCE if grids.classes else None)
    drawn = generate(model, grids.patchify, recipe, seeds, labels, leave_out=False, on_step=on_step)
    images = grids.view(drawn.images).unflatten(0, (rows, _COLUMNS))
    return picture_grid([[*row] for row in images], [*grids.classes.values()])


def _completions(grids: Grids, model: DiT, on_step: Callable[[Step], None]) -> Image.Image:
    """A row for each mask: what the model is shown, its completions, the image itself."""
    masks = torch.stack([*grids.known.values()])
    drawn = generate(
        model,
        grids.patchify,
        Recipe(steps=STEPS, guidance=1.0 if model.config.classes else None),
        _seeds(grids, "grid of completions", _CANDIDATES * len(masks)),
        None if grids.labels is None else grids.labels.repeat(_CANDIDATES),
        given=Given(grids.originals, masks).repeated(_CANDIDATES),
        leave_out=False,
        on_step=on_step,
    ).images
    completed = grids.view(drawn).unflatten(0, (_CANDIDATES, len(masks)))
    rows = [
        [hide(original, grids.view.known(mask)), *completed[:, i], original]
        for i, (original, mask) in enumerate(zip(grids.view(grids.originals), masks, strict=True))
    ]
    names = ["shown", *(f"draw {k + 1}" for k in range(_CANDIDATES)), "held out"]
    return picture_grid(rows, [*grids.known], names)


def _seeds(grids: Grids, purpose: str, count: int) -> list[int]:
    return [generator(grids.seed, purpose, k).initial_seed() for k in range(count)]


def write_pictures(
    pictures: Mapping[str, Image.Image], folder: Path, step: int, on_problem: Callable[[str], None]
) -> dict[str, Path]:
    """Each whole or not at all; those that were written, by name."""
    files: dict[str, Path] = {}
    for name, picture in pictures.items():
        file = folder / f"{name}-{step:08}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with written_aside(file) as aside:
                picture.save(aside, format="PNG")
            files[name] = file
        except OSError as error:
            on_problem(f"{file} cannot be written: {error.strerror or error}")
    return files
