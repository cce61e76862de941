"""Bits per dimension: an upper bound on the negative log-likelihood of real images, or of the density of their latents,
along several paths."""

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from evaluate_images import Digest, batches_of
from evaluate_latents import latents_of
from evaluate_options import Likelihood, PathName
from evaluate_report import Grid, Section
from evaluate_task import Task
from torch import Generator

from apd_models import Pretrained
from apd_schedules import (
    ContinuousGaussian,
    DiscretizedGaussian,
    Elbo,
    Linear,
    PathLaw,
    autoregressive_law,
    bits_per_dim,
    elbo,
    independent_offsets,
    path_law,
    quad_law,
    raster,
    shared_law,
    staggered,
    walk_law,
)
from apd_train.app import UsageError

NOTE = (
    "Each is an upper bound. With the exact denoiser all paths would give the same number: what they differ by is the "
    "model's error."
)
OF_LATENTS = (
    "Latents are standardised numbers, and this is their density: it may be negative, and it compares models of one "
    "autoencoder only. It is no bound for images."
)
COLUMNS = ("path\n", "bits/dim\n", "prior\n", "recon-\nstruction", "diffusion\n", "evaluations\nan image", "seconds\n")


@dataclass(frozen=True)
class Looked:
    """What is looked at along paths.

    Args:
        x: tokens of the images.
        labels: class of each, as the model counts them; None where the model is to be told none.
        said: which they are, in words.
        record: the same for the file.
    """

    x: torch.Tensor
    labels: torch.Tensor | None
    said: str
    record: dict[str, Any]

    @property
    def facts(self) -> dict[str, str]:
        return {"images": f"SHA-256 of the pixels {self.record['images_sha256']}", "seed": str(self.record["seed"])}


def look_at(task: Task) -> Looked:
    options, images, digest = task.options, task.images, Digest()
    indices = images.evenly(options.images)
    labels = images.labels(indices)
    likelihood, paths = options.likelihood, {*options.likelihood.path}
    squares = digest.through(batches_of(images.chosen, indices))
    if task.codec is not None:
        with task.telling("encoding", "image") as tell:
            on_image = lambda done: tell(done, len(indices))
            squares = [latents_of(task.codec, task.model, squares, options.seed, on_image)]
    tokens = torch.cat([task.model.patchify.to_tokens(some) for some in squares])
    record = {
        "images": len(indices),
        "images_sha256": digest.hex,
        "conditional": labels is not None,
        "points": likelihood.points,
        "seed": options.seed,
        "cells": likelihood.path_cells if {"raster", "random"} & paths else None,
        "width": likelihood.path_width if "staggered" in paths else None,
    }
    of = f"{images.part} images of {images.name}"
    return Looked(tokens, labels, of if task.codec is None else f"latents of {of}", record)


def bits_per_dim_of(task: Task) -> Section:
    """The bound along each path, every one with the same seed."""
    likelihood = task.options.likelihood
    looked, schedule = look_at(task), schedule_of(likelihood)
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # from torch's first forward derivative
        for path in dict.fromkeys(likelihood.path):
            rows.append(measure(task, looked, schedule, path))
    figures = [row.figures(rows[0]) for row in rows]
    latent = task.codec is not None
    what = "latents" if latent else "image"
    what = f"p({what})" if looked.labels is None else f"p({what} | class)"
    return Section(
        metric="latent-bits-per-dim" if latent else "bits-per-dim",
        title="Bits per dimension of latents" if latent else "Bits per dimension",
        head=f"-log2 {what} of {len(looked.x)} {looked.said}, {likelihood.points} points, log-SNR from "
        f"{likelihood.noise:g} to {likelihood.clean:g}",
        parts=(
            Grid(COLUMNS, tuple(map(_cells, figures))),
            *map(_difference, figures[1:]),
            f"{NOTE} {OF_LATENTS}" if latent else NOTE,
        ),
        record={
            **looked.record,
            "likelihood": repr(likelihood_of(task)),
            "schedule": type(schedule).__name__,
            "clean": schedule.clean,
            "noise": schedule.noise,
            "data_variance": data_variance(task.model),
            "paths": figures,
        },
        facts=looked.facts,
    )


