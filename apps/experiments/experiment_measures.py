"""What is measured of models, the same way in every table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from experiment_models import divided
from experiment_setting import Setting
from jaxtyping import Float
from torch import Tensor

from apd_metrics import Estimate, Extractor, efficientnet_lite0, extract, kernel_distance

SIDE = 96
"""Pixels a side that the feature network sees: the mean of what a small image can use and what a core can do."""


@dataclass(frozen=True, slots=True)
class Real:
    """Real images of a setting.

    Args:
        extractor: takes features.
        reference: features of images that models were trained on, spread evenly over them.
        training_labels: of all that models were trained on, in order.
        images, labels: held out; the labels are None without classes.
        mean: image of the training images.
    """

    extractor: Extractor
    reference: Tensor
    training_labels: Tensor | None
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
    of_training = training.labels.sort().values if held_out.class_names else None
    return Real(extractor, reference, of_training, held_out.squares(), labels, some.mean(0))


def classes(seeds: Sequence[int], setting: Setting) -> Tensor | None:
    """A class for each seed, each as often as in training as nearly as any number of seeds allows (a golden-ratio
    sequence); None without classes."""
    labels = real(setting).training_labels
    if labels is None:
        return None
    place = torch.tensor(seeds, dtype=torch.float64).mul((5**0.5 - 1) / 2).frac()
    return labels[(place * len(labels)).long()]


def kid(images: Tensor, setting: Setting) -> Estimate:
    """Kernel distance to training images. Of features of EfficientNet-Lite0, so no KID of Inception."""
    known = real(setting)
    return kernel_distance(extract(known.extractor, images.split(100)), known.reference)


def said(estimate: Estimate) -> Mapping[str, Any]:
    """For JSON."""
    return {"value": estimate.value, "standard_error": estimate.standard_error}


def over_both(one: Float[Tensor, "models images"]) -> Estimate:
    """Mean over models and images.

    Both are drawn from many, and every model draws every image: the variance of the mean is that of models' means over
    their number, and that of images' means over theirs, less the rest, which is in both. Of one model it is of images.
    """
    of_images, of_models, rest = parts(one)
    return Estimate(float(one.mean()), math.sqrt(max(of_images + of_models - rest, of_models)))


def parts(one: Float[Tensor, "models images"]) -> tuple[float, float, float]:
    """Variances of a mean over models and images: that of images' means, that of models' means, and what is in both."""
    models, images = one.shape
    of_images = float(one.mean(0).var()) / images
    if models == 1:
        return of_images, 0.0, 0.0
    left = one - one.mean(0) - one.mean(1, keepdim=True) + one.mean()
    both = float(left.square().sum()) / ((models - 1) * (images - 1)) / one.numel()
    return of_images, float(one.mean(1).var()) / models, both
