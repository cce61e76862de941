"""The Fréchet distance: torchmetrics' numbers, closed forms of Gaussians, ranks and standard errors."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from apd_metrics import Moments, frechet_distance, moments


def drawn(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    """Correlated features."""
    generator = Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return scale * torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=Generator().manual_seed(seed), dtype=torch.float64))[0]


class AsGiven(torch.nn.Module):
    """Features are their own features."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 16), (12, 40, 24)], ids=["full rank", "rank-deficient"])
def test_is_torchmetrics(n: int, m: int, d: int) -> None:
    x, y = drawn(n, d, 0), drawn(m, d, 1, 1.3)
    metric = FrechetInceptionDistance(feature=AsGiven(d)).set_dtype(torch.float64)
    metric.update(y, real=True)
    metric.update(x, real=False)
    found = frechet_distance(x, y)
    assert found.value == pytest.approx(float(metric.compute()), rel=1e-5)
    assert (found.n_generated, found.n_reference, found.d) == (n, m, d)
    assert found.rank_deficient == (n <= d)


def test_of_commuting_covariances_in_closed_form() -> None:
    """``|mu - mu'|² + |sigma - sigma'|²`` of the standard deviations along common axes, zero ones among them."""
    first, second = torch.tensor([3.0, 0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 2.0, 0.0, 2.5]).double()
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    turn = rotation(4, 0)
    of = lambda mean, deviation: Moments(mean, turn * deviation**2 @ turn.T, None)
    found = frechet_distance(of(shift, first), of(torch.zeros(4).double(), second))
    assert found.value == pytest.approx(float(shift.square().sum() + (first - second).square().sum()), rel=1e-12)
    assert found.standard_error is None
    assert not found.rank_deficient  # nobody knows


def test_of_covariances_that_do_not_commute_in_two_dimensions() -> None:
    """There ``tr sqrt(M) = sqrt(tr M + 2 sqrt(det M))``, M having the eigenvalues of S S'."""
    first = torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double()
    second = torch.tensor([[0.5, -0.3], [-0.3, 3.0]]).double()
    product = first @ second
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    zero = torch.zeros(2).double()
    found = frechet_distance(Moments(zero, first, 100), Moments(zero, second, 100))
    assert found.value == pytest.approx(float(first.trace() + second.trace() - 2 * root), rel=1e-13)


def test_few_images_keep_fourteen_digits() -> None:
    """The trace of the root is the nuclear norm of ``X Y'``, which needs no covariance and no root of rounding."""
    x, y = drawn(20, 200, 0), drawn(30, 200, 1)
    a, b = x - x.mean(0), y - y.mean(0)
    common = torch.linalg.svdvals(a @ b.T).sum() / (19 * 29) ** 0.5
    traces = a.square().sum() / 19 + b.square().sum() / 29
    expected = (x.mean(0) - y.mean(0)).square().sum() + traces - 2 * common
    assert frechet_distance(x, y).value == pytest.approx(float(expected), rel=1e-12)


@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(2, 12), st.integers(1, 6))
def test_invariances(seed: int, n: int, m: int, d: int) -> None:
    """Under rotations, permutations of images and exchange; real and non-negative whatever the ranks."""
    x, y = drawn(n, d, seed), drawn(m, d, seed + 1)
    found = frechet_distance(x, y)
    size = float(x.square().sum() + y.square().sum())
    same = lambda other: other == pytest.approx(found.value, rel=1e-8, abs=1e-9 * size)
    assert found.value >= 0
    assert same(frechet_distance(y, x).value)
    assert same(frechet_distance(x @ rotation(d, seed), y @ rotation(d, seed)).value)
    assert same(frechet_distance(x[torch.randperm(n, generator=Generator().manual_seed(seed))], y).value)
    assert same(frechet_distance(moments(x), moments(y)).value)
    assert 0 <= frechet_distance(x, x).value <= 1e-10 * size


def test_standard_error_is_from_the_derivative_by_each_image() -> None:
    """Against central differences: a little more weight on an image moves the mean and the covariance towards it."""
    skew = torch.randn(70, 4, generator=Generator().manual_seed(0), dtype=torch.float64).mul(0.4).exp()
    x, y = skew[:40] + 1, 2 * skew[40:]

    def more_of(one: Tensor, of: Moments, weight: float) -> Moments:
        away = one - of.mean
        return Moments(
            of.mean + weight * away, of.covariance + weight * (torch.outer(away, away) - of.covariance), None
        )

    def spread(images: Tensor, other: Moments) -> float:
        own = moments(images)
        value = lambda one, weight: frechet_distance(more_of(one, own, weight), other).value
        slopes = [(value(one, 1e-5) - value(one, -1e-5)) / 2e-5 for one in images]
        return float(torch.tensor(slopes, dtype=torch.float64).var()) / len(images)

    of_x, of_y = spread(x, moments(y)), spread(y, moments(x))
    assert frechet_distance(x, moments(y)).standard_error == pytest.approx(of_x**0.5, rel=1e-6)
    assert frechet_distance(x, y).standard_error == pytest.approx((of_x + of_y) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(200, 6), (12, 16)], ids=["full rank", "rank-deficient"])
def test_standard_errors_are_of_the_size_of_the_errors(n: int, d: int) -> None:
    """Over 200 samples; a ratio of variances has a standard error of about sqrt(2 / 200) = .1."""
    generator = Generator().manual_seed(0)
    scale = torch.linspace(2, 0.2, d).double()
    found = []
    for _ in range(200):
        x, y = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
        found.append(frechet_distance(2 * scale * x + 0.5, scale * y))
    variance = torch.tensor([distance.value for distance in found]).var()
    estimate = torch.tensor([distance.standard_error for distance in found]).square().mean()
    assert 0.5 < variance / estimate < 1.5


def test_what_is_refused() -> None:
    x = drawn(10, 3, 0)
    with pytest.raises(ValueError, match="a covariance needs the features of 2 images or more, got 1"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match="one extractor, got 3 and 2 dimensions"):
        frechet_distance(x, x[:, :2])
    with pytest.raises(ValueError, match="finite numbers: image 0"):
        moments(x / 0)
