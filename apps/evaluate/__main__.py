"""Bound the negative log-likelihood of held-out images: `uv run apps/evaluate --model runs/animals28/model`.

Or, with `--metric calibration`, ask whether a model with an error head errs as much as it says.
"""

import math
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    install_import_hook(["apd_schedules", "apd_samplers", "apd_models", "apd_train"], "beartype.beartype")

import torch
from calibrated import CALIBRATION_NOTE, calibrate
from choices import Chosen, PathName, choose_images, choose_law
from report import Row, check_out, print_figures, write
from rich.console import Console
from torch import Generator

from apd_models import Pretrained, from_pretrained
from apd_schedules import DiscretizedGaussian, Linear, elbo
from apd_train.app import UsageError, run_app


@dataclass(frozen=True)
class Options:
    model: Path
    """Model folder, such as runs/animals28/model."""
    metric: Literal["bits-per-dim", "calibration"] = "bits-per-dim"
    """bits-per-dim: an upper bound on the negative log-likelihood of 8-bit images, in bits a pixel and channel.
    calibration: for a model with an error head, predicted against actual errors by noise level, and whether it knows
    which tokens are the worse ones."""
    path: tuple[PathName, ...] = ("synchronous", "raster", "random")
    """Ways from noise to image that are looked at, one or more. synchronous: all tokens together. raster:
    cell by cell, row by row. random: cell by cell, averaged over all orders. staggered: all tokens in raster order,
    each starting a little later than the one before. quad: each token at its own distance from a common level. walk:
    the random walks of the paper."""
    points: int = 32
    """Noise maps that each image is looked at, along each path; at least 2. More make the standard errors smaller,
    above all of raster and random."""
    images: int | None = None
    """Use this many images, evenly spread over them. By default all that are held out."""
    data: Path | None = None
    """Images to evaluate, each sub-folder a class of the model. By default the embedded animals."""
    all: bool = False
    """Use all images, not only those that training holds out (a twentieth, at most 500, chosen by their content)."""
    unconditional: bool = False
    """Do not tell the model the class of the image: bound p(image), not p(image | class)."""
    out: Path | None = None
    """JSON file for the figures and what they were taken with."""
    overwrite: bool = False
    """Replace the file if it is there already."""
    clean: float = 11.0
    """Log-SNR at the clean end of a bound, in nats. Lower, the reconstruction costs more and the diffusion less. Any
    gives a bound, the one with the smallest sum the best: between 9 for a model trained for seconds and 13 for a good
    one."""
    noise: float = -13.3
    """Log-SNR at the noise end of a bound, in nats."""
    cells: int = 4
    """Cells a side that raster and random go through."""
    width: float = 0.5
    """Share of a staggered path that each token takes."""
    seed: int = 0
    """Of the points, the noise and the random paths."""
    batch: int = 256
    """Noisy images that go through the network together, about; it does not change the figures."""
    threads: int | None = None
    """CPU threads. By default what PyTorch finds."""


