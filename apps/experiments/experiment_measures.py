"""What is measured of models, the same way in every table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from experiment_models import divided
from experiment_setting import Setting
from torch import Generator, Tensor

from apd_generate import Given, Recipe, draw_mask, generate
from apd_metrics import (
    Estimate,
    Extractor,
    average,
    efficientnet_lite0,
    extract,
    feature_distance,
    kernel_distance,
)
from apd_models import Pretrained

SIDE = 96
"""Pixels a side that the feature network sees: the mean of what a small image can use and what a core can do."""


@dataclass(frozen=True, slots=True)
class Real:
    """Real images of a setting.

    Args:
        extractor: takes features.
        reference: features of images that models were trained on, spread evenly over them.
        images, labels: held out; the labels are None without classes.
        mean: image of the training images.
    """

    extractor: Extractor
    reference: Tensor
    images: Tensor
    labels: Tensor | None
    mean: Tensor


@cache
def real(setting: Setting) -> Real:
    """Once a process."""
    training, held_out = divided(setting)
    count = min(len(training), setting.at(2000, 64))
    some = training.squares([k * len(training) // count for k in range(count)])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = efficientnet_lite0(SIDE, device)
    reference = extract(extractor, some.split(100))
    labels = held_out.labels if held_out.class_names else None
    return Real(extractor, reference, held_out.squares(), labels, some.mean(0))


def turns(pretrained: Pretrained, count: int) -> Tensor | None:
    """A class for each image, in turns."""
    classes = pretrained.model.config.classes
    return torch.arange(count) % classes if classes else None


def drawn(pretrained: Pretrained, recipe: Recipe, count: int) -> Tensor:
    """Images of seeds 0, 1, …"""
    labels = turns(pretrained, count)
    return generate(pretrained.model, pretrained.patchify, recipe, range(count), labels, batch=100).images


def kid(images: Tensor, setting: Setting) -> Estimate:
    """Kernel distance to training images. Of features of EfficientNet-Lite0, so no KID of Inception."""
    known = real(setting)
    return kernel_distance(extract(known.extractor, images.split(100)), known.reference)


@dataclass(frozen=True, slots=True)
class Completions:
    """Args:
    images: ``(candidates, images, c, h, w)``.
    known: pixels that were shown, ``(images, h, w)``.
    truth: the images.
    evaluations: of the network, for each completion.
    """

    images: Tensor
    known: Tensor
    truth: Tensor
    evaluations: int


def completed(
    pretrained: Pretrained, recipe: Recipe, family: str, count: int, setting: Setting, candidates: int = 1
) -> Completions:
    """Held-out images, spread evenly over them, behind masks of a family: the same for every model and recipe."""
    known = real(setting)
    evenly = torch.arange(count) * len(known.images) // count
    truth = known.images[evenly]
    labels = None if known.labels is None else known.labels[evenly].repeat(candidates)
    seeded = Generator().manual_seed(0)
    shown = torch.stack([draw_mask(family, truth.shape[-2], truth.shape[-1], seeded) for _ in truth])
    given = Given(truth, shown).repeated(candidates)
    made = generate(
        pretrained.model, pretrained.patchify, recipe, range(len(truth) * candidates), labels, given=given, batch=100
    )
    return Completions(made.images.unflatten(0, (candidates, len(truth))), shown, truth, made.evaluations)


def distances(images: Tensor, truth: Tensor, setting: Setting) -> Tensor:
    """Feature distance of each image to the true one."""
    extractor = real(setting).extractor
    maps = lambda some: extractor(some, maps=True).maps
    parts = zip(images.split(50), truth.split(50), strict=True)
    return torch.cat([feature_distance(maps(a), maps(b)) for a, b in parts])


def said(estimate: Estimate) -> Mapping[str, Any]:
    """For JSON."""
    return {"value": estimate.value, "standard_error": estimate.standard_error}


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over training seeds; its error, of two seeds at least, from their spread."""
    of = torch.tensor(values, dtype=torch.float64)
    return average(of) if len(values) > 1 else Estimate(values[0])
