"""What is made of images that are drawn: a grid, an `.npz`, a film."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sample_folder import file_of

from apd_generate import labels_of, picture_grid, write_npz, written_aside

MOST_IN_GRID = 100


def write_grid(out: Path, seeds: Sequence[int], classes: Sequence[int], names: Sequence[str]) -> None:
    """The first hundred images: a row for each of up to ten classes, if each has several, else about a square."""
    seeds = seeds[:MOST_IN_GRID]
    tiles = [_tile(file_of(out, seed)) for seed in seeds]
    labels = labels_of(classes, seeds)
    found = [] if labels is None else labels.tolist()
    shown = sorted(set(found))
    if 2 <= len(shown) <= 10 and min(map(found.count, shown)) > 1:
        rows = [[tile for tile, label in zip(tiles, found, strict=True) if label == k] for k in shown]
        picture = picture_grid(rows, [names[k] for k in shown])
    else:
        columns = max(1, min(10, round(len(tiles) ** 0.5)))
        rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
        picture = picture_grid(rows, (), [names[k] for k in shown] if len(shown) == 1 else ())
    with written_aside(out / "grid.png") as file:
        picture.save(file)


def write_samples(out: Path, seeds: Sequence[int], classes: Sequence[int]) -> None:
    """``samples.npz``, in the order of the seeds."""
    seeds = sorted(seeds)
    labels = labels_of(classes, seeds)
    with written_aside(out / "samples.npz") as file:
        write_npz(file, _pixels(out, seeds), len(seeds), None if labels is None else labels.tolist())


def _pixels(out: Path, seeds: Sequence[int]) -> Iterator[np.ndarray]:
    for seed in seeds:
        with Image.open(file_of(out, seed)) as image:
            yield np.asarray(image)


def _tile(file: Path) -> torch.Tensor:
    with Image.open(file) as opened:
        image = opened.copy()
    image.thumbnail((128, 128))
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
