"""Kernel distances side by side: how far apart two of the same seeds are, and what they lie between."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from experiment_measures import kid, real, said
from experiment_setting import Setting
from experiment_table import number
from torch import Tensor

from apd_metrics import Estimate, extract, kernel_distance


def pulled(images: Tensor, setting: Setting) -> Mapping[str, Any]:
    """KID, and how far each image and each reference image pulls it: all that :func:`apart` asks for."""
    known = real(setting)
    features = extract(known.extractor, images.split(100))
    of_images, of_reference = pulls(features, known.reference)
    short = lambda values: [float(f"{value:.6g}") for value in values.tolist()]
    found = said(kernel_distance(features, known.reference))
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
    """Several of :func:`pulled`, of as many images each, as one: their mean, and what pulls it. Its error is of the
    pulls, and leaves out that of the part which the reference has alone."""
    value = sum(one["value"] for one in each) / len(each)
    mean = lambda name: torch.tensor([one["pulls"][name] for one in each], dtype=torch.float64).mean(0)
    pulls = {name: mean(name) for name in ("images", "reference")}
    error = math.sqrt(sum(float(of.var()) / len(of) for of in pulls.values()))
    return {"value": value, "standard_error": error, "pulls": {name: of.tolist() for name, of in pulls.items()}}


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
