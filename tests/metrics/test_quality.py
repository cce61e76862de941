"""All metrics of a set with their floors, what they are called, and how they are printed and kept."""

import json

import pytest
import torch
from torch import Generator, Tensor

from apd_metrics import (
    Estimate,
    Score,
    density_coverage,
    frechet_distance,
    kernel_distance,
    metric_name,
    moments,
    precision_recall,
    quality,
    split,
)

ALL = ("kid", "fd", "precision", "recall", "density", "coverage")


def drawn(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(n, d, generator=Generator().manual_seed(seed))


def values(x: Tensor, y: Tensor) -> list[tuple[float, float | None]]:
    distance, shares, near = frechet_distance(x, y), precision_recall(x, y), density_coverage(x, y)
    found = (kernel_distance(x, y), distance, shares.precision, shares.recall, near.density, near.coverage)
    return [(of.value, of.standard_error) for of in found]


def test_each_metric_is_itself_beside_its_floor() -> None:
    x, y = drawn(30, 4, 0, 0.5), drawn(80, 4, 1)
    scores = quality(x, y, extractor="some", generator=Generator().manual_seed(5), taken_with={"seed": 3})
    assert [(score.value, score.standard_error) for score in scores] == values(x, y)
    some, others = split(y, 30, generator=Generator().manual_seed(5))
    floors = [score.floor for score in scores]
    assert [(floor.value, floor.standard_error) for floor in floors if floor] == values(some, others)
    assert [score.name for score in scores] == [metric_name(metric, "some", 30) for metric in ALL]
    told = {"extractor": "some", "reference_images": 80, "floor_generated": 30, "floor_reference": 50, "seed": 3}
    assert all(score.taken_with == told and score.n == 30 and score.note == "" for score in scores)


def test_some_metrics_in_the_order_asked_for() -> None:
    x, y = drawn(30, 4, 0), drawn(80, 4, 1)
    scores = quality(x, y, extractor="some", generator=Generator(), metrics=("coverage", "kid"))
    assert [score.name for score in scores] == ["Coverage-some@30", "KID-some@30"]
    assert scores[1].value == kernel_distance(x, y).value


def test_fewer_real_than_generated_images_are_halved_for_the_floor() -> None:
    (score,) = quality(drawn(60, 4, 0), drawn(51, 4, 1), extractor="some", generator=Generator(), metrics=("fd",))
    assert (score.taken_with["floor_generated"], score.taken_with["floor_reference"]) == (25, 26)
    bare = {"extractor": "some", "generator": Generator(), "metrics": ("fd",), "floors": False}
    assert quality(drawn(60, 4, 0), drawn(51, 4, 1), **bare)[0].floor is None
    assert quality(drawn(60, 4, 0), drawn(51, 4, 1), **bare)[0].value == score.value
    (score,) = quality(drawn(60, 4, 0), drawn(23, 4, 1), extractor="some", generator=Generator(), metrics=("fd",))
    assert score.floor is None


def test_of_moments_there_is_one_metric_without_a_floor() -> None:
    x, y = drawn(30, 4, 0), drawn(80, 4, 1)
    (score,) = quality(x, moments(y), extractor="some", generator=Generator(), metrics=("fd",))
    assert score.value == pytest.approx(frechet_distance(x, y).value)
    assert score.floor is None
    assert score.taken_with == {"extractor": "some", "reference_images": 80}
    with pytest.raises(ValueError, match="of moments alone there is only fd: kid, recall needs"):
        quality(x, moments(y), extractor="some", generator=Generator(), metrics=("fd", "kid", "recall"))


def test_too_few_images_for_the_frechet_distance_are_noted() -> None:
    for n, m, d, noted in ((20, 80, 20, True), (21, 80, 20, False), (80, 24, 24, True)):
        fd, kid = quality(drawn(n, d, 0), drawn(m, d, 1), extractor="s", generator=Generator(), metrics=("fd", "kid"))
        assert (f"no more images than the {d} dimensions" in fd.note) == noted
        assert kid.note == ""


def test_only_inception_has_a_fid() -> None:
    assert metric_name("fd", "inception", 50_000) == "FID@50000"
    assert metric_name("kid", "inception", 500) == "KID@500"
    assert metric_name("precision", "inception", 500) == "Precision-inception@500"
    assert metric_name("fd", "efficientnet-lite0-224", 500) == "FD-efficientnet-lite0-224@500"
    assert metric_name("kid", "inception-unverified-0123abcd", 500) == "KID-inception-unverified-0123abcd@500"
    for extractor in ("efficientnet-lite0-224", "dinov2-vit-l-14", "inception-unverified-0123abcd", "Inception", ""):
        assert not any(metric_name(metric, extractor, 5).startswith(("FID", "KID@")) for metric in ALL)
    with pytest.raises(ValueError, match="one of kid, fd, precision, recall, density, coverage, got 'fid'"):
        metric_name("fid", "inception", 500)


def test_scores_print_and_keep() -> None:
    score = Score(
        name="FD-some@500",
        value=131.6123,
        standard_error=2.345,
        floor=Estimate(120.0, 1.2),
        n=500,
        note="careful",
        taken_with={"seed": 1},
    )
    assert str(score) == "FD-some@500 131.6 ± 2.3 (real against real 120 ± 1.2); careful"
    kept = json.loads(json.dumps(score.to_dict()))
    assert kept["floor"] == {"value": 120.0, "standard_error": 1.2}
    assert Score(**kept | {"floor": Estimate(**kept["floor"])}) == score
    assert str(Score(name="KID@5", value=0.1, n=5)) == "KID@5 0.1"


def test_a_split_has_every_image_once_and_is_seeded() -> None:
    features = torch.arange(11.0)[:, None]
    some, others = split(features, generator=Generator().manual_seed(0))
    assert (len(some), len(others)) == (5, 6)
    assert torch.cat((some, others)).flatten().sort().values.tolist() == features.flatten().tolist()
    assert torch.equal(some, split(features, generator=Generator().manual_seed(0))[0])
    assert not torch.equal(some, split(features, generator=Generator().manual_seed(1))[0])
    assert len(split(features, 2, generator=Generator())[0]) == 2
    for size in (0, 11, -1):
        with pytest.raises(ValueError, match=f"11 images cannot be split into {size} and the others"):
            split(features, size, generator=Generator())


def test_worse_images_have_worse_scores() -> None:
    """Further and further from the real ones: distances grow, the others fall."""
    reference = drawn(200, 6, 0)
    ladder = [
        quality(drawn(100, 6, 1, shift), reference, extractor="s", generator=Generator())
        for shift in (0.0, 0.9, 1.8, 4.0)
    ]
    for metric, rows in zip(ALL, zip(*ladder, strict=True), strict=True):
        found = [score.value for score in rows]
        assert found == sorted(found, reverse=metric not in ("kid", "fd")), metric
