"""The kernel distance: torchmetrics' numbers, and exact means and variances over all samples of small laws."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor
from torchmetrics.image.kid import KernelInceptionDistance

from apd_metrics import _samples, kernel_distance, kernel_distance_of_subsets
from apd_metrics._kernel_distance import _components, _kernel


def drawn(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return shift + scale * torch.randn(n, d, generator=Generator().manual_seed(seed), dtype=torch.float64)


def as_defined(x: Tensor, y: Tensor) -> float:
    """The U-statistic, with loops."""
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3
    mean = lambda values: sum(values) / len(values)
    within = lambda z: mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
    return within(x) + within(y) - 2 * mean([k(a, b) for a in x for b in y])


def torchmetrics_kid(x: Tensor, y: Tensor, subsets: int, subset_size: int, seed: int) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it keeps all features
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=subsets, subset_size=subset_size)
    metric.update(y, real=True)
    metric.update(x, real=False)
    torch.manual_seed(seed)
    mean, deviation = metric.compute()
    return float(mean), float(deviation)


def test_over_all_pairs_it_is_the_u_statistic() -> None:
    x, y = drawn(7, 3, 0), drawn(5, 3, 1, 1.5, 0.3)
    assert kernel_distance(x, y).value == pytest.approx(as_defined(x, y), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_subsets_it_is_torchmetrics(dtype: torch.dtype) -> None:
    x, y = drawn(90, 16, 0, 1.2).to(dtype), drawn(70, 16, 1).to(dtype)
    found = kernel_distance_of_subsets(x, y, subsets=12, subset_size=40, generator=Generator().manual_seed(3))
    mean, deviation = torchmetrics_kid(x.double(), y.double(), 12, 40, 3)
    assert (found.mean, found.deviation) == pytest.approx((mean, deviation), rel=1e-5)


def test_one_subset_of_all_is_the_distance_over_all_pairs() -> None:
    x, y = drawn(30, 4, 0), drawn(30, 4, 1)
    found = kernel_distance_of_subsets(x, y, subsets=1, subset_size=30, generator=Generator())
    assert (found.mean, found.deviation) == pytest.approx((kernel_distance(x, y).value, 0), rel=1e-12)


SUPPORT = torch.tensor([[1.0, 0.5], [-1.0, 2.0], [0.5, -1.5]], dtype=torch.float64)
P, Q = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)


def samples_of(law: Tensor, n: int) -> list[tuple[float, Tensor]]:
    """Every sample of n points of the support, in whatever order, with its probability."""
    found = []
    for counts in itertools.product(range(n + 1), repeat=3):
        if sum(counts) == n:
            ways = math.factorial(n) / math.prod(math.factorial(count) for count in counts)
            chance = ways * math.prod(float(p) ** count for p, count in zip(law, counts, strict=True))
            found.append((chance, SUPPORT.repeat_interleave(torch.tensor(counts), 0)))
    return found


@pytest.mark.parametrize("other", [Q, P], ids=["other law", "same law"])
def test_distance_and_its_variance_are_unbiased(other: Tensor) -> None:
    """Over all samples of 4 and 5 points, to rounding; the variance before its parts are kept from below zero."""
    outcomes = [(p * q, _components(x, y)) for p, x in samples_of(P, 4) for q, y in samples_of(other, 5)]
    assert sum(chance for chance, _ in outcomes) == pytest.approx(1)
    k = _kernel(SUPPORT, SUPPORT)
    mean = sum(chance * parts.value for chance, parts in outcomes)
    assert mean == pytest.approx(float((P - other) @ k @ (P - other)), abs=1e-11)
    variance = sum(chance * (parts.value - mean) ** 2 for chance, parts in outcomes)
    estimate = sum(
        chance * (parts.second_order() + 4 * parts.first_x / 4 + 4 * parts.first_y / 5) for chance, parts in outcomes
    )
    assert variance == pytest.approx(estimate, rel=1e-10)
    if other is P:  # second order is all there is
        assert sum(chance * parts.second_order() for chance, parts in outcomes) == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.35), (0.4, 0.65)])
def test_standard_errors_are_of_the_size_of_the_errors(shift: float, least: float) -> None:
    """Squared errors of 400 samples over squared standard errors are 1 on average; for equal laws, a half or more.

    The mean of 400 squares of normal errors has a standard error of sqrt(2 / 400) = .07.
    """
    generator = Generator().manual_seed(0)
    values, squares = [], []
    for _ in range(400):
        x, y = (torch.randn(n, 1, generator=generator, dtype=torch.float64) for n in (60, 90))
        found = kernel_distance(x + shift, y)
        assert found.standard_error is not None
        values.append(found.value)
        squares.append(found.standard_error**2)
    # Moments of N(a, 1): a, a² + 1, a³ + 3a; the kernel is 1 + 3xy + 3x²y² + x³y³.
    truth = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    errors = (torch.tensor(values) - truth).square().mean()
    estimate = torch.tensor(squares).mean()
    assert abs(torch.tensor(values).mean() - truth) < 5 * (errors / 400).sqrt()
    assert least < errors / estimate < 1.35


@given(st.integers(0, 2**32), st.integers(4, 9), st.integers(4, 9))
def test_order_of_images_and_of_sets_does_not_matter(seed: int, n: int, m: int) -> None:
    x, y = drawn(n, 3, seed), drawn(m, 3, seed + 1, 2.0)
    generator = Generator().manual_seed(seed)
    found = kernel_distance(x, y)
    mixed = kernel_distance(x[torch.randperm(n, generator=generator)], y[torch.randperm(m, generator=generator)])
    turned = kernel_distance(y, x)
    for other in (mixed, turned):
        assert other.value == pytest.approx(found.value, rel=1e-9, abs=1e-9)
        assert other.standard_error == pytest.approx(found.standard_error, rel=1e-6, abs=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = drawn(23, 3, 0), drawn(31, 3, 1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(_samples, "BLOCK", 100)
    assert len(_samples.row_blocks(23, 31)) == 8
    parts = kernel_distance(x, y)
    assert (parts.value, parts.standard_error) == pytest.approx((whole.value, whole.standard_error), rel=1e-10)


def test_what_is_refused() -> None:
    x = drawn(10, 3, 0)
    with pytest.raises(ValueError, match="needs the features of 4 images or more, got 3"):
        kernel_distance(x[:3], x)
    with pytest.raises(ValueError, match="one extractor, got 3 and 2 dimensions"):
        kernel_distance(x, x[:, :2])
    with pytest.raises(ValueError, match="finite numbers: image 4 has one"):
        kernel_distance(x, torch.where(torch.arange(10)[:, None] == 4, torch.nan, x))
    for subsets, size in ((0, 5), (5, 1), (5, 11)):
        with pytest.raises(ValueError, match=f"of 2 to 10 images .* got {subsets} of {size}"):
            kernel_distance_of_subsets(x, x, subsets=subsets, subset_size=size, generator=Generator())
