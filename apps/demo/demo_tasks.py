"""What one run is asked for: read from JSON, strictly, and written as the recipe file that the page saves and loads."""

import base64
import binascii
import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apd_generate import Recipe, RecipeError
from apd_models import Pretrained

FORMAT = "apd-demo/1"
MOST_CANDIDATES = 16
MOST_STEPS = 2000
MOST_RESAMPLED = 5000
FIELDS = ("format", "model", "versions", "class", "seeds", "recipe", "image", "hole", "levels")


class TaskError(ValueError):
    """A task that cannot be done. The message is one line; ``field`` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Task:
    """Args:
    recipe: with its defaults filled in.
    seeds: one for each candidate.
    label: the class, None for none.
    image: 8-bit pixels ``(h, w, c)``; None where everything is generated.
    hole: pixels to generate, ``(h, w)``.
    levels: painted levels to start from, row-major, one for each token; not a number where nothing is painted.
    """

    recipe: Recipe
    seeds: tuple[int, ...]
    label: int | None = None
    image: NDArray[np.uint8] | None = None
    hole: NDArray[np.bool_] | None = None
    levels: NDArray[np.float64] | None = None


def read_task(record: object, pretrained: Pretrained) -> Task:
    """Raises:
    TaskError: a field that there is not, or of another kind, or that this model cannot follow.
    """
    if not isinstance(record, dict):
        raise TaskError("recipe", "a recipe file is an object of named fields")
    for name in record:
        if name not in FIELDS:
            raise TaskError("recipe", f"a recipe file has no field {name[:40]!r}")
    if record.get("format", FORMAT) != FORMAT:
        raise TaskError("recipe", f"this is no recipe file of this page: format is not {FORMAT!r}")
    patchify = pretrained.patchify
    task = Task(
        _recipe(record.get("recipe", {}), pretrained),
        _seeds(record.get("seeds", [0])),
        _label(record.get("class"), pretrained.class_names),
        _image(record.get("image"), (patchify.height, patchify.width, patchify.channels)),
        _hole(record.get("hole"), (patchify.height, patchify.width)),
        _levels(record.get("levels"), patchify.grid),
    )
    if task.image is None:
        return replace(task, hole=None, levels=None)
    if task.hole is None:
        task = replace(task, hole=np.zeros((patchify.height, patchify.width), bool))
    return task


def write_task(task: Task, pretrained: Pretrained) -> dict[str, Any]:
    """The recipe file: all that the images depend on, in JSON's terms."""
    patchify = pretrained.patchify
    versions = {name: importlib.metadata.version(name) for name in ("torch", "apd-generate", "apd-models")}
    record: dict[str, Any] = {
        "format": FORMAT,
        "model": {
            "weights": pretrained.weights,
            "sha256": _sha256(pretrained),
            "size": [patchify.height, patchify.width],
            "patch": patchify.patch,
        },
        "versions": versions,
        "class": None if task.label is None else pretrained.class_names[task.label],
        "seeds": list(task.seeds),
        "recipe": (task.recipe if task.label is not None else task.recipe.without_class()).to_dict(),
    }
    if task.image is not None:
        height, width, channels = task.image.shape
        record["image"] = {
            "height": height,
            "width": width,
            "channels": channels,
            "pixels": base64.b64encode(task.image.tobytes()).decode(),
        }
    if task.hole is not None:
        record["hole"] = ["".join(".#"[cut] for cut in row) for row in task.hole.tolist()]
    if task.levels is not None:
        rows = task.levels.reshape(patchify.grid).tolist()
        record["levels"] = [[None if level != level else level for level in row] for row in rows]
    return record


@functools.lru_cache(maxsize=1)
def _sha256(pretrained: Pretrained) -> str:
    """Of the model and, where there is one, its autoencoder; computed once."""
    codec = None if pretrained.latents is None else pretrained.latents.codec
    return pretrained.digest if codec is None else f"{pretrained.digest} with {codec}"


