"""How far should completions follow what is shown? Input guidance by its weight and by the level of its context."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from experiment_completions import Hidden, apart, complete, hidden, mean_of, measured, of_pixels, summed_up
from experiment_jobs import Job
from experiment_measures import SIDE
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number
from experiment_textures import MASKS, PERIODS, SHOWN, SIDE as TEXTURE_SIDE, continued, held_out, shown

from apd_generate import Recipe

MODEL, TEXTURES = Model("long-default"), Model("textures", module="experiment_textures")
FAMILIES = ("extrema", "wide")
"""Masks that show little, and that show much."""
SAMPLERS = {
    "deterministic": Recipe(guidance=1.0),
    "ancestral": Recipe(guidance=1.0, eta=1.0),
    "guidance-2": Recipe(guidance=2.0),
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
of one training. The best weight is chosen by feature distance at context level 1 on every second image, and held
against weight 0 on the others: chosen and measured on the same images it would flatter itself. *guidance-2* is
classifier-free guidance with scale 2, in deterministic steps; the others have none.
"""
OF_TEXTURES = f"""\
Tileable textures of {TEXTURE_SIDE}×{TEXTURE_SIDE} pixels, sums of waves, stripes, checks and dots with periods of
{", ".join(map(str, PERIODS))} pixels: {SHOWN} of the columns are shown (left), or as many columns and rows (corner).
What is shown determines the rest, so that fidelity has no ceiling. *Found* are textures whose continuation is right to
{GOOD:g} dB. No classes.
"""


def ways(setting: Setting) -> Mapping[str, Sequence[tuple[float, float]]]:
    """Weights and levels of the context, of each job."""
    weights = setting.at((0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0), (0.0, 1.0, 10.0))
    levels = setting.at((0.3, 0.5, 0.7), (0.5,))
    return {
        "weights": [(weight, 1.0) for weight in weights],
        "levels": [(weight, level) for level in levels for weight in setting.at((1.0, 3.0), (1.0,))],
    }


def guided(sampler: Recipe, setting: Setting, weight: float, level: float) -> Recipe:
    context = level if weight else None
    return replace(sampler, steps=setting.at(STEPS, 4), input_guidance=weight, context_level=context)


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    training, of_textures = MODEL.job(setting), TEXTURES.job(setting)
    return [
        training,
        of_textures,
        *(
            Job(
                f"guidance/{family}-{sampler}-{which}",
                animals,
                {"family": family, "sampler": sampler, "which": which},
                (training.name,),
            )
            for family in FAMILIES
            for sampler in SAMPLERS
            for which in ways(setting)
        ),
        *(Job(f"guidance/textures-{mask}", textures, {"mask": mask}, (of_textures.name,)) for mask in MASKS),
    ]


def animals(setting: Setting, family: str, sampler: str, which: str) -> Mapping[str, Any]:
    """Completions of held-out images."""
    pretrained, behind = MODEL.load(setting), hidden(setting, family, setting.at(IMAGES, 8))
    rows = []
    for weight, level in ways(setting)[which]:
        images, evaluations = complete(
            pretrained, guided(SAMPLERS[sampler], setting, weight, level), behind, CANDIDATES
        )
        rows.append({"weight": weight, "level": level, "evaluations": evaluations, **measured(images, behind, setting)})
    return {"rows": rows}


