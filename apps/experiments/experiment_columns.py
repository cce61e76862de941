"""The columns of tables that compare ways to train: quality by order, completions, likelihood, losses."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from experiment_completions import complete, hidden, measured
from experiment_drawing import drawn
from experiment_jobs import Job
from experiment_kid import mean_pulled, over_models, pulled
from experiment_laws import synchronous
from experiment_measures import classes, over_both, real, said
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, grid, number
from scipy.stats import t as student
from torch import Generator

from apd_generate import MASK_FAMILIES, Recipe
from apd_metrics import Estimate
from apd_models import Pretrained
from apd_samplers import Draw, LevelSampler, clean_context, loss, wavefront, weighted
from apd_schedules import (
    Linear,
    NoiseMap,
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
    "drawn": 400,  # images drawn all at once,
    "steps": 24,
    "ordered": 160,  # in raster order, 16 cells,
    "ordered_steps": 96,
    "filled": 100,  # completed behind masks of each family,
    "filled_steps": 24,
    "bounded": 64,  # and whose likelihood is bounded,
    "points": 12,  # at so many maps each
    "looks": 2,  # at each held-out image, for losses
}
QUICK = dict.fromkeys(FULL, 4) | {"drawn": 32, "ordered": 32, "ordered_steps": 16, "filled": 8, "looks": 1}
COLUMNS = (
    *("KID", "raster KID", *MASK_FAMILIES, "filled", "KID filled"),
    *("bits/dim synchronous", "bits/dim raster", "bits/dim quad"),
    *("loss shared", "loss fronts", "loss context"),
)
"""All of them are better when smaller."""
SHOWN = tuple(name for name in COLUMNS if not name.startswith("loss"))
SHOWN_APART = ("KID", "raster KID", "filled", "extrema", "bits/dim synchronous", *COLUMNS[-3:])
"""What pages show of models, and of their differences; records have all."""


def explained(numbers: Mapping[str, int], seeds: int) -> str:
    """For readers of a page."""
    few = "With one seed they are over images alone."
    if seeds > 1:
        few = f"With {seeds} seeds 95 % is {student.ppf(0.975, seeds - 1):.1f} errors on each side, not 2."
    return f"""\
*KID* is of {numbers["drawn"]} images drawn all at once in {numbers["steps"]} steps, *raster KID* of
{numbers["ordered"]} drawn in cells one after another, 16 where there are as many, in {numbers["ordered_steps"]}: no
guidance, each class as often as in training. Completions are native, in {numbers["filled_steps"]} steps, of
{numbers["filled"]} held-out images: feature distance to the true image behind masks of four families, their mean
(*filled*), and the mean of the four KIDs. All steps of these columns are deterministic. Bits/dim are bounds along three
paths, of {numbers["bounded"]} held-out images. Losses are of all held-out images at shared levels, at fronts, and
beside clean context.

All models have the same network (but for error heads, which change nothing else) and seeds, and what is compared as
many steps; they are measured with the same images, masks and noise. Errors are over training seeds and over images.
{few} Bits/dim depend on how often training sees nearly
clean levels, and logit-normal laws hardly draw them: compare them among such laws only.
"""


def page_of(record: Mapping[str, Any], above: str, called: Callable[[Mapping[str, Any]], str]) -> str:
    """Columns, and their differences from the bar.

    Args:
        above: a line of its own.
        called: what a row is.
    """

    def table(of: str, names: Sequence[str]) -> str:
        rows = [[called(row), *(number(row[of][name]) for name in names)] for row in record["rows"]]
        return grid(["levels of training", *names], rows)

    apart = f"Differences from {record['bar']} of as many steps, seed by seed:\n"
    of_all, from_bar = table("over_seeds", SHOWN), table("minus_bar", SHOWN_APART)
    return "\n".join([explained(record["numbers"], len(record["seeds"])), f"{above}\n", of_all, apart, from_bar])


def jobs_of(models: Sequence[Model], setting: Setting) -> Sequence[Job]:
    """Trains each model and measures it. Tables that ask for the same model share both."""
    found, numbers = [], setting.at(FULL, QUICK)
    for model in models:
        training = model.job(setting)
        found += [training, Job(name_of(model), measure, {"model": asdict(model), **numbers}, (training.name,))]
    return found


def name_of(model: Model) -> str:
    """Of the job that measures it, as in a path."""
    return f"columns/{model.name}-{model.seed}"


def measure(setting: Setting, model: Mapping[str, Any], **numbers: int) -> Mapping[str, Any]:
    """All columns of a model, image by image, so that they can be paired with another model's."""
    pretrained = Model(**model).load(setting)
    together = Recipe(steps=numbers["steps"], guidance=1.0, eta=0.0)
    in_order = Recipe(order="raster", cells=4, steps=numbers["ordered_steps"], guidance=1.0, eta=0.0)
    fill = Recipe(steps=numbers["filled_steps"], guidance=1.0, eta=0.0)

    def kid(recipe: Recipe, count: int) -> Mapping[str, Any]:
        seeds = range(count)
        return pulled(drawn(pretrained, recipe, seeds, classes(seeds, setting)).images, setting)

    result: dict[str, Any] = {
        "kid": kid(together, numbers["drawn"]),
        "raster_kid": kid(in_order, numbers["ordered"]),
        "filled": {},
    }
    for family in MASK_FAMILIES:
        behind = hidden(setting, family, numbers["filled"])
        images, _ = complete(pretrained, fill, behind, 1)
        found = measured(images, behind, setting)
        result["filled"][family] = {name: found[name] for name in ("distance", "kid")}
    result["bits/dim"] = bits_per_dim(pretrained, setting, numbers["bounded"], numbers["points"])
    result["loss"] = losses(pretrained, setting, numbers["looks"])
    return result


