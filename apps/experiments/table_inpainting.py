"""How do completions by clean known tokens compare with RePaint, replacement and a model trained only to complete?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count as count_from, pairwise
from typing import Any

import torch
from experiment_completions import complete, hidden, measured, nearest, summed_up, together
from experiment_jobs import Job
from experiment_laws import LONG_DEFAULT
from experiment_measures import SIDE, real
from experiment_models import Model, divided
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number

from apd_generate import MASK_FAMILIES, Recipe
from apd_samplers import resampling_times

ASYNCHRONOUS, SYNCHRONOUS = Model(LONG_DEFAULT), Model("long-synchronous")
TWIN, ELEMENTS = Model("long-completing", module="experiment_twin"), Model("long-elements", module="experiment_twin")
MASKS = (*MASK_FAMILIES, "extrema-patches", "wide-patches")
IMAGES, CANDIDATES = 60, 2
JUMP, RESAMPLES = 1, 2
"""Of RePaint with few evaluations. A part of the table shows others, ``SPENT``, with about ``AT`` evaluations."""
SPENT, AT = ((1, 1), (1, 2), (4, 2), (1, 4), (2, 4), (4, 4), (1, 8)), 32
PUBLISHED = Recipe(method="repaint", steps=250, jump=10, resamples=10, guidance=1.0)
PUBLISHED_MASKS = ("extrema",)
EXPLAINED = """\
Held-out images are hidden in part and completed; the class is told and nothing is guided by it. Images, masks and seeds
are the same for all. *Feature distance* is to the true image: less is closer. *Diversity* is the same distance between
two seeds; were completions draws from the law of what may be there, the two would be equal on average, so distance -
diversity is 0 then, and above where completions are wrong or too much alike. Differences are of the same images. Errors
are over images, of one training of each model. All take ancestral steps but *deterministic*. Evaluations are of the
network, for each completion; those of RePaint count its resampling, and are one more than the others'.

Most masks cut patches. Known pixels of such patches are put back at every step, by native as by the others, but in
*elements*, which sees them clean. *-patches* are the same masks without them: what is shown is whole patches. *all* is
the mean over the four families as they are.
"""


@dataclass(frozen=True, slots=True)
class Method:
    """Args:
    model: that completes.
    recipe: for about so many evaluations.
    said: in words.
    """

    model: Model
    recipe: Callable[[int], Recipe]
    said: str


def native(evaluations: int, eta: float = 1.0) -> Recipe:
    return Recipe(steps=evaluations, eta=eta, guidance=1.0)


def replacement(evaluations: int) -> Recipe:
    return Recipe(method="replacement", steps=evaluations, eta=1.0, guidance=1.0)


def repaint(evaluations: int, jump: int = JUMP, resamples: int = RESAMPLES) -> Recipe:
    """Of the fewest steps that make so many evaluations at least."""
    steps = next(steps for steps in count_from(1) if steps_down(steps, jump, resamples) >= evaluations)
    return Recipe(method="repaint", steps=steps, jump=jump, resamples=resamples, guidance=1.0)


def steps_down(steps: int, jump: int, resamples: int) -> int:
    """Of RePaint's way: its evaluations."""
    return sum(then < now for now, then in pairwise(resampling_times(steps, jump, resamples)))


METHODS = {
    "native": Method(ASYNCHRONOUS, native, "known tokens are clean; a model trained on the default levels"),
    "deterministic": Method(ASYNCHRONOUS, partial(native, eta=0.0), "the same without noise in its steps"),
    "twin": Method(TWIN, native, "native of a model trained only to complete, behind masks of these families"),
    "elements": Method(
        ELEMENTS, native, "native of a model that has a level for each pixel, and else the default levels"
    ),
    "repaint": Method(SYNCHRONOUS, repaint, "RePaint of a model trained with one level for all tokens"),
    "repaint-default": Method(ASYNCHRONOUS, repaint, "RePaint of the model of native"),
    "replacement": Method(SYNCHRONOUS, replacement, "replacement of a model trained with one level for all tokens"),
}


