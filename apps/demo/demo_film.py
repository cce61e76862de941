"""Films of runs: frames within a budget of memory, to replay on the page or to keep as an animated picture."""

import base64
import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from demo_drawing import Frame

import apd_generate
from apd_models import Patchify

BUDGET = 16_000_000
"""Bytes of a run's frames."""
MOST_SHOWN = 120
"""Frames of an animated picture, evenly spread over those that are kept."""


class Film:
    """Frames as they come; once they take more than the budget, every second one goes.

    The first and the latest frame are always there.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget, self._every, self._count = budget, 1, 0
        self._frames: list[Frame] = []
        self._latest: Frame | None = None
        self._lock = threading.Lock()

    @property
    def latest(self) -> Frame | None:
        return self._latest

    def add(self, frame: Frame) -> None:
        with self._lock:
            if self._count % self._every == 0:
                self._frames.append(frame)
            self._count += 1
            self._latest = frame
            most = max(2, self._budget // (len(frame.images) + len(frame.levels)))
            while len(self._frames) > most:
                self._frames = self._frames[::2]
                self._every *= 2

    def frames(self) -> list[Frame]:
        with self._lock:
            last = [] if self._latest is None or self._latest is self._frames[-1] else [self._latest]
            return [*self._frames, *last]


def whole_film(frames: Sequence[Frame]) -> dict[str, Any]:
    """All frames, one after another."""
    return {
        "steps": [frame.step for frame in frames],
        "images": base64.b64encode(b"".join(frame.images for frame in frames)).decode(),
        "levels": base64.b64encode(b"".join(frame.levels for frame in frames)).decode(),
    }


def animation(frames: Sequence[Frame], row: int, patchify: Patchify) -> bytes:
    """An animated WebP of one candidate: the image and its noise map side by side."""
    file = io.BytesIO()
    apd_generate.save_animation([_film(frames, row, patchify)], patchify, file, format="webp", side=256)
    return file.getvalue()


def strip(frames: Sequence[Frame], row: int, patchify: Patchify) -> bytes:
    """A PNG of one candidate: noise maps above, images below, from the first step to the last."""
    file = io.BytesIO()
    apd_generate.film_strip(_film(frames, row, patchify), patchify).save(file, format="PNG")
    return file.getvalue()


def _film(frames: Sequence[Frame], row: int, patchify: Patchify) -> list[apd_generate.Frame]:
    shape = (-1, patchify.height, patchify.width, patchify.channels)
    count = min(len(frames), MOST_SHOWN)
    film = []
    for frame in (frames[k * (len(frames) - 1) // max(count - 1, 1)] for k in range(count)):
        image = torch.from_numpy(np.frombuffer(frame.images, np.uint8).reshape(shape)[row].copy())
        levels = torch.from_numpy(np.frombuffer(frame.levels, np.uint8).reshape(-1, patchify.tokens)[row].copy())
        film.append(apd_generate.Frame(frame.step, image.movedim(-1, 0) / 127.5 - 1, levels / 255))
    return film
