"""Films of a generation: how images and their noise maps evolve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from apd_models import Patchify

from ._generate import Step
from ._level_colours import level_colours, level_image
from ._pictures import font, picture_grid, to_image, visible

ANIMATIONS = (".gif", ".webp", ".png")
"""Endings that an animation is written in; .png is APNG."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where one image was after some steps.

    Args:
        step: steps made.
        image: the noisy image.
        levels: of its tokens, 0 clean and 1 noise; of elements with levels of their own, their mean.
    """

    step: int
    image: Float[Tensor, "c h w"]
    levels: Float[Tensor, " n"]


class Recorder:
    """Keeps films of some images; give it to :func:`generate` as ``on_step``.

    Args:
        patchify: the model's.
        rows: which of the images, counted from 0.
        most: frames of each that are kept, evenly spread over the steps, the last one besides.
        then: called with each step as well.
    """

    def __init__(
        self, patchify: Patchify, rows: Sequence[int] = (0,), most: int = 60, then: Callable[[Step], None] | None = None
    ) -> None:
        if most < 1:
            raise ValueError(f"a film has at least one frame, got {most}")
        self.patchify = patchify
        self.rows = tuple(rows)
        self._most, self._then = most, then
        self._kept: dict[int, list[Frame]] = {row: [] for row in self.rows}
        self._last: dict[int, Frame] = {}

    def __call__(self, step: Step) -> None:
        now = step.progress
        due = now.step * self._most // now.max_steps > (now.step - 1) * self._most // now.max_steps
        for row in self.rows:
            if row not in step.rows:
                continue
            own = row - step.rows.start
            levels = now.noise.flow_level.mean(-1).expand(now.tokens.shape[:-1])
            frame = Frame(now.step, self.patchify.to_images(now.tokens[own]).cpu(), levels[own].float().cpu())
            self._last[row] = frame
            if due or not self._kept[row]:
                self._kept[row].append(frame)
        if self._then is not None:
            self._then(step)

    def frames(self, row: int = 0) -> list[Frame]:
        """The film of an image, from its first step to its last; empty before it has begun."""
        kept = list(self._kept[row])
        last = self._last.get(row)
        return kept if last is None or kept[-1].step == last.step else [*kept, last]


def film_strip(frames: Sequence[Frame], patchify: Patchify, columns: int = 12) -> Image.Image:
    """Noise maps above, images below, at moments evenly spread over a film, with a scale of the levels."""
    if not frames:
        raise ValueError("a film strip is made of at least one frame")
    count = min(columns, len(frames))
    chosen = sorted({round(k * (len(frames) - 1) / max(count - 1, 1)) for k in range(count)})
    shown = [frames[k] for k in chosen]
    rows = [[_map(frame, patchify) for frame in shown], [_image(frame) for frame in shown]]
    names = [f"{'' if k else 'step '}{frame.step}" for k, frame in enumerate(shown)]
    strip = picture_grid(rows, ["noise levels", "image"], names)
    sheet = Image.new("RGB", (strip.width, strip.height + 26), "white")
    sheet.paste(strip, (0, 0))
    bar = _bar().resize((160, 12), Image.Resampling.BILINEAR)
    left, top = max(60, sheet.width - 160 - 60), strip.height + 7
    sheet.paste(bar, (left, top))
    pen = ImageDraw.Draw(sheet)
    pen.text((left - 6, top + 6), "0 clean", "black", font(), anchor="rm")
    pen.text((left + 166, top + 6), "1 noise", "black", font(), anchor="lm")
    return sheet


def save_animation(
    films: Sequence[Sequence[Frame]],
    patchify: Patchify,
    file: str | Path | BufferedIOBase,
    *,
    format: str | None = None,
    milliseconds: int = 80,
    side: int = 112,
) -> None:
    """Films side by side, each image beside its noise map, as an animation that runs for ever.

    Args:
        films: one or more, played together; one that is shorter rests at its end.
        file: its ending says the format: .gif, .webp or .png (APNG).
        format: instead of an ending; an open file needs it.
        milliseconds: of each frame; the last one stays for 1.5 seconds.
        side: least height of an image in pixels.

    Raises:
        ValueError: no frames, an ending that is none of these.
    """
    kind = (format or (Path(file).suffix if isinstance(file, str | Path) else "")).lower().removeprefix(".")
    if f".{kind}" not in ANIMATIONS:
        raise ValueError(f"an animation ends in {', '.join(ANIMATIONS)}, got {kind or 'nothing'!r}")
    if not films or not all(films):
        raise ValueError("an animation is made of at least one film, and a film of at least one frame")
    pairs = max(1, round((len(films) / 1.5) ** 0.5))
    pictures = []
    for k in range(max(map(len, films))):
        now = [film[min(k, len(film) - 1)] for film in films]
        tiles = [tile for frame in now for tile in (_image(frame), _map(frame, patchify))]
        pictures.append(picture_grid([tiles[i : i + 2 * pairs] for i in range(0, len(tiles), 2 * pairs)], side=side))
    times = [milliseconds] * (len(pictures) - 1) + [1500]
    options = {"gif": {"disposal": 1}, "webp": {"quality": 90, "method": 4}, "png": {}}[kind]
    first, *rest = pictures
    into: Any = file
    # Pillow merges equal frames and adds up their times.
    first.save(into, format=kind.upper(), save_all=True, append_images=rest, duration=times, loop=0, **options)


def _map(frame: Frame, patchify: Patchify) -> Float[Tensor, "3 h w"]:
    return level_image(frame.levels, patchify.grid, patchify.patch)


def _image(frame: Frame) -> Float[Tensor, "3 h w"]:
    pixels = frame.image.shape[0] in (1, 3)
    return visible(frame.image, pixels).expand(3, -1, -1)


def _bar() -> Image.Image:
    return to_image(level_colours(torch.linspace(0, 1, 64).reshape(1, -1)))
