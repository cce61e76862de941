"""What is evaluated: images with their labels, and laws of paths."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from apd_models import Pretrained
from apd_schedules import (
    PathLaw,
    autoregressive_law,
    independent_offsets,
    path_law,
    quad_law,
    raster,
    shared_law,
    staggered,
    walk_law,
)
from apd_train import Animals28, DataError, ImageSet, TrainConfig, hold_out, load_animals28, load_folder
from apd_train.app import UsageError

PathName = Literal["synchronous", "raster", "random", "staggered", "quad", "walk"]


@dataclass(frozen=True)
class Chosen:
    """Args:
    data: where the images are from.
    part: which of them these are.
    x: their tokens.
    labels: class of each, as the model counts them; None where the model is to be told none.
    skipped: files that could not be read.
    """

    data: str
    part: str
    x: torch.Tensor
    labels: torch.Tensor | None
    skipped: tuple[str, ...]


def choose_images(
    pretrained: Pretrained,
    folder: Path | None,
    everything: bool,
    count: int | None,
    unconditional: bool,
    on_image: Callable[[int, int], None],
) -> Chosen:
    """The held-out images, or all, of the folder or of the embedded animals."""
    names, name = pretrained.class_names, "animals28" if folder is None else str(folder)
    images = _animals(pretrained) if folder is None else _folder(pretrained, folder, on_image)
    told = bool(names) and not unconditional
    if told and not images.class_names:
        raise UsageError(f"{name} has no classes (sub-folders) to tell this model: pass --unconditional")
    if told and (unknown := [each for each in images.class_names if each not in names]):
        raise UsageError(
            f"{name} has the class {unknown[0]!r}, which this model does not know; it has {', '.join(names)}: rename "
            "the sub-folder or pass --unconditional"
        )
    if not everything:
        images = _held_out(images)
    part = "all" if everything else "held-out"
    if count is not None:
        if count > len(images):
            raise UsageError(f"--images {count}: {name} has {len(images)} {part} images")
        images = images.subset([i * len(images) // count for i in range(count)])  # sets are sorted by class
    labels = torch.tensor([names.index(each) for each in images.class_names])[images.labels] if told else None
    return Chosen(name, part, pretrained.patchify.to_tokens(images.squares()), labels, images.skipped)


def _animals(pretrained: Pretrained) -> ImageSet:
    patchify, images = pretrained.patchify, load_animals28()
    shape = (patchify.channels, patchify.height, patchify.width)
    if shape != (1, 28, 28) or not set(images.class_names) <= set(pretrained.class_names):
        raise UsageError("this model is not one of the embedded animals: say --data FOLDER, with images of its kind")
    return images


def _folder(pretrained: Pretrained, folder: Path, on_image: Callable[[int, int], None]) -> ImageSet:
    patchify = pretrained.patchify
    if patchify.height != patchify.width:
        raise UsageError(f"--data is read as squares, and this model is of {patchify.height}×{patchify.width} pixels")
    images = load_folder(folder, patchify.height, on_image)
    if images.channels != patchify.channels:
        kinds = {1: "grey", 3: "RGB"}
        raise UsageError(
            f"{folder} has {kinds[images.channels]} images, and this model is of "
            f"{kinds.get(patchify.channels, f'{patchify.channels}-channel')} ones"
        )
    return images


def _held_out(images: ImageSet) -> ImageSet:
    """By the rule of training: no image among them, and no copy of one, was trained on."""
    most = TrainConfig(data=Animals28(), image_size=28).held_out  # a default of all runs
    try:
        return hold_out(images, max(1, min(most, len(images) // 20)))[1]
    except DataError as error:
        raise UsageError(f"{error}; --all evaluates them all") from error


def choose_law(name: PathName, grid: tuple[int, int], cells: int, width: float) -> PathLaw:
    tokens = grid[0] * grid[1]
    match name:
        case "synchronous":
            return shared_law(tokens)
        case "raster":
            return autoregressive_law(raster(grid, cells, cells))
        case "random":
            return autoregressive_law(raster(grid, cells, cells), shuffle=True)
        case "staggered":
            return path_law(staggered(raster(grid), width))
        case "quad":
            return quad_law(independent_offsets(tokens))
        case "walk":
            return walk_law(tokens)
