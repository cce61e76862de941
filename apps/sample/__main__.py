"""Draw images from a trained model: `uv run apps/sample --model runs/animals28/model --out drawn`."""

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    install_import_hook(["apd_schedules", "apd_samplers", "apd_models", "apd_train"], "beartype.beartype")

import torch
import tyro
from rich.console import Console
from torch import Generator

import apd_schedules
from apd_models import from_pretrained
from apd_train import generate, picture_grid, to_image
from apd_train.app import UsageError, run_app

PathName = Literal["synchronous", "raster", "random", "staggered"]


@dataclass(frozen=True)
class Options:
    model: Path
    """Model folder, such as runs/animals28/model."""
    out: Path
    """Folder for the images, the grid and sampling.json."""
    seeds: str = "0-15"
    """One image for each seed: numbers and ranges, as in 0-15 or 3,7,20-29."""
    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """Class of all images, by name or number. By default the classes take turns: seed modulo their number."""
    path: PathName = "synchronous"
    """synchronous: all tokens together. raster: cell by cell, row by row. random: the cells in random order. staggered:
    all tokens in raster order, each starting a little later than the one before."""
    steps: int | None = None
    """Steps along the whole path. By default 50, staggered 100, raster and random 8 for each cell."""
    guidance: float = 2.0
    """Scale of classifier-free guidance; 1 is none and takes half the evaluations."""
    cells: int = 4
    """Cells a side that raster and random go through."""
    width: float = 0.5
    """Share of a staggered path that each token takes."""
    order_seed: int = 0
    """Of the random order."""
    batch: int = 64
    """Images that go through the network together; it does not change them."""
    threads: int | None = None
    """CPU threads. By default what PyTorch finds."""
    overwrite: bool = False
    """Replace images that are there already."""


def draw(options: Options) -> None:
    seeds = parse_seeds(options.seeds)
    for name in ("steps", "cells", "batch", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if not math.isfinite(options.guidance):
        raise UsageError(f"--guidance must be a finite number, got {options.guidance}")
    if not 0 < options.width <= 1:
        raise UsageError(f"--width must be in (0, 1], got {options.width}")
    if not 0 <= options.order_seed < 2**63:
        raise UsageError(f"--order-seed must be in [0, 2^63), got {options.order_seed}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    pretrained = from_pretrained(options.model, "cuda" if torch.cuda.is_available() else "cpu")
    labels = choose_labels(pretrained.class_names, options.class_, seeds)
    path, steps = choose_path(options, pretrained.patchify.grid)
    files = [options.out / f"seed-{seed:06}.png" for seed in seeds]
    others = [options.out / "grid.png", options.out / "sampling.json"]
    check_out(options.out, [*files, *others], options.overwrite)

    console = Console(soft_wrap=True, markup=False, highlight=False)
    batches = -(-len(seeds) // options.batch)
    console.print(f"{len(seeds)} images, {options.path} path, {steps} steps …")
    start = time.perf_counter()
    with console.status("") as status:
        done = 0

        def tick(*_: object) -> None:
            nonlocal done
            done += 1
            status.update(f"step {done} of {steps * batches}")

        result = generate(
            pretrained.model,
            pretrained.patchify,
            path,
            steps,
            seeds,
            labels,
            guidance=options.guidance,
            batch=options.batch,
            on_step=tick,
        )
    seconds = time.perf_counter() - start

    names = [pretrained.class_names[k] for k in labels.tolist()] if labels is not None else []
    record = {
        "model": str(options.model),
        "weights": pretrained.weights,
        "seeds": seeds,
        "classes": names,
        "path": options.path,
        "cells": options.cells if options.path in ("raster", "random") else None,
        "width": options.width if options.path == "staggered" else None,
        "order_seed": options.order_seed if options.path == "random" else None,
        "steps": steps,
        "solver": "DDIM(eta=0)",
        "schedule": "RectifiedFlow",
        "guidance": options.guidance if names else None,
        "network_evaluations": result.evaluations,
        "token_evaluations": result.token_evaluations,
        "seconds": round(seconds, 3),
        "images_per_second": round(len(seeds) / seconds, 3),
    }
    write(options.out, files, result.images, record, names)
    console.print(
        f"{result.evaluations} network evaluations an image ({result.token_evaluations} token evaluations), "
        f"{seconds:.1f} s → {options.out}/grid.png",
    )


def parse_seeds(text: str) -> list[int]:
    """Numbers and inclusive ranges, each seed once, in the order given."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or (dash and int(low) > int(high)):
            raise UsageError(f"--seeds are numbers and ranges such as 0-15 or 3,7,20-29, got {text!r}")
        if int(high or low) >= 2**63 or int(high or low) - int(low) >= 1_000_000:
            raise UsageError(f"--seeds must be below 2^63, and a range at most a million long, got {part!r}")
        seeds |= dict.fromkeys(range(int(low), int(high or low) + 1))
    return list(seeds)


def choose_labels(names: tuple[str, ...], wanted: str | None, seeds: list[int]) -> torch.Tensor | None:
    if not names:
        if wanted is not None:
            raise UsageError(f"--class {wanted}: this model has no classes")
        return None
    if wanted is None:
        return torch.tensor([seed % len(names) for seed in seeds])
    if wanted in names:
        chosen = names.index(wanted)
    elif wanted.isdecimal() and int(wanted) < len(names):
        chosen = int(wanted)
    else:
        raise UsageError(f"there is no class {wanted!r}; this model has {', '.join(names)}")
    return torch.full((len(seeds),), chosen)


def choose_path(options: Options, grid: tuple[int, int]) -> tuple[apd_schedules.Path, int]:
    """The path and its number of steps."""
    cells = apd_schedules.raster(grid, options.cells, options.cells)
    groups = int(cells.max()) + 1
    match options.path:
        case "synchronous":
            path, steps = apd_schedules.synchronous(grid[0] * grid[1]), 50
        case "staggered":
            path, steps = apd_schedules.staggered(apd_schedules.raster(grid), options.width), 100
        case "raster":
            path, steps = apd_schedules.sequential(cells), 8 * groups
        case "random":
            order = apd_schedules.shuffled(cells, Generator().manual_seed(options.order_seed))
            path, steps = apd_schedules.sequential(order), 8 * groups
    return path, options.steps or steps


def check_out(out: Path, files: list[Path], overwrite: bool) -> None:
    """Refuses a folder that cannot be written, and files that are there already unless they may be replaced."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = [file.name for file in files if file.exists()]
    except OSError as error:
        raise UsageError(f"{out} cannot be a folder for images: {error.strerror}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be written")
    if present and not overwrite:
        raise UsageError(f"{out} already holds {present[0]}: pass --overwrite or another --out")


def write(
    out: Path,
    files: list[Path],
    images: torch.Tensor,
    record: Mapping[str, object],
    names: list[str],
) -> None:
    """Writes everything beside its place first, so that a full disk leaves what was there as it was."""
    columns = max(1, min(10, round(len(images) ** 0.5)))
    rows = [[*row] for row in images.split(columns)]
    try:
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=out) as folder:
            draft = Path(folder)
            for file, image in zip(files, images, strict=True):
                to_image(image).save(draft / file.name)
            picture_grid(rows, (), [names[0]] if len(set(names)) == 1 else ()).save(draft / "grid.png")
            (draft / "sampling.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            for file in sorted(draft.iterdir()):
                file.replace(out / file.name)
    except OSError as error:
        raise UsageError(f"the images cannot be written to {out}: {error.strerror}") from error


if __name__ == "__main__":
    run_app("apps/sample", Options, draw, (__doc__ or "").replace("`", ""), sys.argv[1:])
