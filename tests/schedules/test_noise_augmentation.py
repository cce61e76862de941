"""Weighted losses as likelihoods of noise-augmented data (Kingma & Gao 2023, arXiv:2303.00848), asynchronously.

For a weight that is one number for the whole map, the result carries over; for a weight of each token's own level it
does not, and only a sandwich is left. Exact denoisers of normal data, by quadrature.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from apd_schedules import Linear, Path, sequential, synchronous
from oracles import covariance, gain, information, line_integral, mean_errors

N = 3
COV = covariance(N, 8)
SCHEDULE = Linear(12.0, -12.0)
ERRORS = mean_errors(gain(COV), COV)
OFFSETS = torch.tensor([-0.8, 0.1, 0.9], dtype=torch.float64)
QUAD: Path = lambda s: s[..., None, None] + (s * (1 - s))[..., None, None] * OFFSETS[:, None]
TENT: Path = lambda s: s[..., None, None] + torch.minimum(s, 1 - s)[..., None, None] * OFFSETS[:, None]
PATHS = {
    "synchronous": (synchronous(N), []),
    "quad": (QUAD, []),
    "tent": (TENT, [0.5]),
    "sequential": (sequential(torch.arange(N)), [1 / 3, 2 / 3]),
}
Weight = Callable[[Tensor, Tensor], Tensor]
rise = lambda level: torch.sigmoid(6 * level - 3) / torch.sigmoid(torch.tensor(3.0).double())  # 1 at pure noise
SCALAR: dict[str, Weight] = {
    "of the mean level": lambda u, level: rise(level.mean(-2, keepdim=True)).expand_as(level),
    "mean of the levels'": lambda u, level: rise(level).mean(-2, keepdim=True).expand_as(level),
    "of the place": lambda u, level: rise(u)[:, None, None].expand_as(level),
}


def noisy_data_nats(path: Path, u: Tensor) -> Tensor:
    """The bound of data noised to the map at ``u``, less the prior: I(x; z_u) - I(x; z_1)."""
    log_snr = SCHEDULE(path(u))[..., 0]
    return information(COV, log_snr) - information(COV, SCHEDULE(torch.ones(N, dtype=torch.float64)))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("weight", SCALAR.values(), ids=SCALAR.keys())
def test_a_weight_of_the_whole_map_averages_bounds_of_noised_data(name: str, weight: Weight) -> None:
    """J_W = W(0) l(0) + ∫ l dW, with l of the closed form."""
    path, kinks = PATHS[name]
    found = line_integral(ERRORS, path, SCHEDULE, kinks, weight)
    # The right side by quadrature in pieces, Gauss-Legendre in each.
    nodes, weights = legendre(60)
    edges = [0.0, *kinks, 1.0]
    total = 0.0
    for a, b in itertools.pairwise(edges):
        u = a + (b - a) * (nodes + 1) / 2
        scalar = lambda u, path=path: weight(u, path(u))[:, 0, 0]
        slope = torch.func.jvp(scalar, (u,), (torch.ones_like(u),))[1]
        total += float((noisy_data_nats(path, u) * slope * weights).sum()) * (b - a) / 2
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    at_clean, at_noise = weight(ends, path(ends))[:, 0, 0].tolist()
    assert at_noise == pytest.approx(1.0)
    assert found == pytest.approx(at_clean * float(noisy_data_nats(path, ends[:1])) + total, rel=1e-9)


def legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] (Golub & Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0].square()


@pytest.mark.parametrize("name", ["quad", "tent", "sequential"])
def test_a_weight_of_each_token_is_only_sandwiched(name: str) -> None:
    """Between the scalar weights of the cleanest and of the noisiest token; and below what equal levels give, so it is
    not the bound of homogeneously noised data."""
    path, kinks = PATHS[name]
    of = lambda weight: line_integral(ERRORS, path, SCHEDULE, kinks, weight)
    own = of(lambda u, level: rise(level))
    cleanest = of(lambda u, level: rise(level.amin(-2, keepdim=True)).expand_as(level))
    noisiest = of(lambda u, level: rise(level.amax(-2, keepdim=True)).expand_as(level))
    assert cleanest < own < noisiest
    homogeneous = line_integral(ERRORS, synchronous(N), SCHEDULE, [], lambda u, level: rise(level))
    assert own < homogeneous - 1e-3
