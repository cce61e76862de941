"""Worse images are further away: the kernel distance of EfficientNet's features along a ladder of damage."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Generator, Tensor

from apd_metrics import Estimate, efficientnet_lite0, extract, kernel_distance
from apd_models import Patchify


def crops(side: int, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two sets of squares of scikit-learn's two photographs, from places drawn at random."""
    photographs = [torch.tensor(image).permute(2, 0, 1) / 127.5 - 1 for image in load_sample_images().images]
    places = torch.rand(2 * count, 2, generator=generator).tolist()
    squares = []
    for i, place in enumerate(places):
        image = photographs[i % 2]
        top, left = (int(share * (length - side)) for share, length in zip(place, image.shape[1:], strict=True))
        squares.append(image[:, top : top + side, left : left + side])
    first, second = torch.stack(squares).split(count)
    return first, second


def damages(images: Tensor, generator: Generator) -> dict[str, Tensor]:
    """From none to all, each done to the same images."""
    side = images.shape[-1]
    noise = torch.randn(images.shape, generator=generator)
    patchify = Patchify(side, side, 3, side // 4)
    order = torch.rand(len(images), patchify.tokens, generator=generator).argsort(1)[..., None]
    tokens = patchify.to_tokens(images)
    return {
        "none": images,
        "blur, 3×3": F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1),
        "noise, 10 grey levels": images + noise * 10 / 127.5,
        "noise, 30 grey levels": images + noise * 30 / 127.5,
        "16 patches shuffled": patchify.to_images(tokens.gather(1, order.expand_as(tokens))),
        "nothing but noise": torch.rand(images.shape, generator=generator) * 2 - 1,
    }


def distances(side: int, count: int) -> dict[str, Estimate]:
    """Of damaged crops of 128 pixels from other, intact ones."""
    generator = Generator().manual_seed(0)
    extractor = efficientnet_lite0(side)
    images, reference = crops(128, count, generator)
    features = extract(extractor, reference.split(32))
    return {
        name: kernel_distance(extract(extractor, damaged.split(32)), features)
        for name, damaged in damages(images, generator).items()
    }


def check_none(found: dict[str, Estimate]) -> None:
    none = found["none"]
    assert none.standard_error is not None
    assert abs(none.value) < 5 * none.standard_error


def test_every_step_of_damage_is_further_away() -> None:
    found = distances(side=128, count=60)
    values = [distance.value for distance in found.values()]
    assert values == sorted(set(values)), found
    check_none(found)


@pytest.mark.slow
def test_every_step_of_damage_is_further_away_at_full_size() -> None:
    """Enlarged to the 224 pixels that the network was trained at, crops suffer more from the blur than from the lesser
    noise: which of the two is worse is a matter of scale, and all else stays in order."""
    found = distances(side=224, count=100)
    blur = found.pop("blur, 3×3").value
    values = [distance.value for distance in found.values()]
    assert values == sorted(set(values)), found
    assert found["none"].value < blur < found["noise, 30 grey levels"].value
    check_none(found)
