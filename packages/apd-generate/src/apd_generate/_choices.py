"""Seeds, classes and orders as people write or draw them."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

MOST_SEEDS = 10_000_000


class ChoiceError(ValueError):
    """Seeds or classes that there are not. The message is one line and says what would be right."""


def parse_seeds(text: str) -> list[int]:
    """Numbers and inclusive ranges, as in ``"3,7,20-29"``; each seed once, in the order given.

    Raises:
        ChoiceError: anything else, seeds of 2⁶³ or more, more than ten million of them.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]+)(?:\s*-\s*([0-9]+))?", part.strip())
        if found is None:
            raise ChoiceError(f"seeds are numbers and ranges such as 0-15 or 3,7,20-29, got {text[:60]!r}")
        digits = [number.lstrip("0") or "0" for number in found.groups(found[1])]
        if any(len(number) > 19 or int(number) >= 2**63 for number in digits):
            raise ChoiceError(f"seeds must be below 2^63, got {part.strip()[:60]!r}")
        low, high = map(int, digits)
        if low > high:
            raise ChoiceError(f"seeds are numbers and ranges such as 0-15, from low to high, got {part.strip()!r}")
        if high - low >= MOST_SEEDS - len(seeds):
            raise ChoiceError(f"there may be {MOST_SEEDS} seeds at most, got {text[:60]!r}")
        seeds |= dict.fromkeys(range(low, high + 1))
    return list(seeds)


def format_seeds(seeds: Iterable[int]) -> str:
    """The shortest text that :func:`parse_seeds` reads as these seeds, in rising order."""
    ranges: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def choose_classes(names: Sequence[str], wanted: str | None = None) -> tuple[int, ...]:
    """The classes that images take in turn; see :func:`labels_of`.

    Args:
        names: of the model's classes; empty if it has none.
        wanted: a class, by name or number, or several with commas between them; by default all.

    Returns:
        Their numbers; empty for a model without classes.

    Raises:
        ChoiceError: a class that the model does not have.
    """
    if wanted is None:
        return tuple(range(len(names)))
    if not names:
        raise ChoiceError(f"there is no class {wanted!r}: this model has no classes")
    if wanted in names:  # names may have commas of their own
        return (names.index(wanted),)
    return tuple(_number(names, part.strip()) for part in wanted.split(","))


def labels_of(classes: Sequence[int], seeds: Sequence[int]) -> Int[Tensor, " b"] | None:
    """The class of each image: that of a seed is ``classes[seed % len(classes)]``, whatever the other seeds; None where
    there are no classes."""
    return torch.tensor([classes[seed % len(classes)] for seed in seeds]).long() if classes else None


def order_of_image(image: Image.Image, grid: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """A drawn order, :attr:`Recipe.drawn`: how bright an image is over each token, from 0, the first, to 1, the last.

    The image is stretched over the tokens. Colours count by their luma, and what is transparent as white.

    Args:
        image: as :func:`read_image` gives it, or in another of Pillow's modes of 8 or 16 bits.
        grid: rows and columns of tokens.
    """
    if image.mode.startswith("I;16"):
        bright = np.asarray(image, dtype=np.float32) / 65535
    else:
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        bright = np.asarray(image.convert("L"), dtype=np.float32) / 255
    means = Image.fromarray(bright).resize((grid[1], grid[0]), Image.Resampling.BOX)
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in np.asarray(means))


def _number(names: Sequence[str], wanted: str) -> int:
    if wanted in names:
        return names.index(wanted)
    if re.fullmatch("[0-9]{1,9}", wanted) and int(wanted) < len(names):
        return int(wanted)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    raise ChoiceError(f"there is no class {wanted[:60]!r}; this model has {shown}")