@dataclass(frozen=True)
class Row:
    """The bound along one path."""

    path: str
    found: Elbo
    seconds: float

    def figures(self, first: "Row") -> dict[str, Any]:
        """In bits per dimension, averaged over the images.

        Args:
            first: the path that this one is compared with, image by image.
        """
        found = self.found
        mean, error = found.average()
        figures: dict[str, Any] = {"path": self.path, "bits_per_dim": mean, "standard_error": _number(error)}
        for name in ("prior", "reconstruction", "diffusion"):
            figures[name] = bits_per_dim(getattr(found, name), found.dims).mean().item()
        if self is not first:
            apart = found.bits_per_dim - first.found.bits_per_dim
            error = apart.std().item() / len(apart) ** 0.5 if len(apart) > 1 else math.nan
            figures["minus"] = first.path
            figures["difference"] = apart.mean().item()
            figures["standard_error_of_difference"] = _number(error)
        return figures | {"evaluations": found.evaluations, "seconds": round(self.seconds, 3)}


def measure(task: Task, looked: Looked, schedule: Linear, path: PathName) -> Row:
    options, likelihood, pretrained = task.options, task.options.likelihood, task.model
    device = pretrained.model.device
    cond: dict[str, Any] = {} if looked.labels is None else {"label": looked.labels.to(device)}
    start = time.perf_counter()
    with task.telling(f"bits per dimension, {path}", "image") as tell:
        try:
            found = elbo(
                pretrained.model,
                looked.x.to(device),
                schedule,
                law_of(path, pretrained.patchify.grid, likelihood.path_cells, likelihood.path_width),
                generator=Generator().manual_seed(options.seed),
                points=likelihood.points,
                likelihood=likelihood_of(task),
                data_variance=data_variance(pretrained),
                cond=cond,
                batch=options.batch,
                on_batch=tell,
            )
        except ValueError as error:
            raise UsageError(f"{options.model} cannot be evaluated along the {path} path: {error}") from error
    return Row(path, found, time.perf_counter() - start)


def likelihood_of(task: Task) -> ContinuousGaussian | DiscretizedGaussian:
    """A density of latents, a probability of the 256 values of pixels."""
    return DiscretizedGaussian() if task.codec is None else ContinuousGaussian()


def schedule_of(likelihood: Likelihood) -> Linear:
    """Linear in log-SNR: with as many points, levels of rectified flow give 1.2 to 2.2 times its standard error."""
    try:
        return Linear(likelihood.clean, likelihood.noise)
    except ValueError as error:
        raise UsageError(f"--clean and --noise: {error}") from error


def law_of(name: PathName, grid: tuple[int, int], cells: int, width: float) -> PathLaw:
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


def data_variance(pretrained: Pretrained) -> float:
    """Mean square of the training images' values. The denoiser of independent normal values that have it is the
    control variate: one number for all, so that an image's bound does not depend on the others."""
    return pretrained.model.config.data_std**2


def _cells(figures: dict[str, Any]) -> tuple[str, ...]:
    return (
        figures["path"],
        f"{figures['bits_per_dim']:.3f} ± {_text(figures['standard_error'], 3)}",
        *(f"{figures[name]:.3f}" for name in ("prior", "reconstruction", "diffusion")),
        str(figures["evaluations"]),
        f"{figures['seconds']:.1f}",
    )


def _difference(figures: dict[str, Any]) -> str:
    error = _text(figures["standard_error_of_difference"], 4)
    return f"{figures['path']} - {figures['minus']}: {figures['difference']:+.4f} ± {error}, image by image"


def _number(value: float) -> float | None:
    """JSON has no NaN: the standard error of a single image is not known."""
    return None if math.isnan(value) else value


def _text(error: float | None, digits: int) -> str:
    return "?" if error is None else f"{error:.{digits}f}"