def bits_per_dim(pretrained: Pretrained, setting: Setting, count: int, points: int) -> Mapping[str, Sequence[float]]:
    """Of each of some held-out images, the same noise for every model."""
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
    return {name: [round(each, 6) for each in bits(law).tolist()] for name, law in laws.items()}


def losses(pretrained: Pretrained, setting: Setting, looks: int) -> Mapping[str, Sequence[float]]:
    """Of each held-out image at three kinds of maps, the same maps and noise for every model."""
    known, grid_of, device = real(setting), setting.grid, pretrained.model.device
    kinds: dict[str, LevelSampler] = {
        "shared": synchronous(grid_of),
        "fronts": wavefront(grid_of),
        "context": clean_context(grid_of),
    }
    x = pretrained.patchify.to_tokens(known.images).repeat(looks, 1, 1)
    labels = None if known.labels is None else known.labels.repeat(looks)
    found = {}
    for name, kind in kinds.items():
        seeded, parts = Generator().manual_seed(0), []
        for start in range(0, len(x), 100):
            rows = x[start : start + 100]
            draw = weighted(kind, RectifiedFlow())(len(rows), seeded)
            draw = Draw(NoiseMap(draw.noise.log_snr.to(device)), draw.weight.to(device))
            eps = torch.randn(rows.shape, generator=seeded).to(device)
            cond = {} if labels is None else {"label": labels[start : start + 100].to(device)}
            with torch.no_grad():
                parts.append(loss(pretrained.model, rows.to(device), draw, eps, **cond).cpu())
        of_images = torch.cat(parts).unflatten(0, (looks, -1)).mean(0) / x[0].numel()
        found[name] = [float(f"{each:.6g}") for each in of_images.tolist()]
    return found


def values(result: Mapping[str, Any], name: str) -> Sequence[float]:
    """A column of a model that has a value for each image.

    Raises:
        ValueError: there is no such column.
    """
    if name in MASK_FAMILIES:
        return result["filled"][name]["distance"]
    if name == "filled":
        parts = [result["filled"][family]["distance"] for family in MASK_FAMILIES]
        return [sum(of_image) / len(parts) for of_image in zip(*parts, strict=True)]
    kind, _, which = name.partition(" ")
    if kind not in ("bits/dim", "loss") or which not in result[kind]:
        raise ValueError(f"there is no column {name}, only {', '.join(COLUMNS)}")
    return result[kind][which]


def kid_of(result: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A column that is a kernel distance, with what pulls it; None of other columns."""
    if name == "KID filled":
        return mean_pulled([result["filled"][family]["kid"] for family in MASK_FAMILIES])
    key = {"KID": "kid", "raster KID": "raster_kid"}.get(name)
    return None if key is None else result[key]


def column(each: Sequence[Mapping[str, Any]], name: str) -> Estimate:
    """Of the models of some seeds, its error over them and over images."""
    if kid_of(each[0], name) is None:
        return over_both(torch.tensor([values(one, name) for one in each], dtype=torch.float64))
    return over_models(_kids(each, name))


def difference(each: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], name: str) -> Estimate:
    """From others, seed by seed and image by image: what they have in common is not in the error."""
    if kid_of(each[0], name) is None:
        of = lambda some: torch.tensor([values(one, name) for one in some], dtype=torch.float64)
        return over_both(of(each) - of(others))
    return over_models(_kids(each, name), _kids(others, name))


def _kids(each: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [told for one in each if (told := kid_of(one, name)) is not None]


def summed(
    names: Sequence[str], each: Sequence[Mapping[str, Any]], minus: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Columns of the models of several seeds, or their differences from others, seed by seed."""
    return {name: said(column(each, name) if minus is None else difference(each, minus, name)) for name in names}


def over(name: str, seeds: int, results: Results) -> list[Mapping[str, Any]]:
    """What was measured of a model, seed by seed."""
    return [results[name_of(Model(name, seed))] for seed in range(seeds)]


def row_of(each: Sequence[Mapping[str, Any]], bar: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a record keeps of a model: columns over seeds, those of each seed, and differences from the bar's."""
    return {
        "over_seeds": summed(COLUMNS, each),
        "minus_bar": summed(COLUMNS, each, bar),
        "of_seeds": {name: [column([one], name).value for one in each] for name in COLUMNS},
    }