def budgets(setting: Setting) -> Sequence[int]:
    return setting.at((4, 8, 16, 32, 64), (4, 8))


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    """Of one training seed."""
    training = {model: model.job(setting) for model in (ASYNCHRONOUS, SYNCHRONOUS, TWIN, ELEMENTS)}
    count = setting.at(IMAGES, 8)

    def drawing(
        name: str, model: Model, recipes: Mapping[str, Recipe], masks: str, candidates: int = CANDIDATES
    ) -> Job:
        told = {"model": asdict(model), "recipes": {asked: recipe.to_dict() for asked, recipe in recipes.items()}}
        given = {**told, "masks": masks, "count": count, "candidates": candidates}
        return Job(f"inpainting/{name}-{masks}", by_recipe, given, (training[model].name,))

    spent = {f"jump {jump}, resamples {times}": repaint(AT, jump, times) for jump, times in SPENT}
    published = {"published": setting.at(PUBLISHED, repaint(24, 4, 3))}
    return [
        *training.values(),
        *(
            drawing(name, method.model, {str(each): method.recipe(each) for each in budgets(setting)}, masks)
            for name, method in METHODS.items()
            for masks in MASKS
        ),
        *(drawing("spent", SYNCHRONOUS, spent, masks, 1) for masks in MASK_FAMILIES),
        *(drawing("published", SYNCHRONOUS, published, masks, 1) for masks in PUBLISHED_MASKS),
        *(Job(f"inpainting/floors-{masks}", floors, {"masks": masks, "count": count}) for masks in MASKS),
    ]


def by_recipe(
    setting: Setting,
    model: Mapping[str, Any],
    recipes: Mapping[str, Mapping[str, Any]],
    masks: str,
    count: int,
    candidates: int,
) -> Mapping[str, Any]:
    """Completions of a model behind masks of a kind, by what a recipe is called."""
    pretrained, behind = Model(**model).load(setting), hidden(setting, masks, count)
    result = {}
    for name, given in recipes.items():
        recipe = Recipe.from_dict(given)
        images, evaluations = complete(pretrained, recipe, behind, candidates)
        told = {"recipe": recipe.resolved(pretrained.model).to_dict(), "evaluations": evaluations}
        result[name] = {**told, **measured(images, behind, setting)}
    return result