def textures(setting: Setting, mask: str) -> Mapping[str, Any]:
    """Continuations of textures, and those that need no model: one grey, and the shortest period that fits."""
    pretrained, truth = TEXTURES.load(setting), held_out(setting.at(IMAGES, 8))
    behind = Hidden(truth, shown(mask).expand(len(truth), -1, -1), None)
    rows = []
    for weight, level in [way for each in ways(setting).values() for way in each]:
        images, evaluations = complete(pretrained, guided(Recipe(), setting, weight, level), behind, CANDIDATES)
        rows.append({"weight": weight, "level": level, "evaluations": evaluations, **of_pixels(images, behind)})
    known = behind.known[:, None]
    grey = torch.where(known, truth, 0).sum((1, 2, 3), keepdim=True) / known.sum((1, 2, 3), keepdim=True)
    return {
        "rows": rows,
        "grey": of_pixels(torch.where(known, truth, grey)[None], behind),
        "determined": sum(torch.equal(continued(image, mask), image) for image in truth),
    }


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    of_animals = []
    for family in FAMILIES:
        for sampler, told in SAMPLERS.items():
            rows = [row for which in ways(setting) for row in results[f"guidance/{family}-{sampler}-{which}"]["rows"]]
            said = {"masks": family, "sampler": sampler, "recipe": guided(told, setting, 0.0, 1.0).to_dict()}
            of_animals.append({**said, "rows": summed(rows), "best": best(rows, "distance", least=True)})
    of_textures = []
    for mask in MASKS:
        result = results[f"guidance/textures-{mask}"]
        rows = summed(result["rows"])
        for row, each in zip(rows, result["rows"], strict=True):
            row["found"] = mean_of([float(value >= GOOD) for value in each["psnr"]])
        of_textures.append(
            {
                "masks": mask,
                "recipe": guided(Recipe(), setting, 0.0, 1.0).to_dict(),
                "rows": rows,
                "best": best(result["rows"], "psnr", least=False),
                "grey": mean_of(result["grey"]["psnr"]),
                "determined": result["determined"],
            }
        )
    return {
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "images": setting.at(IMAGES, 8),
        "candidates": CANDIDATES,
        "training_seed": MODEL.seed,
        "minus": "weight 0 of the same masks and sampler",
        "animals": of_animals,
        "textures": of_textures,
    }


def summed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    told = ("weight", "level", "evaluations")
    return [{**{name: row[name] for name in told}, **summed_up(row, rows[0])} for row in rows]


def best(rows: Sequence[Mapping[str, Any]], column: str, least: bool) -> Mapping[str, Any]:
    """The weight that is best at context level 1 on every second image, and what it changes on the others."""
    rows = [row for row in rows if row["level"] == 1]
    value = lambda row: sum(row[column][::2]) * (1 if least else -1)
    chosen = min(rows, key=value)
    return {"weight": chosen["weight"], "column": column, "minus": apart(chosen[column][1::2], rows[0][column][1::2])}


def page(record: Mapping[str, Any]) -> str:
    columns = {"distance": "distance", "diversity": "diversity", "distance - diversity": "excess", "KID": "kid"}
    columns |= {"PSNR, dB": "psnr", "SSIM": "ssim"}
    minus = {"distance - that of 0": "distance", "diversity - that of 0": "diversity", "KID - that of 0": "kid"}
    pixels = {"PSNR, dB": "psnr", "found": "found", "SSIM": "ssim", "diversity of pixels": "pixel_diversity"}
    wrong = sum(row["differing"] for part in (*record["animals"], *record["textures"]) for row in part["rows"])
    told = lambda row: [f"{row['weight']:g}", f"{row['level']:g}", str(row["evaluations"])]
    lines = [EXPLAINED, f"{record['features']}, {record['images']} images × {record['candidates']} seeds.\n"]
    for part in record["animals"]:
        lines += [
            f"{part['masks']}, {part['sampler']}:\n",
            grid(
                ["weight", "context level", "evaluations", *columns, *minus],
                [
                    [
                        *told(row),
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
            f"{part['masks']}: one grey has {number(part['grey'])} dB; the shortest period that fits what is shown "
            f"continues {part['determined']} of {record['images']} exactly\n",
            grid(
                ["weight", "context level", "evaluations", *pixels, "PSNR - that of 0"],
                [
                    [*told(row), *(number(row[name]) for name in pixels.values()), number(row["minus"]["psnr"])]
                    for row in part["rows"]
                ],
            ),
        ]
    chosen = [
        [
            f"{part['masks']}, {name}",
            f"{part['best']['weight']:g}",
            number(part["best"]["minus"]),
            part["best"]["column"],
        ]
        for name, part in (
            *((part["sampler"], part) for part in record["animals"]),
            *(("textures", part) for part in record["textures"]),
        )
    ]
    lines += [
        "The best weights, and what they change on images that they were not chosen on:\n",
        grid(["masks", "weight", "minus that of 0", "of"], chosen),
        f"Known pixels that did not come back as they were: {wrong}.\n",
    ]
    return "\n".join(lines)


QUESTION = "Input guidance by weight and context level, of completions and of textures that are continued"
TABLE = Table("guidance", QUESTION, jobs, record, page)
