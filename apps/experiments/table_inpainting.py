"""How do completions by clean known tokens compare with RePaint, replacement and a model trained only to complete?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any

import torch
from experiment_completions import Hidden, complete, hidden, measured, summed_up, together
from experiment_jobs import Job
from experiment_measures import SIDE, real
from experiment_models import Model, divided
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number
from torch import Tensor

from apd_generate import MASK_FAMILIES, Recipe
from apd_samplers import resampling_times

ASYNCHRONOUS, SYNCHRONOUS = Model("long-default"), Model("long-synchronous")
TWIN = Model("long-completing", module="experiment_twin")
IMAGES, CANDIDATES = 80, 2
JUMP, RESAMPLES = 1, 2
"""Of RePaint with few evaluations. A part of the table shows others, ``SPENT``, with about ``AT`` evaluations."""
SPENT, AT = ((1, 1), (1, 2), (4, 2), (1, 4), (2, 4), (4, 4), (1, 8)), 32
PUBLISHED = Recipe(method="repaint", steps=250, jump=10, resamples=10, guidance=1.0)
EXPLAINED = """\
Held-out images are hidden in part and completed; the class is told and nothing is guided by it. Images, masks and seeds
are the same for all. *Feature distance* is to the true image: less is closer. *Diversity* is the same distance between
two seeds; were completions draws from the law of what may be there, the two would be equal on average, so distance -
diversity is 0 then, and above where completions are wrong or too much alike. Differences are of the same images. Errors
are over images, of one training of each model. All take ancestral steps but *deterministic*. Evaluations are of the
network, for each completion; those of RePaint count its resampling, and are one more than the others'.
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
    steps = next(steps for steps in count(1) if steps_down(steps, jump, resamples) >= evaluations)
    return Recipe(method="repaint", steps=steps, jump=jump, resamples=resamples, guidance=1.0)


def steps_down(steps: int, jump: int, resamples: int) -> int:
    """Of RePaint's way: its evaluations."""
    return sum(then < now for now, then in pairwise(resampling_times(steps, jump, resamples)))


METHODS = {
    "native": Method(ASYNCHRONOUS, native, "known tokens are clean; a model trained on the default levels"),
    "deterministic": Method(ASYNCHRONOUS, partial(native, eta=0.0), "the same without noise in its steps"),
    "twin": Method(TWIN, native, "native of a model trained only to complete, behind masks of these families"),
    "repaint": Method(SYNCHRONOUS, repaint, "RePaint of a model trained with one level for all tokens"),
    "repaint-default": Method(ASYNCHRONOUS, repaint, "RePaint of the model of native"),
    "replacement": Method(SYNCHRONOUS, replacement, "replacement of a model trained with one level for all tokens"),
    "replacement-default": Method(ASYNCHRONOUS, replacement, "replacement of the model of native"),
}


def budgets(setting: Setting) -> Sequence[int]:
    return setting.at((4, 8, 16, 32, 64, 128), (4, 8))


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    training = {model: model.job(setting) for model in (ASYNCHRONOUS, SYNCHRONOUS, TWIN)}
    synchronous = (training[SYNCHRONOUS].name,)
    return [
        *training.values(),
        *(
            Job(
                f"inpainting/{name}-{family}", curve, {"method": name, "family": family}, (training[method.model].name,)
            )
            for name, method in METHODS.items()
            for family in MASK_FAMILIES
        ),
        Job("inpainting/spent", spent, needs=synchronous),
        *(
            Job(f"inpainting/published-{family}", published, {"family": family}, synchronous)
            for family in MASK_FAMILIES
        ),
        *(Job(f"inpainting/floors-{family}", floors, {"family": family}) for family in MASK_FAMILIES),
    ]


def curve(setting: Setting, method: str, family: str) -> Mapping[str, Any]:
    """Completions of a method, by network evaluations."""
    recipes = {str(budget): METHODS[method].recipe(budget) for budget in budgets(setting)}
    return by_recipe(METHODS[method].model, recipes, family, setting)


def spent(setting: Setting) -> Mapping[str, Any]:
    """RePaint, by how it spends its evaluations."""
    recipes = {f"jump {jump}, resamples {times}": repaint(AT, jump, times) for jump, times in SPENT}
    made = [by_recipe(SYNCHRONOUS, recipes, family, setting, candidates=1) for family in MASK_FAMILIES]
    first = made[0]
    return {
        name: {"evaluations": first[name]["evaluations"], **together([each[name] for each in made])} for name in first
    }


def published(setting: Setting, family: str) -> Mapping[str, Any]:
    """RePaint with the numbers that it was published with."""
    recipe = setting.at(PUBLISHED, repaint(24, 4, 3))
    return by_recipe(SYNCHRONOUS, {"published": recipe}, family, setting, candidates=1)


def by_recipe(
    model: Model, recipes: Mapping[str, Recipe], family: str, setting: Setting, candidates: int = CANDIDATES
) -> dict[str, Any]:
    pretrained, behind = model.load(setting), hidden(setting, family, setting.at(IMAGES, 8))
    result = {}
    for name, recipe in recipes.items():
        images, evaluations = complete(pretrained, recipe, behind, candidates)
        told = {"recipe": recipe.resolved(pretrained.model).to_dict(), "evaluations": evaluations}
        result[name] = {**told, **measured(images, behind, setting)}
    return result


