"""The networks, held to numbers of other implementations, and to what is on two photographs.

Expected numbers are :func:`feature_weights.summary` of features by timm (EfficientNet-Lite0, with the real weights),
torch-fidelity (Inception) and the authors' code (DINOv2), with frozen weights and images.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from apd_metrics import Extractor, dinov2, efficientnet_lite0, inception
from apd_metrics._dinov2 import DINOv2, positions_at
from apd_metrics._inception import Inception
from feature_weights import frozen_image, frozen_weights, summary

SIZES = ((32, 32), (299, 299), (200, 333))
EFFICIENTNET = {
    224: (
        (7.39406, -2.3186, 7.1084, 12.22732, 17.80165),
        (0.2221, 2.49975, 12.09372, 3.39486, 13.16754),
        (-4.89244, 9.10512, 9.97584, -0.24713, 13.29452),
    ),
    128: (
        (12.30192, 6.5994, 19.4539, 10.38054, 22.23514),
        (-4.98081, 4.39658, 9.45657, 3.59742, 9.44742),
        (1.65793, 8.35836, 18.74614, -0.69079, 11.02165),
    ),
    97: (  # odd before every halving
        (-2.95978, 9.04414, 7.07866, 13.26033, 13.33354),
        (-3.40745, 3.83255, 2.16926, 0.44993, 9.18426),
        (4.24324, 5.36063, 7.62516, 4.42378, 9.90656),
    ),
}
INCEPTION = (
    (-4.90264, 1.83062, -6.18012, 9.4019, 12.71468),
    (-6.20001, -0.29189, -7.78187, 13.02107, 13.64847),
    (-2.51922, -1.0229, -7.3802, 10.62358, 13.11371),
)
DINOV2 = (
    (-10.06932, 5.00486, -1.28338, 6.88318, 11.83722),
    (-9.43227, 4.43074, -0.79454, 7.23283, 12.01428),
    (-4.28253, -0.41812, 1.33958, 3.03361, 11.79935),
)


def check(extractor: Extractor, expected: tuple[tuple[float, ...], ...]) -> None:
    for size, numbers in zip(SIZES, expected, strict=True):
        features = extractor(frozen_image(*size))
        assert features.pooled.shape == (1, extractor.dims)
        assert summary(features.pooled) == pytest.approx(numbers, abs=1e-4 * numbers[-1])


def check_maps(extractor: Extractor, shapes: Sequence[tuple[int, ...]], expected: tuple[float, ...]) -> None:
    """The numbers are of the means of all maps over space, one after another."""
    maps = extractor(frozen_image(*SIZES[-1]), maps=True).maps
    assert [tuple(stage.shape[1:]) for stage in maps] == shapes
    means = torch.cat([stage.mean((2, 3)) for stage in maps], 1)
    assert summary(means) == pytest.approx(expected, abs=1e-4 * expected[-1])


def layout(state: dict[str, Tensor]) -> str:
    """Digest of names and shapes in their order."""
    text = "".join(f"{name} {tuple(tensor.shape)}\n" for name, tensor in state.items())
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("side", EFFICIENTNET)
def test_efficientnet_lite0(side: int) -> None:
    extractor = efficientnet_lite0(side)
    assert (extractor.name, extractor.size) == (f"efficientnet-lite0-{side}", side)
    check(extractor, EFFICIENTNET[side])


def test_maps_of_efficientnet() -> None:
    shapes = [(16, 64, 64), (24, 32, 32), (40, 16, 16), (112, 8, 8), (320, 4, 4)]
    check_maps(efficientnet_lite0(128), shapes, (34.10711, 40.96758, -6.84471, -83.75179, 56.03539))


def test_efficientnet_has_a_least_side() -> None:
    efficientnet_lite0(32)(frozen_image(8, 8))
    with pytest.raises(ValueError, match="at least 32 pixels, got 31"):
        efficientnet_lite0(31)


def square(photograph: int) -> Tensor:
    """The middle square of one of scikit-learn's photographs, 0 of the Summer Palace in Beijing and 1 of a dahlia."""
    image = torch.tensor(load_sample_images().images[photograph]).permute(2, 0, 1)[None]
    left = (image.shape[3] - image.shape[2]) // 2
    return image[..., left : left + image.shape[2]]


@pytest.mark.parametrize(("photograph", "label"), [(0, 698), (1, 985)], ids=["palace", "daisy"])
def test_photographs_are_recognised(photograph: int, label: int) -> None:
    """As "palace" and "daisy", the nearest of the 1,000 classes: there is none of pagodas or of dahlias."""
    extractor = efficientnet_lite0()
    classes = extractor.network.get_submodule("classes")
    assert classes(extractor(square(photograph)).pooled).argmax().item() == label


def test_inception(tmp_path: Path) -> None:
    with torch.device("meta"):
        ours = {name: x for name, x in Inception().state_dict().items() if not name.endswith("num_batches_tracked")}
    names = [
        re.sub(r"(branch\w+)\.(\d)\.(?:([ab])\.)?", lambda m: f"{m[1]}_{int(m[2]) + 1}{m[3] or ''}.", name)
        for name in ours
    ]
    state = frozen_weights(dict(zip(names, ours.values(), strict=True)), seed=1)
    assert layout(state) == "c3474a26d2c50b2baa6924e25020aaa662bc61eb4aa89bec4a174198fe61ccaa"  # torch-fidelity's
    torch.save(state, tmp_path / "weights.pth")
    extractor = inception(tmp_path / "weights.pth")
    check(extractor, INCEPTION)
    shapes = [(64, 73, 73), (192, 35, 35), (768, 17, 17), (2048, 8, 8)]
    check_maps(extractor, shapes, (0.66091, 1.65253, -10.61099, 6.94962, 18.93778))


def test_dinov2(tmp_path: Path) -> None:
    """Two heads of 64, eight blocks, 37×37 positions as in the published files."""
    with torch.device("meta"):
        state = frozen_weights(DINOv2(128, 8, 37**2 + 1).state_dict(), seed=2)
    assert layout(state) == "51346ea9fb23f8f3a3be8c4a663f95224b480e19e08f64742816abe20478159a"  # the authors'
    torch.save(state, tmp_path / "weights.pth")
    extractor = dinov2(tmp_path / "weights.pth")
    check(extractor, DINOV2)
    check_maps(extractor, [(128, 16, 16)] * 4, (-13.18322, -51.96914, -211.76844, 5.10602, 80.55761))


def test_positions_of_the_same_grid_are_left_alone() -> None:
    """Looking them up at places of a grid of 16.1 a side would change them."""
    embedding = torch.rand(1, 16**2 + 1, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(positions_at(16, embedding), embedding)
    assert torch.equal(positions_at(12, embedding)[:, 0], embedding[:, 0])
