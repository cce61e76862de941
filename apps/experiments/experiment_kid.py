"""Kernel distances side by side: how far apart two of the same seeds are, and what they lie between."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from experiment_measures import kid, parts, real, said
from experiment_setting import Setting
from experiment_table import number
from jaxtyping import Float
from torch import Tensor

from apd_metrics import Estimate, extract, kernel_distance


def pulled(images: Tensor, setting: Setting) -> Mapping[str, Any]:
    """KID, and how far each image and each reference image pulls it: all that :func:`apart` asks for."""
    known = real(setting)
    return pulled_features(extract(known.extractor, images.split(100)), known.reference)


def pulled_features(features: Tensor, reference: Tensor) -> Mapping[str, Any]:
    """:func:`pulled`, of features."""
    short = lambda values: [float(f"{value:.6g}") for value in values.tolist()]
    of_images, of_reference = pulls(features, reference)
    found = said(kernel_distance(features, reference))
    return {**found, "pulls": {"images": short(of_images), "reference": short(of_reference)}}


def pulls(generated: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Jackknife influences on the kernel distance: ``(n - 1) (distance - distance without image i)``, and the same of
    reference images, without the part that the reference has alone: it is that of every distance to it."""
    x, y = (features.detach().to("cpu", torch.float64) for features in (generated, reference))
    kernel = lambda a, b: (a @ b.T / x.shape[1] + 1) ** 3
    n, m, within, between = len(x), len(y), kernel(x, x).fill_diagonal_(0), kernel(x, y)
    row, total = within.sum(1), within.sum()
    to_reference, all_between = between.sum(1), between.sum()
    here = total / (n * (n - 1)) - 2 * all_between / (n * m)
    without = (total - 2 * row) / ((n - 1) * (n - 2)) - 2 * (all_between - to_reference) / ((n - 1) * m)
    between_without = (all_between - between.sum(0)) / (n * (m - 1))
    return (n - 1) * (here - without), -2 * (m - 1) * (all_between / (n * m) - between_without)


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> Estimate:
    """Difference of two of :func:`pulled`, of the same seeds and reference: what the pairs have in common is not in its
    error."""
    parts = []
    for name in ("images", "reference"):
        mine, theirs = (torch.tensor(each["pulls"][name], dtype=torch.float64) for each in (one, other))
        parts.append(float((mine - theirs).var()) / len(mine))
    return Estimate(one["value"] - other["value"], math.sqrt(sum(parts)))


def mean_pulled(each: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Several of :func:`pulled`, of the same images otherwise treated, as one: their mean and what pulls it. Its error
    is at most the mean of theirs, which is what it says."""
    mean = lambda name: sum(one[name] for one in each) / len(each)
    pulls = {name: _pulls(each, name).mean(0).tolist() for name in ("images", "reference")}
    return {"value": mean("value"), "standard_error": mean("standard_error"), "pulls": pulls}


def over_models(each: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] | None = None) -> Estimate:
    """Mean of :func:`pulled` over models of several seeds, or their mean difference from others, seed by seed.

    The errors are those of :func:`experiment_measures.over_both`. Reference images count as images do, but for the part
    of them that the reference has alone: it is the same for all models, and in no difference.
    """
    values = torch.tensor([one["value"] for one in each], dtype=torch.float64)
    if others is not None:
        values = values - torch.tensor([one["value"] for one in others], dtype=torch.float64)
    of_models = float(values.var()) / len(values) if len(values) > 1 else 0.0
    total = of_models
    for name in ("images", "reference"):
        pulls = _pulls(each, name) if others is None else _pulls(each, name) - _pulls(others, name)
        if name == "reference" and others is None:
            of_images = _pulls(each, "images").var(1) / len(each[0]["pulls"]["images"])
            squares = torch.tensor([one["standard_error"] ** 2 for one in each], dtype=torch.float64)
            total += max(float((squares - of_images).mean()), 0.0)
        else:
            of_images, _, rest = parts(pulls)
            total += of_images - rest
    return Estimate(float(values.mean()), math.sqrt(max(total, of_models)))


def _pulls(each: Sequence[Mapping[str, Any]], name: str) -> Float[Tensor, "models images"]:
    return torch.tensor([one["pulls"][name] for one in each], dtype=torch.float64)


def floors(setting: Setting) -> Mapping[str, Any]:
    """KID of what needs no model: real images that were held out, and the mean image over and over."""
    known = real(setting)
    return {
        "held_out": {**said(kid(known.images, setting)), "images": len(known.images)},
        "mean_image": said(kid(known.mean.expand(8, -1, -1, -1), setting)),
    }


def said_floors(floor: Mapping[str, Any]) -> str:
    """A sentence for pages."""
    return (
        f"KID of {floor['held_out']['images']} held-out images {number(floor['held_out'])}, of the mean image "
        f"{number(floor['mean_image'])}."
    )


def shown_of(estimate: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the pulls."""
    return {name: value for name, value in estimate.items() if name != "pulls"}