def evaluate(options: Options) -> None:
    start = time.perf_counter()
    schedule = check(options)
    if options.out is not None:
        check_out(options.out, options.overwrite)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    pretrained = from_pretrained(options.model, "cuda" if torch.cuda.is_available() else "cpu")
    if options.metric == "calibration" and pretrained.model.error is None:
        raise UsageError(
            f"{options.model} has no error head to calibrate: apps/train --error-head-of {options.model} adds one"
        )
    paths = list(dict.fromkeys(options.path))
    console = Console(soft_wrap=True, markup=False, highlight=False)
    with console.status("reading images …") as status:
        chosen = choose_images(
            pretrained,
            options.data,
            options.all,
            options.images,
            options.unconditional,
            lambda done, total: status.update(f"reading image {done} of {total}"),
        )
    for line in chosen.skipped[:5]:
        console.print(f"skipped {line}", style="yellow")
    if len(chosen.skipped) > 5:
        console.print(f"… and {len(chosen.skipped) - 5} more", style="yellow")
    make = calibrations if options.metric == "calibration" else bounds
    found = make(options, pretrained, chosen, schedule, paths, console)
    if options.out is None:
        return
    record = {
        "format": f"apd-evaluate/{options.metric}",
        "version": 1,
        "model": str(options.model),
        "weights": pretrained.weights,
        "data": chosen.data,
        "part": chosen.part,
        "images": len(chosen.x),
        "skipped": list(chosen.skipped),
        "conditional": chosen.labels is not None,
        "points": options.points,
        "seed": options.seed,
        "cells": options.cells if {"raster", "random"} & {*paths} else None,
        "width": options.width if "staggered" in paths else None,
        **found,
        "torch": torch.__version__,
        "device": pretrained.model.device.type,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    write(options.out, record)
    console.print(f"→ {options.out}")


def bounds(
    options: Options, pretrained: Pretrained, chosen: Chosen, schedule: Linear, paths: list[PathName], console: Console
) -> dict[str, Any]:
    """Prints the bound along each path; what the file is to say of it."""
    what = "p(image)" if chosen.labels is None else "p(image | class)"
    console.print(
        f"-log2 {what} of {len(chosen.x)} {chosen.part} images of {chosen.data}, {options.points} points, log-SNR from "
        f"{options.noise:g} to {options.clean:g} …"
    )
    rows = measure(options, pretrained, chosen, schedule, paths, console)
    figures = [row.figures(rows[0]) for row in rows]
    print_figures(console, figures)
    return {
        "likelihood": repr(DiscretizedGaussian()),
        "schedule": type(schedule).__name__,
        "clean": schedule.clean,
        "noise": schedule.noise,
        "data_variance": data_variance(pretrained),
        "paths": figures,
    }


def calibrations(
    options: Options, pretrained: Pretrained, chosen: Chosen, schedule: Linear, paths: list[PathName], console: Console
) -> dict[str, Any]:
    """Prints predicted and actual errors along each path; what the file is to say of them."""
    console.print(
        f"errors of the tokens of {len(chosen.x)} {chosen.part} images of {chosen.data}, predicted and actual, at "
        f"{options.points} noise maps of each"
    )
    figures: list[dict[str, Any]] = []
    for path in paths:
        law = choose_law(path, pretrained.patchify.grid, options.cells, options.width)
        with console.status("") as status:
            tick = lambda done, total, path=path: status.update(f"{path}: image {done} of {total}")
            try:
                found = calibrate(pretrained, chosen, law, options.points, options.seed, options.batch, tick)
            except ValueError as error:
                raise UsageError(f"{options.model} cannot be evaluated along the {path} path: {error}") from error
        console.print(f"\n{path}\n{found}")
        figures.append({"path": path, "levels": found.record()})
    console.print(f"\n{CALIBRATION_NOTE}")
    return {"paths": figures}


def measure(
    options: Options, pretrained: Pretrained, chosen: Chosen, schedule: Linear, paths: list[PathName], console: Console
) -> list[Row]:
    """The bound along each path, every one with the same seed."""
    device = pretrained.model.device
    x = chosen.x.to(device)
    cond: dict[str, Any] = {} if chosen.labels is None else {"label": chosen.labels.to(device)}
    rows: list[Row] = []
    with console.status("") as status, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # from torch's first forward derivative
        for path in paths:
            place = f"{path}, path {len(rows) + 1} of {len(paths)}"

            def tick(done: int, total: int, place: str = place) -> None:
                status.update(f"{place}: image {done} of {total}")

            start = time.perf_counter()
            try:
                found = elbo(
                    pretrained.model,
                    x,
                    schedule,
                    choose_law(path, pretrained.patchify.grid, options.cells, options.width),
                    generator=Generator().manual_seed(options.seed),
                    points=options.points,
                    likelihood=DiscretizedGaussian(),
                    data_variance=data_variance(pretrained),
                    cond=cond,
                    batch=options.batch,
                    on_batch=tick,
                )
            except ValueError as error:
                raise UsageError(f"{options.model} cannot be evaluated along the {path} path: {error}") from error
            rows.append(Row(path, found, time.perf_counter() - start))
    return rows


def data_variance(pretrained: Pretrained) -> float:
    """Mean square of the training images' values. The denoiser of independent normal values that have it is the
    control variate: one number for all, so that an image's bound does not depend on the others."""
    return pretrained.model.config.data_std**2


def check(options: Options) -> Linear:
    """The schedule, linear in log-SNR: with as many points, levels of rectified flow give 1.2 to 2.2 times its standard
    error."""
    if not options.path:
        raise UsageError("--path needs at least one name")
    if options.points < 2:
        raise UsageError(f"--points must be at least 2, got {options.points}")
    for name in ("images", "cells", "batch", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if not 0 < options.width <= 1:
        raise UsageError(f"--width must be in (0, 1], got {options.width}")
    if not 0 <= options.seed < 2**63:
        raise UsageError(f"--seed must be in [0, 2^63), got {options.seed}")
    for name in ("clean", "noise"):
        if not math.isfinite(getattr(options, name)):
            raise UsageError(f"--{name} must be a finite number, got {getattr(options, name)}")
    try:
        return Linear(options.clean, options.noise)
    except ValueError as error:
        raise UsageError(f"--clean and --noise: {error}") from error


if __name__ == "__main__":
    run_app("apps/evaluate", Options, evaluate, (__doc__ or "").replace("`", ""), sys.argv[1:])
