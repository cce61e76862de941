"""Precision, recall, density and coverage: their definitions with loops, closed forms, standard errors."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_metrics import _samples, density_coverage, precision_recall
from apd_metrics._neighbours import SPLITS, _halves


def drawn(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(n, d, generator=Generator().manual_seed(seed), dtype=torch.float64)


def values(x: Tensor, y: Tensor, k: int) -> tuple[float, float, float, float]:
    first, second = precision_recall(x, y, k=k), density_coverage(x, y, k=k)
    return first.precision.value, first.recall.value, second.density.value, second.coverage.value


def as_defined(x: list[list[int]], y: list[list[int]], k: int) -> tuple[float, float, float, float]:
    """With loops, in whole numbers: squared distances are exact and so are ties."""
    squared = lambda a, b: sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    mean = lambda of: sum(of) / len(of)

    def radii(points: list[list[int]]) -> list[int]:
        return [sorted(squared(a, b) for j, b in enumerate(points) if i != j)[k - 1] for i, a in enumerate(points)]

    about_y = [[squared(a, b) <= r for b, r in zip(y, radii(y), strict=True)] for a in x]
    about_x = [[squared(a, b) <= r for b, r in zip(x, radii(x), strict=True)] for a in y]
    return (
        mean([any(row) for row in about_y]),
        mean([any(row) for row in about_x]),
        mean([sum(row) for row in about_y]) / k,
        mean([any(column) for column in zip(*about_y, strict=True)]),
    )


points = st.lists(st.lists(st.integers(-4, 4), min_size=2, max_size=2), min_size=8, max_size=14)


@given(points, points, st.integers(1, 3))
def test_is_the_definition(x: list[list[int]], y: list[list[int]], k: int) -> None:
    """With copies and ties, which closed balls hold."""
    found = values(torch.tensor(x).double(), torch.tensor(y).double(), k)
    assert found == pytest.approx(as_defined(x, y, k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_of_a_set_with_itself(k: int) -> None:
    """Each ball holds its centre and k others."""
    x = drawn(40, 8, 0).float()
    assert values(x, x, k) == pytest.approx((1, 1, (k + 1) / k, 1), abs=1e-12)


def test_of_sets_far_apart() -> None:
    found = precision_recall(drawn(30, 4, 0), drawn(40, 4, 1, 100.0))
    assert found.precision.value == found.recall.value == found.precision.standard_error == 0
    near = density_coverage(drawn(30, 4, 0), drawn(40, 4, 1, 100.0))
    assert near.density.value == near.coverage.value == near.coverage.standard_error == 0


def test_copies_lie_in_balls_of_no_radius() -> None:
    """Copies of features of any size and direction, where the distance is rounding."""
    x = (drawn(1, 1000, 0) * 37.3).repeat(9, 1)
    assert values(x[:8], x, 3) == pytest.approx((1, 1, 3, 1))


def test_a_copy_of_the_last_neighbour_lies_in_the_ball() -> None:
    """Its distance is the radius, but for the rounding of products of other sizes."""
    x, k = drawn(300, 1000, 0, 3.0) * 37.3, 3
    nearest = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").argsort(1)[:, : k + 1]  # itself first
    for n in (8, 9, 37, 101):
        expected = int((nearest < n).sum()) / (n * k)
        assert density_coverage(x[:n], x, k=k).density.value == pytest.approx(expected, abs=1e-9)


def test_one_mode_of_two_is_precise_and_not_all() -> None:
    """Generated: half of what is real. Precision high, recall and coverage near a half, density near what it should."""
    real = torch.cat((drawn(100, 3, 0), drawn(100, 3, 1, 50.0)))
    found = values(drawn(200, 3, 2), real, 5)
    assert found[0] > 0.95
    assert 0.45 < found[1] <= 0.5
    assert 0.45 < found[3] <= 0.5


def test_equal_laws_have_the_density_and_coverage_of_theory() -> None:
    """Density 1, and coverage ``1 - Π (n - i) / (n + m - i)``, i from 1 to k, whatever the law (Naeem et al. 2020)."""
    n, m, k = 30, 40, 3
    generator = Generator().manual_seed(0)
    found = []
    for _ in range(150):
        x, y = (torch.randn(size, 2, generator=generator) for size in (m, n))
        near = density_coverage(x, y, k=k)
        found.append((near.density.value, near.coverage.value))
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (n - i) / (n + m - i)
    got = torch.tensor(found)
    error = got.std(0) / 150**0.5
    assert ((got.mean(0) - torch.tensor([1.0, 1 - missed])).abs() < 5 * error).all()


def test_standard_errors_are_of_the_size_of_the_errors() -> None:
    """Over 150 samples; of a ratio of variances of 150 the standard error is about sqrt(2 / 150) = .12."""
    generator = Generator().manual_seed(0)
    found = []
    for _ in range(150):
        x, y = torch.randn(2, 100, 3, generator=generator)
        pr, dc = precision_recall(1.3 * x, y), density_coverage(1.3 * x, y)
        found.append([(of.value, of.standard_error) for of in (pr.precision, pr.recall, dc.density, dc.coverage)])
    table = torch.tensor(found)
    ratios = table[..., 1].square().mean(0) / table[..., 0].var(0)
    assert (ratios > 0.5).all(), ratios
    assert (ratios < 1.6).all(), ratios


@given(st.integers(0, 2**32), st.integers(12, 25), st.integers(12, 25))
def test_exchange_and_order(seed: int, n: int, m: int) -> None:
    """Precision of (x, y) is recall of (y, x); the order of images changes no value."""
    x, y = drawn(n, 2, seed), drawn(m, 2, seed + 1)
    one, other = precision_recall(x, y), precision_recall(y, x)
    assert (one.precision, one.recall) == (other.recall, other.precision)
    generator = Generator().manual_seed(seed)
    mixed = x[torch.randperm(n, generator=generator)], y[torch.randperm(m, generator=generator)]
    assert values(*mixed, 2) == pytest.approx(values(x, y, 2), abs=1e-12)


def test_halves_are_halves() -> None:
    """The standard error is that of the metrics of the halves alone."""
    x, y = drawn(45, 2, 0), drawn(41, 2, 1)
    halves = [(of[mask], of[~mask]) for of in (x, y) for mask in _halves(len(of))[1 : SPLITS + 1]]
    assert {tuple(map(len, pair)) for pair in halves} == {(22, 23), (20, 21)}
    gaps = []
    for (a, b), (c, d) in zip(halves[:SPLITS], halves[SPLITS:], strict=True):
        gaps.append(torch.tensor(values(a, c, 4)).double() - torch.tensor(values(b, d, 4)).double())
    expected = (torch.stack(gaps).square().mean(0) / 4).sqrt().tolist()
    first, second = precision_recall(x, y, k=4), density_coverage(x, y, k=4)
    found = [of.standard_error for of in (first.precision, first.recall, second.density, second.coverage)]
    assert found == pytest.approx(expected, rel=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(45, 2, 0), drawn(60, 2, 1)
    whole = precision_recall(x, y), density_coverage(x, y)
    monkeypatch.setattr(_samples, "BLOCK", 300)
    assert (precision_recall(x, y), density_coverage(x, y)) == whole


def test_what_is_refused() -> None:
    x = drawn(20, 3, 0)
    with pytest.raises(ValueError, match="has k of 1 or more, got 0"):
        precision_recall(x, x, k=0)
    with pytest.raises(ValueError, match="precision and recall needs the features of 8 images or more, got 7"):
        precision_recall(x[:7], x)
    with pytest.raises(ValueError, match="density and coverage needs the features of 22 images or more, got 20"):
        density_coverage(x, x, k=10)
    with pytest.raises(ValueError, match="one extractor"):
        density_coverage(x, x[:, :2])
    for k, n in ((1, 4), (9, 20)):  # as few as allowed
        found = density_coverage(drawn(n, 3, 0), drawn(n, 3, 1), k=k)
        assert found.density.standard_error is not None
        assert found.density.standard_error < 10