def settle(wanted: dict[str, Any], pretrained: Pretrained) -> Recipe:
    """The recipe that takes of ``wanted`` what has a meaning in it, for a page whose controls come and go.

    Raises:
        TaskError: of the first field whose value is wrong.
    """
    taken: dict[str, Any] = {}
    recipe = Recipe().resolved(pretrained.model)
    first = ("scheduler", "order", "restarts", "look_ahead", "solver", "input_guidance", "method", "cells", "groups")
    names = [name for name in first if name in wanted] + [name for name in wanted if name not in (*first, "drawn")]
    for name in names:
        if name in Recipe.__dataclass_fields__ and getattr(recipe, name) is None and name != "guidance_interval":
            continue
        more = {name: wanted[name]}
        if more == {"order": "drawn"}:
            more["drawn"] = wanted.get("drawn")
        try:
            recipe = Recipe.from_dict({**taken, **more}).resolved(pretrained.model)
        except RecipeError as error:
            raise TaskError(name, str(error)) from error
        taken |= more
    return recipe


def _recipe(record: Any, pretrained: Pretrained) -> Recipe:
    try:
        recipe = Recipe.from_dict(record).resolved(pretrained.model)
    except RecipeError as error:
        raise TaskError("recipe", str(error)) from error
    if recipe.autoguidance is not None:
        raise TaskError("recipe", "autoguidance takes a weaker model, which this page has not")
    if (recipe.steps or 0) > MOST_STEPS or recipe.restarts * (recipe.restart_steps or 0) > MOST_STEPS:
        raise TaskError("steps", f"this page takes at most {MOST_STEPS} steps")
    if recipe.method == "repaint" and (recipe.steps or 0) * (recipe.resamples or 1) > MOST_RESAMPLED:
        raise TaskError("steps", f"this page takes at most {MOST_RESAMPLED} steps of repaint, resamples counted")
    return recipe


def _seeds(seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not 1 <= len(seeds) <= MOST_CANDIDATES:
        raise TaskError("seeds", f"there are 1 to {MOST_CANDIDATES} seeds, one for each candidate")
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**53 for seed in seeds):
        raise TaskError("seeds", "a seed is a whole number from 0 to 2^53 - 1")
    return tuple(seeds)


def _label(name: Any, names: tuple[str, ...]) -> int | None:
    if name is None:
        return None
    if name not in names:
        raise TaskError("class", f"there is no class {str(name)[:40]!r}; this model has {', '.join(names) or 'none'}")
    return names.index(name)


def _image(record: Any, shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    if record is None:
        return None
    if not isinstance(record, dict) or record.keys() != {"height", "width", "channels", "pixels"}:
        raise TaskError("image", "an image has height, width, channels and pixels")
    said = (record["height"], record["width"], record["channels"])
    if said != shape or any(isinstance(number, bool) for number in said):
        raise TaskError("image", f"an image for this model is {shape[0]}×{shape[1]} with {shape[2]} channels")
    try:
        pixels = base64.b64decode(record["pixels"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise TaskError("image", "the pixels of an image are base64") from error
    if len(pixels) != shape[0] * shape[1] * shape[2]:
        raise TaskError("image", f"an image for this model has {shape[0] * shape[1] * shape[2]} bytes of pixels")
    return np.frombuffer(pixels, np.uint8).reshape(shape).copy()


def _hole(rows: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    if rows is None:
        return None
    if not _has_shape(rows, shape, lambda row: isinstance(row, str) and not set(row) - {".", "#"}):
        raise TaskError("hole", f"a hole is {shape[0]} rows of {shape[1]} letters, . for known and # for hidden")
    return np.array([[letter == "#" for letter in row] for row in rows])


def _levels(rows: Any, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    if rows is None:
        return None
    is_level = lambda value: (
        value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)
    )
    if not _has_shape(rows, shape, lambda row: isinstance(row, list) and all(map(is_level, row))):
        raise TaskError("levels", f"noise levels are {shape[0]} rows of {shape[1]} numbers from 0 to 1, or null")
    return np.array([np.nan if level is None else level for row in rows for level in row], np.float64)


def _has_shape(rows: Any, shape: tuple[int, int], good: Callable[[Any], bool]) -> bool:
    return isinstance(rows, list) and len(rows) == shape[0] and all(good(r) and len(r) == shape[1] for r in rows)