def floors(setting: Setting, family: str) -> Mapping[str, Any]:
    """What no model is needed for: the hole filled with the mean image, with the nearest image, and not at all."""
    behind = hidden(setting, family, setting.at(IMAGES, 8))
    fills = {"mean image": real(setting).mean.expand_as(behind.truth), "nearest image": nearest(behind, setting)}
    fills["nothing hidden"] = behind.truth
    shown = behind.known[:, None]
    filled = {name: torch.where(shown, behind.truth, each)[None] for name, each in fills.items()}
    return {name: {"evaluations": 0, **measured(each, behind, setting)} for name, each in filled.items()}


def nearest(behind: Hidden, setting: Setting) -> Tensor:
    """Of each image the training image of its class with the least squared difference in what is shown."""
    training = divided(setting)[0]
    shown = behind.known[:, None].expand_as(behind.truth).flatten(1).float()
    seen, apart = behind.truth.flatten(1) * shown, []
    for some in torch.arange(len(training)).split(500):
        x = training.squares(some.tolist()).flatten(1)
        apart.append(shown @ x.square().T - 2 * seen @ x.T)
        if behind.labels is not None:
            apart[-1][behind.labels[:, None] != training.labels[some]] = torch.inf
    return training.squares(torch.cat(apart, 1).argmin(1).tolist())


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    """Of each family, and of all as means of the same images."""
    made: dict[str, dict[str, Any]] = {
        name: {family: results[f"inpainting/{name}-{family}"] for family in MASK_FAMILIES}
        for name in (*METHODS, "published", "floors")
    }
    for by_family in made.values():
        parts = [*by_family.values()]
        by_family["all"] = {
            key: {"evaluations": parts[0][key]["evaluations"], **together([part[key] for part in parts])}
            for key in parts[0]
        }
    most = str(max(budgets(setting)))

    def rows(name: str, of: Callable[[str], str]) -> list[Mapping[str, Any]]:
        return [
            {
                "family": family,
                "asked": key,
                **{told: cell[told] for told in ("evaluations", "recipe") if told in cell},
                **summed_up(cell, made["native"][family][of(key)]),
            }
            for family, cells in made[name].items()
            for key, cell in cells.items()
        ]

    best = results["inpainting/spent"]
    ours = f"jump {JUMP}, resamples {RESAMPLES}"
    return {
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "images": setting.at(IMAGES, 8),
        "candidates": CANDIDATES,
        "training_seed": ASYNCHRONOUS.seed,
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
    families = ("all", *MASK_FAMILIES)
    at = [(row["family"], row["asked"]) for row in curves["native"]]
    at.sort(key=lambda place: families.index(place[0]))
    cell = {(name, row["family"], row["asked"]): row for name, rows in curves.items() for row in rows}

    def by_method(value: Callable[[Mapping[str, Any]], Any], methods: Sequence[str], where: Sequence[str]) -> str:
        rows = [
            [f"{family}, {asked}", *(number(value(cell[name, family, asked])) for name in methods)]
            for family, asked in at
            if family in where
        ]
        return grid(["masks, evaluations", *methods], rows)

    others = [name for name in curves if name != "native"]
    fixed = [*record["published"], *record["floors"]]
    fixed.sort(key=lambda row: families.index(row["family"]))
    wrong = sum(row["differing"] for rows in (*curves.values(), fixed) for row in rows if row["family"] != "all")
    columns = {"distance": "distance", "diversity": "diversity", "distance - diversity": "excess"}
    columns |= {"KID": "kid", "PSNR, dB": "psnr", "SSIM": "ssim", "pixels' diversity": "pixel_diversity"}
    middle = at[len({asked for _, asked in at}) // 2][1]
    return "\n".join(
        [
            EXPLAINED,
            *(f"- {name}: {method['said']}" for name, method in record["methods"].items()),
            f"\nFeature distance ({record['features']}, {record['images']} images × {record['candidates']} seeds):\n",
            by_method(lambda row: row["distance"], [*curves], families),
            "The same, minus native's:\n",
            by_method(lambda row: row["minus"]["distance"], others, families),
            "Distance - diversity:\n",
            by_method(lambda row: row["excess"], [*curves], families),
            "KID:\n",
            by_method(lambda row: row["kid"], [*curves], MASK_FAMILIES),
            "The same, minus native's:\n",
            by_method(lambda row: row["minus"]["kid"], others, MASK_FAMILIES),
            f"All columns, {middle} evaluations:\n",
            grid(
                ["masks, method", *columns],
                [
                    [f"{family}, {name}", *(number(cell[name, family, middle].get(key)) for key in columns.values())]
                    for family in families
                    for name in curves
                ],
            ),
            "RePaint with the steps, jump and resamples that it was published with, and what no model is needed for:\n",
            grid(
                ["masks, method", "evaluations", "distance", "minus native's", "KID", "PSNR, dB", "SSIM"],
                [
                    [
                        f"{row['family']}, {row['asked']}",
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
