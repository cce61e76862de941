"""How good completions are: by features, pixels, and what they leave alone."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from evaluate_images import eight_bits
from torch import Tensor

from apd_metrics import (
    Estimate,
    Extractor,
    average,
    exactness,
    feature_distance,
    feature_diversity,
    kernel_distance,
    metric_name,
    pixel_diversity,
    psnr,
    ssim,
)
from apd_train.drawing import Dilated

MOST_DB = 20 * math.log10(255)
"""PSNR of an error of one grey level, which no error counts as too: the mean of images would be infinite."""
FEWEST = 4
"""Images that a kernel distance takes."""


@dataclass(frozen=True)
class Filled:
    """Completions of images behind masks of one family, and what they cost.

    Args:
        known: pixels of each image.
        images: completions of each, in 8 bits, ``(times, count, c, h, w)``.
        largest: difference of a known value, before they were brought to 8 bits.
        differing: known pixels, likewise.
        evaluations, token_evaluations: of each completion.
        seconds: of all.
        grown: of a model of latents, how far what is hidden grew for it.
    """

    family: str
    known: Tensor
    images: Tensor
    largest: float
    differing: int
    evaluations: int
    token_evaluations: int
    seconds: float
    grown: Dilated | None = None

    @property
    def hidden(self) -> float:
        """Share of the pixels."""
        return 1 - self.known.double().mean().item()

    @property
    def known_pixels(self) -> int:
        """Of all completions."""
        return int(self.known.sum()) * len(self.images)

    def record(self, model: "Measured", mean: "Measured") -> dict[str, Any]:
        return {
            "family": self.family,
            "hidden": self.hidden,
            "model": model.record(),
            "mean_image": mean.record(),
            "known_pixels": self.known_pixels,
            "known_pixels_differing": self.differing,
            "largest_difference_of_known": self.largest,
            "network_evaluations": self.evaluations,
            "token_evaluations": self.token_evaluations,
            "seconds": round(self.seconds, 3),
            **({} if self.grown is None else {"grown": self.grown.record}),
        }


def filled(
    family: str,
    known: Tensor,
    images: Tensor,
    truth: Tensor,
    evaluations: int,
    token_evaluations: int,
    seconds: float,
    grown: Dilated | None = None,
) -> Filled:
    """Completions as a model made them, and what they left alone.

    Args:
        truth: what the images were.
    """
    found = [exactness(each, truth, known) for each in images]
    largest, differing = max(each.largest.max().item() for each in found), sum(each.differing.sum() for each in found)
    return Filled(
        family, known, eight_bits(images), largest, int(differing), evaluations, token_evaluations, seconds, grown
    )


@dataclass(frozen=True)
class Measured:
    """Images behind masks of one family, filled by the model or with the mean image; None is what cannot be told."""

    family: str
    filled_by: str
    distance: Estimate
    psnr: Estimate
    ssim: Estimate
    kid: Estimate | None
    feature_diversity: Estimate | None
    pixel_diversity: Estimate | None

    def record(self) -> dict[str, Any]:
        found = {name: value for name, value in asdict(self).items() if isinstance(value, Mapping)}
        return {name: found.get(name) for name in list(asdict(self))[2:]}


def names_of(extractor: str, count: int) -> dict[str, str]:
    """What the numbers are called, by their names in the file."""
    return {
        "distance": f"Feature distance-{extractor}@{count}",
        "psnr": f"PSNR in the hole, 8 bits, at most {MOST_DB:.2f} dB",
        "ssim": "SSIM in the hole, 8 bits",
        "kid": metric_name("kid", extractor, count),
        "feature_diversity": f"Feature distance-{extractor} between completions",
        "pixel_diversity": "Root mean square difference between completions in the hole, of values in [-1, 1]",
    }


def measure(
    extractor: Extractor,
    truth: Tensor,
    made: Sequence[Filled],
    mean: Tensor,
    others: Tensor | None,
    on_image: Callable[[int, int], None],
) -> tuple[Estimate | None, list[tuple[Measured, Measured]]]:
    """The KID of the real images themselves, and for each family what the model made and what the mean image makes.

    Args:
        others: features of other real images, for KID.
    """
    seen = _seen(truth)
    # In 8 bits, and seen as numbers a few at a time: there may be thousands of them, each several times.
    fillings = [(each.images, eight_bits(torch.where(each.known[:, None], seen, mean))[None]) for each in made]
    flat = [images for pair in fillings for images in pair]
    looks = [
        _look(extractor, image, [_values(images[:, i]) for images in flat])
        for i, image in enumerate(_told(seen, on_image))
    ]
    floor = _kid(torch.stack([pooled for pooled, _ in looks])[None], others)
    of_filling = [[found[k] for _, found in looks] for k in range(len(flat))]
    rows = [
        (
            _measured(each, "model", by_model, seen, of_filling[2 * k], others),
            _measured(each, "mean image", by_mean, seen, of_filling[2 * k + 1], others),
        )
        for k, (each, (by_model, by_mean)) in enumerate(zip(made, fillings, strict=True))
    ]
    return floor, rows


@dataclass(frozen=True)
class _Look:
    """Features of the completions of one image.

    Args:
        pooled: of each.
        distance: mean, from the truth.
        diversity: of several, from each other.
    """

    pooled: Tensor
    distance: Tensor
    diversity: Tensor | None


def _look(extractor: Extractor, truth: Tensor, fillings: Sequence[Tensor]) -> tuple[Tensor, list[_Look]]:
    """At all completions of an image at once; features of the image itself too."""
    features = extractor(torch.cat([truth[None], *fillings]), maps=True)
    found, first = [], 1
    for images in fillings:
        rows = slice(first, first + len(images))
        first += len(images)
        maps = [stage[rows] for stage in features.maps]
        real = [stage[:1].expand(len(images), -1, -1, -1) for stage in features.maps]
        diversity = feature_diversity(maps).cpu() if len(images) > 1 else None
        found.append(_Look(features.pooled[rows].cpu(), feature_distance(maps, real).mean().cpu(), diversity))
    return features.pooled[0].cpu(), found


def _measured(
    of: Filled, by: str, images: Tensor, truth: Tensor, looks: Sequence[_Look], others: Tensor | None
) -> Measured:
    hole = ~of.known
    decibels = torch.stack([psnr(_values(one), truth, hole).clamp(max=MOST_DB) for one in images])
    similar = torch.stack([ssim(_values(one), truth, hole) for one in images])
    apart = [look.diversity for look in looks if look.diversity is not None]
    return Measured(
        family=of.family,
        filled_by=by,
        distance=average(torch.stack([look.distance for look in looks])),
        psnr=average(decibels.mean(0)),
        ssim=average(similar.mean(0)),
        kid=_kid(torch.stack([look.pooled for look in looks], 1), others),
        feature_diversity=average(torch.stack(apart)) if apart else None,
        pixel_diversity=average(
            torch.stack([pixel_diversity(_values(images[:, i]), hole[i]) for i in range(len(hole))])
        )
        if apart
        else None,
    )


def _kid(pooled: Tensor, others: Tensor | None) -> Estimate | None:
    """Mean over the first, second … completions of all images, each set by itself: two completions of an image are not
    independent. The error is the mean of theirs, which is somewhat too large."""
    if others is None or min(len(others), pooled.shape[1]) < FEWEST:
        return None
    found = [kernel_distance(features, others) for features in pooled]
    errors = [each.standard_error or 0.0 for each in found]
    return Estimate(sum(each.value for each in found) / len(found), sum(errors) / len(errors))


def _seen(images: Tensor) -> Tensor:
    """As a file of 8 bits holds them."""
    return _values(eight_bits(images))


def _values(pixels: Tensor) -> Tensor:
    """From 0 … 255 to [-1, 1]."""
    return pixels / 127.5 - 1


def _told(images: Tensor, on_image: Callable[[int, int], None]) -> Iterator[Tensor]:
    for i, image in enumerate(images):
        on_image(i, len(images))
        yield image
