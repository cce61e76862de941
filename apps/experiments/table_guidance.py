"""How far should completions follow what is shown? Input guidance by its weight and by the level of its context."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import Any

import torch
from experiment_completions import Hidden, apart, complete, hidden, mean_of, measured, nearest, of_pixels, summed_up
from experiment_jobs import Job
from experiment_laws import LONG_DEFAULT
from experiment_measures import SIDE
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number
from experiment_textures import MASKS, PERIODS, SHOWN, SIDE as TEXTURE_SIDE, continued, divided_textures, shown
from torch import Tensor

from apd_generate import Recipe
from apd_metrics import psnr

MODEL, TEXTURES = Model(LONG_DEFAULT), Model("textures", module="experiment_textures")
FAMILIES = ("extrema", "wide")
"""Masks that show little, and that show much."""
SAMPLERS = {
    "deterministic": Recipe(guidance=1.0, eta=0.0),
    "ancestral": Recipe(guidance=1.0, eta=1.0),
    "guidance-2": Recipe(guidance=2.0, eta=0.0),
}
"""What else completions are drawn by: classifier-free guidance, of which 1 is none, and noise in the steps."""
STEPS, IMAGES, CANDIDATES = 24, 80, 2
GOOD = 20.0
"""Decibels, at least, of a continuation that counts as found."""
EXPLAINED = """\
Held-out images are hidden in part and completed, with the same masks and seeds for all. The guess is moved away from
the one in which known tokens are at the context level, by the weight; 0 is no guidance. *Feature distance* is to the
true image: less is closer. *Diversity* is the same distance between two seeds; draws from the law of what may be there
have a distance - diversity of 0 on average. Differences are from weight 0, of the same images; errors are over images,
of one training. A guided step takes two evaluations: the second row of weight 0 has as many. The best weight is chosen
by feature distance at context level 1 on every second image, and held against weight 0 on the others: chosen and
measured on the same images it would flatter itself. *guidance-2* is classifier-free guidance with scale 2, in
deterministic steps; the others have none.
"""
OF_TEXTURES = f"""\
Tileable textures of {TEXTURE_SIDE}×{TEXTURE_SIDE} pixels, sums of waves, stripes, checks and dots with periods of
{", ".join(map(str, PERIODS))} pixels: {SHOWN} of the columns are shown (left), or as many columns and rows (corner).
What is shown determines the rest, so that fidelity has no ceiling. *Found* is the share of continuations that are right
to {GOOD:g} dB. No classes; ancestral steps.
"""


def ways(setting: Setting) -> Mapping[str, Sequence[tuple[float, float, int]]]:
    """Weights, levels of the context and steps, of each job. A guided step takes two evaluations: the last of weight 0
    has as many evaluations as guided ones."""
    steps = setting.at(STEPS, 4)
    weights = setting.at((0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0), (0.0, 1.0, 10.0))
    levels = setting.at((0.3, 0.5, 0.7), (0.5,))
    return {
        "weights": [*((weight, 1.0, steps) for weight in weights), (0.0, 1.0, 2 * steps)],
        "levels": [(weight, level, steps) for level in levels for weight in setting.at((1.0, 3.0), (1.0,))],
    }


def guided(sampler: Recipe, weight: float, level: float, steps: int) -> Recipe:
    return replace(sampler, steps=steps, input_guidance=weight, context_level=level if weight else None)


def told(sampler: Recipe, which: Sequence[tuple[float, float, int]]) -> Sequence[Mapping[str, Any]]:
    """What a job is told of each way."""
    names = ("weight", "level", "steps")
    return [{**dict(zip(names, way, strict=True)), "recipe": guided(sampler, *way).to_dict()} for way in which]


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    """Of one training seed."""
    training, of_textures = MODEL.job(setting), TEXTURES.job(setting)
    size, every = {"count": setting.at(IMAGES, 8), "candidates": CANDIDATES}, [*chain(*ways(setting).values())]
    return [
        training,
        of_textures,
        *(
            Job(
                f"guidance/{family}-{name}-{which}",
                animals,
                {"model": asdict(MODEL), "family": family, "ways": told(sampler, some), **size},
                (training.name,),
            )
            for family in FAMILIES
            for name, sampler in SAMPLERS.items()
            for which, some in ways(setting).items()
        ),
        *(
            Job(
                f"guidance/textures-{mask}",
                textures,
                {"model": asdict(TEXTURES), "mask": mask, "ways": told(Recipe(eta=1.0), every), **size},
                (of_textures.name,),
            )
            for mask in MASKS
        ),
    ]


Ways = Sequence[Mapping[str, Any]]


def animals(
    setting: Setting, model: Mapping[str, Any], family: str, ways: Ways, count: int, candidates: int
) -> Mapping[str, Any]:
    """Completions of held-out images."""
    pretrained, behind = Model(**model).load(setting), hidden(setting, family, count)
    rows = []
    for way in ways:
        images, evaluations = complete(pretrained, Recipe.from_dict(way["recipe"]), behind, candidates)
        rows.append({**way, "evaluations": evaluations, **measured(images, behind, setting)})
    return {"rows": rows}


def textures(
    setting: Setting, model: Mapping[str, Any], mask: str, ways: Ways, count: int, candidates: int
) -> Mapping[str, Any]:
    """Continuations of textures, and those that need no model: one grey, the training texture that is nearest in what
    is shown, and the shortest period that fits."""
    pretrained, (training, truth) = Model(**model).load(setting), divided_textures(count)
    behind = Hidden(truth, shown(mask).expand(len(truth), -1, -1), None)
    rows = []
    for way in ways:
        images, evaluations = complete(pretrained, Recipe.from_dict(way["recipe"]), behind, candidates)
        rows.append({**way, "evaluations": evaluations, **of_textures(images, behind)})
    known = behind.known[:, None]
    grey = torch.where(known, truth, 0).sum((1, 2, 3), keepdim=True) / known.sum((1, 2, 3), keepdim=True)
    fills = {"one grey": grey.expand_as(truth), "nearest texture": nearest(behind, training)}
    return {
        "rows": rows,
        "floors": {name: of_textures(torch.where(known, truth, fill)[None], behind) for name, fill in fills.items()},
        "determined": sum(torch.equal(continued(image, mask), image) for image in truth),
    }


def of_textures(images: Tensor, behind: Hidden) -> dict[str, Any]:
    """The columns of pixels, and of each texture the share of its continuations that are found."""
    found = torch.stack([psnr(each, behind.truth, ~behind.known) >= GOOD for each in images])
    return {**of_pixels(images, behind), "found": found.double().mean(0).tolist()}


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    completions = []
    for family in FAMILIES:
        for sampler in SAMPLERS:
            rows = [row for which in ways(setting) for row in results[f"guidance/{family}-{sampler}-{which}"]["rows"]]
            which = {"masks": family, "sampler": sampler}
            completions.append({**which, "rows": summed(rows), "best": best(rows, "distance", least=True)})
    of_masks = []
    for mask in MASKS:
        result = results[f"guidance/textures-{mask}"]
        found = {name: mean_of(each["found"]) for name, each in result["floors"].items()}
        decibels = {name: mean_of(each["psnr"]) for name, each in result["floors"].items()}
        of_masks.append(
            {
                "masks": mask,
                "rows": summed(result["rows"]),
                "best": best(result["rows"], "psnr", least=False),
                "floors": {name: {"psnr": decibels[name], "found": found[name]} for name in found},
                "determined": result["determined"],
            }
        )
    return {
        "seeds": [MODEL.seed],
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "images": setting.at(IMAGES, 8),
        "candidates": CANDIDATES,
        "minus": "weight 0 of the same masks and sampler, and the fewer steps",
        "completions": completions,
        "textures": of_masks,
    }


def summed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept = ("weight", "level", "steps", "evaluations", "recipe")
    found = [{**{name: row[name] for name in kept}, **summed_up(row, rows[0])} for row in rows]
    for row, each in zip(found, rows, strict=True):
        if "found" in each:
            row["found"] = mean_of(each["found"])
    return found


def best(rows: Sequence[Mapping[str, Any]], column: str, least: bool) -> Mapping[str, Any]:
    """The weight that is best at context level 1 on every second image, and what it changes on the others: against as
    many steps without guidance, and against as many evaluations."""
    without, twice = [row for row in rows if row["weight"] == 0]
    rows = [row for row in rows if row["level"] == 1 and row["steps"] == without["steps"]]
    value = lambda row: sum(row[column][::2]) * (1 if least else -1)
    chosen = min(rows, key=value)
    beside = lambda other: apart(chosen[column][1::2], other[column][1::2])
    return {"weight": chosen["weight"], "column": column, "minus": beside(without), "minus_twice": beside(twice)}


def page(record: Mapping[str, Any]) -> str:
    columns = {"distance": "distance", "diversity": "diversity", "distance - diversity": "excess", "KID": "kid"}
    columns |= {"PSNR, dB": "psnr", "SSIM": "ssim"}
    minus = {"distance - that of 0": "distance", "diversity - that of 0": "diversity", "KID - that of 0": "kid"}
    pixels = {"PSNR, dB": "psnr", "found": "found", "SSIM": "ssim", "diversity of pixels": "pixel_diversity"}
    wrong = sum(row["differing"] for part in (*record["completions"], *record["textures"]) for row in part["rows"])
    lead = lambda row: [f"{row['weight']:g}", f"{row['level']:g}", str(row["evaluations"])]
    lines = [EXPLAINED, f"{record['features']}, {record['images']} images × {record['candidates']} seeds.\n"]
    for part in record["completions"]:
        lines += [
            f"{part['masks']}, {part['sampler']}:\n",
            grid(
                ["weight", "context level", "evaluations", *columns, *minus],
                [
                    [
                        *lead(row),
                        *(number(row[name]) for name in columns.values()),
                        *(number(row["minus"][name]) for name in minus.values()),
                    ]
                    for row in part["rows"]
                ],
            ),
        ]
    lines += [OF_TEXTURES]
    for part in record["textures"]:
        lines += [
            f"{part['masks']}: "
            + ", ".join(
                f"{name} has {number(floor['psnr'])} dB, found {number(floor['found'])}"
                for name, floor in part["floors"].items()
            )
            + f"; the shortest period that fits what is shown continues {part['determined']} of {record['images']} "
            "exactly\n",
            grid(
                ["weight", "context level", "evaluations", *pixels, "PSNR - that of 0"],
                [
                    [*lead(row), *(number(row[name]) for name in pixels.values()), number(row["minus"]["psnr"])]
                    for row in part["rows"]
                ],
            ),
        ]
    chosen = [
        [
            f"{part['masks']}, {name}",
            f"{part['best']['weight']:g}",
            number(part["best"]["minus"]),
            number(part["best"]["minus_twice"]),
            part["best"]["column"],
        ]
        for name, part in (
            *((part["sampler"], part) for part in record["completions"]),
            *(("textures", part) for part in record["textures"]),
        )
    ]
    lines += [
        "The best weights, and what they change on images that they were not chosen on:\n",
        grid(["masks", "weight", "minus that of 0", "of as many evaluations", "of"], chosen),
        f"Known pixels that did not come back as they were: {wrong}.\n",
    ]
    return "\n".join(lines)


QUESTION = "Input guidance by weight and context level, of completions and of textures that are continued"
TABLE = Table("guidance", QUESTION, jobs, record, page)
