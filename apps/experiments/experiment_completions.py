"""Completions of held-out images, and what is measured of them: image by image, so that ways to draw can be paired."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from experiment_kid import apart as kid_apart, pulled_features, shown_of
from experiment_measures import real, said
from experiment_setting import Setting
from torch import Generator, Tensor

from apd_generate import Given, Recipe, draw_mask, generate
from apd_metrics import Features, average, exactness, feature_distance, psnr, ssim
from apd_models import Patchify, Pretrained
from apd_train import ImageSet

EACH = ("distance", "diversity", "excess", "psnr", "ssim", "pixel_diversity")
"""Columns with a value for each image. Distance (to the truth) and diversity (between two candidates) are of features,
excess is the one less the other; the pixel diversity is the root mean square difference in the hole."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Args:
    truth: images ``(n, c, h, w)``.
    known: their pixels that are shown, ``(n, h, w)``.
    labels: their classes, None without.
    """

    truth: Tensor
    known: Tensor
    labels: Tensor | None


@cache
def hidden(setting: Setting, masks: str, count: int) -> Hidden:
    """Held-out images, evenly among all (they lie in the order of classes), behind masks: the same for all models and
    recipes. Once a process.

    Args:
        masks: a family; with ``-patches``, what is known of patches that are known in part is hidden too.
    """
    held_out = real(setting)
    count = min(count, len(held_out.images))
    chosen = [k * len(held_out.images) // count for k in range(count)]
    truth = held_out.images[chosen]
    height, width = truth.shape[-2:]
    family, _, whole = masks.partition("-")
    seeded = Generator().manual_seed(0)
    known = torch.stack([draw_mask(family, height, width, seeded) for _ in chosen])
    if whole:
        patchify = Patchify(height, width, 1, setting.patch)
        tokens = patchify.known_tokens(known).expand(-1, -1, patchify.token_dim)
        known = patchify.to_images(tokens.float())[:, 0] > 0
    return Hidden(truth, known, None if held_out.labels is None else held_out.labels[chosen])


def complete(pretrained: Pretrained, recipe: Recipe, behind: Hidden, candidates: int) -> tuple[Tensor, int]:
    """``(candidates, n, c, h, w)``, of seeds 0, 1, … in this order, and the network evaluations of each."""
    count = len(behind.truth)
    labels = None if behind.labels is None else behind.labels.repeat(candidates)
    given = Given(behind.truth, behind.known).repeated(candidates)
    seeds = range(candidates * count)
    made = generate(pretrained.model, pretrained.patchify, recipe, seeds, labels, given=given, batch=100)
    return made.images.unflatten(0, (candidates, count)), made.evaluations


def measured(images: Tensor, behind: Hidden, setting: Setting) -> dict[str, Any]:
    """All columns of completions, and their kernel distance with what pairs it; it is of the first candidate.

    Args:
        images: one or two candidates, ``(candidates, n, c, h, w)``. Values are means over them; of one there is no
            diversity.
    """
    truth, made = _features(behind.truth, setting), [_features(each, setting) for each in images]
    columns = {"distance": _mean([feature_distance(each.maps, truth.maps) for each in made])}
    if len(images) == 2:
        columns["diversity"] = feature_distance(made[0].maps, made[1].maps)
        columns["excess"] = columns["distance"] - columns["diversity"]
    kid = pulled_features(made[0].pooled, real(setting).reference)
    return {**_short(columns), **of_pixels(images, behind), "kid": kid}


def of_pixels(images: Tensor, behind: Hidden) -> dict[str, Any]:
    """The columns of :func:`measured` that need no features, and how known pixels came back."""
    truth, hole = behind.truth, ~behind.known
    columns = {
        "psnr": _mean([psnr(each, truth, hole) for each in images]),
        "ssim": _mean([ssim(each, truth, hole) for each in images]),
    }
    if len(images) == 2:
        squared = (images[0] - images[1]).double().square().mean(1)
        columns["pixel_diversity"] = (torch.where(hole, squared, 0).sum((1, 2)) / hole.sum((1, 2))).sqrt()
    exact = [exactness(each, truth, behind.known) for each in images]
    return {
        **_short(columns),
        "known_pixels": sum(int(each.known.sum()) for each in exact),
        "differing": sum(int(each.differing.sum()) for each in exact),
    }


def nearest(behind: Hidden, training: ImageSet) -> Tensor:
    """Of each image the training image of its class with the least squared difference in what is shown."""
    shown = behind.known[:, None].expand_as(behind.truth).flatten(1).float()
    seen, apart_by = behind.truth.flatten(1) * shown, []
    for some in torch.arange(len(training)).split(500):
        x = training.squares(some.tolist()).flatten(1)
        apart_by.append(shown @ x.square().T - 2 * seen @ x.T)
        if behind.labels is not None:
            apart_by[-1][behind.labels[:, None] != training.labels[some]] = torch.inf
    return training.squares(torch.cat(apart_by, 1).argmin(1).tolist())


def _short(columns: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Six digits, for JSON, which has no infinite numbers: the PSNR of an exact completion is left out."""
    finite = {name: values for name, values in columns.items() if bool(values.isfinite().all())}
    return {name: [float(f"{value:.6g}") for value in values.tolist()] for name, values in finite.items()}


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean(0)


def _features(images: Tensor, setting: Setting) -> Features:
    parts = [real(setting).extractor(some, maps=True) for some in images.split(50)]
    maps = zip(*(part.maps for part in parts), strict=True)
    return Features(torch.cat([part.pooled for part in parts]), tuple(torch.cat(stage) for stage in maps))


def mean_of(values: Sequence[float]) -> Mapping[str, Any]:
    """Over images, with its error."""
    return said(average(torch.tensor(values, dtype=torch.float64)))


def apart(values: Sequence[float], others: Sequence[float]) -> Mapping[str, Any]:
    """Mean difference of the same images, with its error."""
    return mean_of([a - b for a, b in zip(values, others, strict=True)])


def together(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several results of the same images as one: columns averaged image by image, pixels counted, and no KID."""
    columns = [name for name in EACH if all(name in cell for cell in cells)]
    mean = lambda name: [sum(values) / len(cells) for values in zip(*(cell[name] for cell in cells), strict=True)]
    counted = {name: sum(cell[name] for cell in cells) for name in ("known_pixels", "differing")}
    return {name: mean(name) for name in columns} | counted


def summed_up(cell: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What a record keeps of a result: means with their errors, and those of the difference from another result."""
    means = {name: mean_of(cell[name]) for name in EACH if name in cell}
    minus = {name: apart(cell[name], other[name]) for name in means if name in other}
    if "kid" in cell:
        means["kid"] = shown_of(cell["kid"])
    if "kid" in cell and "kid" in other:
        minus["kid"] = said(kid_apart(cell["kid"], other["kid"]))
    return {**means, "minus": minus, **{name: cell[name] for name in ("known_pixels", "differing")}}