def floors(setting: Setting, masks: str, count: int) -> Mapping[str, Any]:
    """What no model is needed for: the hole filled with the mean image, with the nearest image, and not at all."""
    behind = hidden(setting, masks, count)
    fills = {"mean image": real(setting).mean.expand_as(behind.truth)}
    fills |= {"nearest image": nearest(behind, divided(setting)[0]), "nothing hidden": behind.truth}
    shown = behind.known[:, None]
    filled = {name: torch.where(shown, behind.truth, each)[None] for name, each in fills.items()}
    return {name: {"evaluations": 0, **measured(each, behind, setting)} for name, each in filled.items()}


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Of masks of each kind, and of the four families together, as means of the same images."""
    made: dict[str, dict[str, Any]] = {
        name: {masks: results[f"inpainting/{name}-{masks}"] for masks in of}
        for name, of in (*((name, MASKS) for name in METHODS), ("published", PUBLISHED_MASKS), ("floors", MASKS))
    }
    for name in (*METHODS, "floors"):
        parts = [made[name][family] for family in MASK_FAMILIES]
        made[name]["all"] = {
            key: {"evaluations": cell["evaluations"], **together([part[key] for part in parts])}
            for key, cell in parts[0].items()
        }
    most = str(max(budgets(setting)))

    def rows(name: str, of: Callable[[str], str]) -> list[Mapping[str, Any]]:
        return [
            {
                "masks": masks,
                "asked": key,
                **{told: cell[told] for told in ("evaluations", "recipe") if told in cell},
                **summed_up(cell, made["native"][masks][of(key)]),
            }
            for masks, cells in made[name].items()
            for key, cell in cells.items()
        ]

    of_families = [results[f"inpainting/spent-{family}"] for family in MASK_FAMILIES]
    best = {
        name: {"evaluations": cell["evaluations"], **together([each[name] for each in of_families])}
        for name, cell in of_families[0].items()
    }
    ours = f"jump {JUMP}, resamples {RESAMPLES}"
    return {
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "images": setting.at(IMAGES, 8),
        "candidates": CANDIDATES,
        "seeds": [ASYNCHRONOUS.seed],
        "methods": {name: {"model": each.model.name, "said": each.said} for name, each in METHODS.items()},
        "minus": "native of as many evaluations; of the floors and of RePaint as published, native of the most",
        "curves": {name: rows(name, lambda key: key) for name in METHODS},
        "published": rows("published", lambda key: most),
        "floors": rows("floors", lambda key: most),
        "spent": {
            "minus": ours,
            "rows": [
                {"spent": name, "evaluations": cell["evaluations"], **summed_up(cell, best[ours])}
                for name, cell in best.items()
            ],
        },
    }


def page(record: Mapping[str, Any]) -> str:
    curves = record["curves"]
    kinds = ("all", *MASKS)
    at = [(row["masks"], row["asked"]) for row in curves["native"]]
    at.sort(key=lambda place: kinds.index(place[0]))
    cell = {(name, row["masks"], row["asked"]): row for name, rows in curves.items() for row in rows}

    def by_method(value: Callable[[Mapping[str, Any]], Any], methods: Sequence[str], where: Sequence[str]) -> str:
        rows = [
            [f"{masks}, {asked}", *(number(value(cell[name, masks, asked])) for name in methods)]
            for masks, asked in at
            if masks in where
        ]
        return grid(["masks, evaluations", *methods], rows)

    others = [name for name in curves if name != "native"]
    fixed = [*record["published"], *record["floors"]]
    fixed.sort(key=lambda row: kinds.index(row["masks"]))
    wrong = sum(row["differing"] for rows in (*curves.values(), fixed) for row in rows if row["masks"] != "all")
    columns = {"distance": "distance", "diversity": "diversity", "distance - diversity": "excess"}
    columns |= {"KID": "kid", "PSNR, dB": "psnr", "SSIM": "ssim", "pixels' diversity": "pixel_diversity"}
    middle = at[len({asked for _, asked in at}) // 2][1]
    return "\n".join(
        [
            EXPLAINED,
            *(f"- {name}: {method['said']}" for name, method in record["methods"].items()),
            f"\nFeature distance ({record['features']}, {record['images']} images × {record['candidates']} seeds):\n",
            by_method(lambda row: row["distance"], [*curves], kinds),
            "The same, minus native's:\n",
            by_method(lambda row: row["minus"]["distance"], others, kinds),
            "Distance - diversity:\n",
            by_method(lambda row: row["excess"], [*curves], kinds),
            "KID:\n",
            by_method(lambda row: row["kid"], [*curves], MASKS),
            "The same, minus native's:\n",
            by_method(lambda row: row["minus"]["kid"], others, MASKS),
            f"All columns, {middle} evaluations:\n",
            grid(
                ["masks, method", *columns],
                [
                    [f"{masks}, {name}", *(number(cell[name, masks, middle].get(key)) for key in columns.values())]
                    for masks in kinds
                    for name in curves
                ],
            ),
            "RePaint with the steps, jump and resamples that it was published with, and what no model is needed for:\n",
            grid(
                ["masks, method", "evaluations", "distance", "minus native's", "KID", "PSNR, dB", "SSIM"],
                [
                    [
                        f"{row['masks']}, {row['asked']}",
                        str(row["evaluations"]),
                        number(row["distance"]),
                        number(row["minus"]["distance"]),
                        *(number(row.get(key)) for key in ("kid", "psnr", "ssim")),
                    ]
                    for row in fixed
                ],
            ),
            "How RePaint spends its evaluations, all families:\n",
            grid(
                ["", "evaluations", "distance", f"minus that of {record['spent']['minus']}"],
                [
                    [row["spent"], str(row["evaluations"]), number(row["distance"]), number(row["minus"]["distance"])]
                    for row in record["spent"]["rows"]
                ],
            ),
            f"Known pixels that did not come back as they were: {wrong}.\n",
        ]
    )


QUESTION = "Completions by network evaluations: native, RePaint, replacement, a model trained only to complete"
TABLE = Table("inpainting", QUESTION, jobs, record, page)
