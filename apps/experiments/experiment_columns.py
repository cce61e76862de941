"""The columns of tables that compare ways to train: quality by order, completions, likelihood, losses."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from experiment_jobs import Job
from experiment_laws import synchronous
from experiment_measures import completed, distances, drawn, kid, over_seeds, real, said
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results
from torch import Generator

from apd_generate import MASK_FAMILIES, Recipe
from apd_metrics import average
from apd_models import Pretrained
from apd_samplers import LevelSampler, clean_context, loss, wavefront, weighted
from apd_schedules import (
    Linear,
    PathLaw,
    RectifiedFlow,
    autoregressive_law,
    elbo,
    independent_offsets,
    quad_law,
    raster,
    shared_law,
)

FULL = {
    "drawn": 600,  # images drawn all at once,
    "steps": 24,
    "ordered": 200,  # in raster order, 16 cells,
    "ordered_steps": 96,
    "filled": 100,  # completed behind masks of each family,
    "filled_steps": 24,
    "bounded": 64,  # and whose likelihood is bounded,
    "points": 24,  # at so many maps each
    "looks": 4,  # at each held-out image, for losses
}
QUICK = dict.fromkeys(FULL, 4) | {"drawn": 32, "ordered": 32, "ordered_steps": 16, "filled": 8, "looks": 1}
"""No guidance anywhere."""


def jobs_of(models: Sequence[Model], setting: Setting) -> Sequence[Job]:
    """Trains each model and measures it. Tables that ask for the same model share both."""
    found = []
    for model in models:
        training = model.job(setting)
        found += [
            training,
            Job(_name(model), measure, {"model": asdict(model), **setting.at(FULL, QUICK)}, (training.name,)),
        ]
    return found


def _name(model: Model) -> str:
    """Of a job, as in a path."""
    return f"columns/{model.name}-{model.seed}"


def measure(setting: Setting, model: Mapping[str, Any], **numbers: int) -> Mapping[str, Any]:
    """All columns of a model."""
    pretrained = Model(**model).load(setting)
    together = Recipe(steps=numbers["steps"], guidance=1.0)
    in_order = Recipe(order="raster", cells=min(4, setting.grid[0]), steps=numbers["ordered_steps"], guidance=1.0)
    fill = Recipe(steps=numbers["filled_steps"], guidance=1.0)
    result: dict[str, Any] = {
        "kid": said(kid(drawn(pretrained, together, numbers["drawn"]), setting)),
        "raster_kid": said(kid(drawn(pretrained, in_order, numbers["ordered"]), setting)),
    }
    for family in MASK_FAMILIES:
        made = completed(pretrained, fill, family, numbers["filled"], setting)
        result[family] = {
            "distance": said(average(distances(made.images[0], made.truth, setting))),
            "kid": said(kid(made.images[0], setting)),
        }
    result["bits_per_dim"] = bits_per_dim(pretrained, setting, numbers["bounded"], numbers["points"])
    result["loss"] = losses(pretrained, setting, numbers["looks"])
    return result


def bits_per_dim(pretrained: Pretrained, setting: Setting, count: int, points: int) -> Mapping[str, float]:
    """Of held-out images, the same noise for every model."""
    known, patchify = real(setting), pretrained.patchify
    tokens = setting.grid[0] * setting.grid[1]
    laws: dict[str, PathLaw] = {
        "synchronous": shared_law(tokens),
        "raster": autoregressive_law(raster(setting.grid, 4, 4)),
        "quad": quad_law(independent_offsets(tokens)),
    }
    evenly = torch.arange(count) * len(known.images) // count
    x = patchify.to_tokens(known.images[evenly]).to(pretrained.model.device)
    cond = {} if known.labels is None else {"label": known.labels[evenly].to(x.device)}
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # torch's first forward derivative
    bits = lambda law: (
        elbo(
            pretrained.model,
            x,
            Linear(),
            law,
            generator=Generator().manual_seed(0),
            points=points,
            data_variance=pretrained.model.config.data_std**2,
            cond=cond,
        ).bits_per_dim
    )
    return {name: float(bits(law).mean()) for name, law in laws.items()}


def losses(pretrained: Pretrained, setting: Setting, looks: int) -> Mapping[str, float]:
    """Of held-out images at three kinds of maps, the same maps and noise for every model."""
    known, grid_of = real(setting), setting.grid
    kinds: dict[str, LevelSampler] = {
        "shared": synchronous(grid_of),
        "fronts": wavefront(grid_of),
        "context": clean_context(grid_of),
    }
    x = pretrained.patchify.to_tokens(known.images).repeat(looks, 1, 1)
    labels = None if known.labels is None else known.labels.repeat(looks)
    found = {}
    for name, kind in kinds.items():
        seeded = Generator().manual_seed(0)
        total = 0.0
        for start in range(0, len(x), 100):
            rows = x[start : start + 100]
            draw = weighted(kind, RectifiedFlow())(len(rows), seeded)
            eps = torch.randn(rows.shape, generator=seeded)
            cond = {} if labels is None else {"label": labels[start : start + 100]}
            with torch.no_grad():
                total += float(loss(pretrained.model, rows, draw, eps, **cond).sum())
        found[name] = total / x.numel()
    return found


def over(name: str, seeds: int, results: Results) -> list[dict[str, float]]:
    """Each column of a model, seed by seed."""
    return [_numbers(results[_name(Model(name, seed))]) for seed in range(seeds)]


def summed(each: Sequence[Mapping[str, float]], minus: Sequence[Mapping[str, float]] | None = None) -> dict[str, Any]:
    """Each column over seeds, or its difference from another model's, seed by seed."""
    if minus is not None:
        each = [{name: one[name] - other[name] for name in one} for one, other in zip(each, minus, strict=True)]
    return {name: said(over_seeds([one[name] for one in each])) for name in each[0]}


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The columns of a model, and means over the families of masks."""
    families = [result[family] for family in MASK_FAMILIES]
    mean = lambda values: sum(values) / len(values)
    return {
        "kid": result["kid"]["value"],
        "raster_kid": result["raster_kid"]["value"],
        **{f"{name}_distance": result[name]["distance"]["value"] for name in MASK_FAMILIES},
        **{f"{name}_kid": result[name]["kid"]["value"] for name in MASK_FAMILIES},
        "filled_distance": mean([each["distance"]["value"] for each in families]),
        "filled_kid": mean([each["kid"]["value"] for each in families]),
        **{f"{name}_bits": value for name, value in result["bits_per_dim"].items()},
        **{f"{name}_loss": value for name, value in result["loss"].items()},
    }


COLUMNS = {
    "KID": "kid",
    "raster KID": "raster_kid",
    **{name: f"{name}_distance" for name in MASK_FAMILIES},
    "KID filled": "filled_kid",
    "bits/dim synchronous": "synchronous_bits",
    "raster": "raster_bits",
    "quad": "quad_bits",
}
"""What tables show, and of differences between models."""
APART = {"KID": "kid", "raster KID": "raster_kid", "filled": "filled_distance", "bits/dim": "synchronous_bits"}
APART |= {"loss, shared": "shared_loss", "fronts": "fronts_loss", "context": "context_loss"}
