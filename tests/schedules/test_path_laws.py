"""Laws of paths: monotone, velocities of their levels, and the flux of a likelihood bound."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from apd_schedules import (
    Levels,
    PathLaw,
    autoregressive_law,
    beta_law,
    correlated_offsets,
    flux,
    independent_offsets,
    law_of,
    logit_shift_law,
    mixture_law,
    path_law,
    probit_law,
    quad_law,
    shared_law,
    split_law,
    staggered,
    synchronous,
    tent_law,
    tilt_law,
    two_level_law,
    walk_law,
    window_law,
)

Make = Callable[[int], PathLaw]
LAWS: dict[str, Make] = {
    "shared": shared_law,
    "quad": lambda n: quad_law(independent_offsets(n)),
    "quad, exact": lambda n: quad_law(independent_offsets(n), 0.8, exact=True),
    "quad, correlated": lambda n: quad_law(correlated_offsets((1, n), 1.0)),
    "tent": lambda n: tent_law(independent_offsets(n)),
    "tent, exact": lambda n: tent_law(independent_offsets(n), exact=True),
    "logit shift": lambda n: logit_shift_law(independent_offsets(n)),
    "window": lambda n: window_law(independent_offsets(n)),
    "probit": lambda n: probit_law(independent_offsets(n)),
    "beta": lambda n: beta_law(independent_offsets(n)),
    "tilt": lambda n: tilt_law(independent_offsets(n)),
    "split": split_law,
    "split, in order": lambda n: split_law(n, 2.0, shuffle=False),
    "autoregressive": lambda n: autoregressive_law(torch.arange(n)),
    "autoregressive, shuffled": lambda n: autoregressive_law(torch.arange(n) // 2, shuffle=True),
    "two level": lambda n: two_level_law(lambda b, g: torch.rand(b, n, 1, generator=g) < 0.5),
    "walk": walk_law,
    "staggered": lambda n: path_law(staggered(torch.arange(n), 0.4)),
    "mixture": lambda n: mixture_law(
        [(1.0, quad_law(independent_offsets(n))), (2.0, autoregressive_law(torch.arange(n), True)), (0.5, walk_law(n))]
    ),
}
each_law = pytest.mark.parametrize("make", LAWS.values(), ids=LAWS.keys())


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def points(law: PathLaw, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``u`` away from the ends, and offsets."""
    g = generator(seed)
    return torch.rand(count, generator=g, dtype=torch.float64) * 0.998 + 0.001, law.draw(count, g)


@each_law
@pytest.mark.parametrize("n", [1, 2, 5])
def test_from_all_clean_to_all_noise_and_never_back(make: Make, n: int) -> None:
    law = make(n)
    offsets = law.draw(50, generator(1))
    places = torch.linspace(0, 1, 17, dtype=torch.float64).repeat_interleave(50)
    way = law.at(places, offsets.repeat(17, *[1] * (offsets.dim() - 1))).level.unflatten(0, (17, 50))
    assert way.shape == (17, 50, n, 1)
    assert (way[0] == 0).all()
    assert (way[-1] == 1).all()
    assert (way.diff(dim=0) >= -1e-12).all()


@pytest.mark.parametrize("name", [name for name in LAWS if name not in ("walk", "mixture")])
def test_velocity_is_the_derivative_of_the_level(name: str) -> None:
    """By central differences, to 1e-5. (A walk's is a mean over paths: the flux test speaks of it.)"""
    law = LAWS[name](5)
    u, offsets = points(law, 400)
    step = 1e-6
    slope = (law.at(u + step, offsets).level - law.at(u - step, offsets).level) / (2 * step)
    found = law.at(u, offsets).velocity
    assert (found >= -1e-12).all()
    agree = (slope - found).abs() <= 1e-5 * (1 + found.abs())
    assert agree.double().mean() > 0.999  # at a kink the difference is of neither side


@each_law
def test_mean_velocity_is_one(make: Make) -> None:
    """Every token has to cross: E dt/du = 1. Five standard errors, seed fixed."""
    law = make(4)
    count = 20_000 if make is LAWS["beta"] else 100_000
    g = generator(2)
    offsets = law.draw(count, g)
    velocity = law.at(torch.rand(count, generator=g, dtype=torch.float64), offsets).velocity[..., 0]
    assert ((velocity.mean(0) - 1).abs() < 5 * velocity.std(0) / count**0.5 + 1e-12).all()


@each_law
@pytest.mark.parametrize("n", [2, 5, pytest.param(16, marks=pytest.mark.slow)])
def test_flux_is_that_of_a_bound(make: Make, n: int) -> None:
    assert flux(make(n), 20_000 if make is LAWS["beta"] else 200_000, seed=n).is_bound


@pytest.mark.parametrize("n", [2, 5, 16])
def test_independent_levels_with_the_ordinary_weight_are_no_bound(n: int) -> None:
    """Their flux enters through all lower faces of the cube and not at its clean corner."""

    def naive(batch: int, g: Generator) -> Levels:
        level = torch.rand(batch, n, 1, generator=g, dtype=torch.float64)
        return Levels(level, torch.ones_like(level))

    found = flux(naive, seed=n)
    assert not found.is_bound
    assert max(map(abs, found.z.values())) > 100
    assert found.found["first² · second"] == pytest.approx(5 / 6, abs=5 * found.standard_error["first² · second"])
    assert "not a likelihood bound" in str(found)


@pytest.mark.parametrize("name", ["quad", "tent", "window", "logit shift", "split", "autoregressive, shuffled"])
def test_controlled_levels_with_the_ordinary_weight_are_no_bound(name: str) -> None:
    law = LAWS[name](5)

    def unweighted(batch: int, g: Generator) -> Levels:
        offsets = law.draw(batch, g)
        level = law.at(torch.rand(batch, generator=g, dtype=torch.float64), offsets).level
        return Levels(level, torch.ones_like(level))

    assert not flux(unweighted).is_bound


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (quad_law(independent_offsets(3), 0.7), 1 + 0.7**2 / 9),
        (tent_law(independent_offsets(3), 0.7), 1 + 0.7**2 / 3),
        (window_law(independent_offsets(5), 1.0), 1 + 4 / 6),  # E R, R = 1 + the range of five uniforms
        (autoregressive_law(torch.arange(6), True), 6.0),
        (probit_law(independent_offsets(3), 0.95), 0.95 / math.sqrt(4 * 0.95 - 3)),
        (logit_shift_law(independent_offsets(3), 0.5, clip=8.0), None),
    ],
    ids=["quad", "tent", "window", "autoregressive", "probit", "logit shift"],
)
def test_second_moment_of_the_velocity(law: PathLaw, expected: float | None) -> None:
    """What the estimate's variance pays for asynchrony. Five standard errors, seed fixed."""
    g, count = generator(3), 400_000
    offsets = law.draw(count, g)
    square = law.at(torch.rand(count, generator=g, dtype=torch.float64), offsets).velocity.square().mean((1, 2))
    if expected is None:  # E over u of (e^o / (1 - u + u e^o)²)² is (e^-o + 1 + e^o) / 3
        shift = offsets.log()
        expected = float(((shift.exp() + 1 + (-shift).exp()) / 3).mean())
    assert abs(square.mean() - expected) < 5 * square.std() / count**0.5 + 1e-9


@pytest.mark.parametrize("kappa", [0.5, 1.0])
@pytest.mark.parametrize("kind", [quad_law, tent_law])
def test_exact_control_of_every_map(kind: Callable[..., PathLaw], kappa: float) -> None:
    """Mean level u, the stated standard deviation, levels in [0, 1], velocities that sum to the tokens."""
    law = kind(independent_offsets(7), kappa, exact=True)
    u, offsets = points(law, 500)
    found = law.at(u, offsets)
    level, velocity = found.level[..., 0], found.velocity[..., 0]
    torch.testing.assert_close(level.mean(1), u, rtol=0, atol=1e-12)
    profile = u * (1 - u) if kind is quad_law else torch.minimum(u, 1 - u)
    k = offsets[..., 0].square().mean(1).sqrt()  # of s with mean 0: its standard deviation is k
    assert (k <= kappa + 1e-12).all()
    assert (torch.minimum((k - kappa).abs(), (offsets.abs().amax((1, 2)) - 1).abs()) < 1e-12).all()
    torch.testing.assert_close(level.std(1, correction=0), k * profile, rtol=0, atol=1e-12)
    torch.testing.assert_close(velocity.sum(1), torch.full_like(u, 7.0), rtol=0, atol=1e-11)
    assert (velocity >= -1e-12).all()
    assert (velocity <= 2 + 1e-12).all()
    mean = level.mean(1, keepdim=True)
    if kind is quad_law:
        by_level = 1 + (1 - 2 * mean) * (level - mean) / (mean * (1 - mean))
    else:
        by_level = torch.where(mean < 0.5, level / mean, (1 - level) / (1 - mean))
    torch.testing.assert_close(velocity, by_level, rtol=0, atol=1e-9)


def test_exact_control_of_a_single_token_is_the_shared_level() -> None:
    law = quad_law(independent_offsets(1), exact=True)
    u, offsets = points(law, 10)
    torch.testing.assert_close(law.at(u, offsets).level[:, 0, 0], u)


def test_splits_keep_the_mean_exactly() -> None:
    for n in (1, 2, 3, 7, 16):
        law = split_law(n)
        u, offsets = points(law, 300)
        found = law.at(u, offsets)
        torch.testing.assert_close(found.level.mean((1, 2)), u, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.velocity.sum((1, 2)), torch.full_like(u, float(n)), rtol=0, atol=1e-10)
        assert (found.velocity >= -1e-12).all()


def test_two_tokens_split_evenly() -> None:
    """With two tokens the split is uniform: Var[t | u] = min(u, 1 - u)² / 3, and the marginal law has the cdf
    t - ½ t ln t + ½ (1 - t) ln(1 - t). Five standard errors, and Kolmogorov's distance."""
    law, count = split_law(2), 200_000
    g = generator(4)
    u, offsets = torch.rand(count, generator=g, dtype=torch.float64), law.draw(count, g)
    t = law.at(u, offsets).level[:, 0, 0]
    excess = (t - u).square() - torch.minimum(u, 1 - u).square() / 3
    assert abs(excess.mean()) < 5 * excess.std() / count**0.5
    assert distance(t, lambda t: t - 0.5 * t * t.log() + 0.5 * (1 - t) * torch.log1p(-t)) < 1.63 / count**0.5


def tilted_variance(u: Tensor) -> Tensor:
    """Of the density proportional to exp(eta t) with mean u, eta found by bisection."""
    low, high = torch.full_like(u, -1e6), torch.full_like(u, 1.5e6)  # never at eta = 0 exactly
    for _ in range(80):
        eta = (low + high) / 2
        mean = (
            torch.where(eta > 0, 1 / -torch.expm1(-eta.abs()), torch.exp(-eta.abs()) / torch.expm1(-eta.abs()))
            - 1 / eta
        )
        low, high = torch.where(mean < u, eta, low), torch.where(mean < u, high, eta)
    return eta**-2 - 0.25 / torch.sinh((eta / 2).clamp(-300, 300)) ** 2


def distance(t: Tensor, cdf: Callable[[Tensor], Tensor]) -> float:
    """Kolmogorov and Smirnov's, of a sample from a law."""
    place, expected = torch.arange(1, len(t) + 1) / len(t), cdf(t.sort().values)
    return float(torch.maximum(place - expected, expected - place + 1 / len(t)).max())


@pytest.mark.parametrize(
    ("law", "spread"),
    [
        (quad_law(independent_offsets(2), 0.8), lambda u: 0.8**2 * (u * (1 - u)).square() / 3),
        (tent_law(independent_offsets(2), 0.8), lambda u: 0.8**2 * torch.minimum(u, 1 - u).square() / 3),
        (beta_law(independent_offsets(2), 6.0), lambda u: u * (1 - u) / 7),
        (tilt_law(independent_offsets(2)), tilted_variance),
    ],
    ids=["quad", "tent", "beta", "tilt"],
)
def test_mean_and_spread_about_u(law: PathLaw, spread: Callable[[Tensor], Tensor]) -> None:
    """Five standard errors, seed fixed."""
    g, count = generator(5), 100_000
    u, offsets = torch.rand(count, generator=g, dtype=torch.float64), law.draw(count, g)
    t = law.at(u, offsets).level[:, 0, 0]
    for moment in (t - u, (t - u) * (u - 0.5), (t - u).square() - spread(u)):
        assert abs(moment.mean()) < 5 * moment.std() / count**0.5


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_covariance_of_two_tokens(rho: float) -> None:
    """Cov(t_i, t_j) = 1/12 + kappa²/30 (2/pi) asin(rho/2) for quad, /12 for tent; asin(c/2) / (2 pi) for probit."""

    def offsets(batch: int, g: Generator | None) -> Tensor:
        common, own = torch.randn(batch, 1, generator=g), torch.randn(batch, 2, generator=g)
        return torch.special.ndtr((rho**0.5 * common + (1 - rho) ** 0.5 * own).double())[..., None]

    angle, share = math.asin(rho / 2) * 2 / math.pi, 0.9
    expected = {
        quad_law(offsets, 0.8): 1 / 12 + 0.8**2 / 30 * angle,
        tent_law(offsets, 0.8): 1 / 12 + 0.8**2 / 12 * angle,
        probit_law(offsets, share): math.asin((share + (1 - share) * rho) / 2) / (2 * math.pi),
    }
    for law, value in expected.items():
        g, count = generator(6), 300_000
        u, drawn = torch.rand(count, generator=g, dtype=torch.float64), law.draw(count, g)
        t = law.at(u, drawn).level[..., 0] - 0.5
        product = t[:, 0] * t[:, 1]
        assert abs(product.mean() - value) < 5 * product.std() / count**0.5


def test_marginal_laws() -> None:
    """Probit: uniform. Tent at kappa 1: the density -½ ln(t (1 - t)). Logit shift: median u."""
    count, g = 200_000, generator(7)
    u = torch.rand(count, generator=g, dtype=torch.float64)
    draw = lambda law: law.at(u, law.draw(count, g)).level[:, 0, 0]
    limit = 1.63 / count**0.5
    assert distance(draw(probit_law(independent_offsets(2))), lambda t: t) < limit
    cdf = lambda t: t - 0.5 * t * t.log() + 0.5 * (1 - t) * torch.log1p(-t)
    assert distance(draw(tent_law(independent_offsets(2))), cdf) < limit
    below = (draw(logit_shift_law(independent_offsets(2))) < u).double().mean()
    assert abs(below - 0.5) < 5 * 0.5 / count**0.5


def test_walk_has_a_uniform_mean_level() -> None:
    law, count, g = walk_law(6), 200_000, generator(8)
    u, offsets = torch.rand(count, generator=g, dtype=torch.float64), law.draw(count, g)
    assert distance(law.at(u, offsets).level.mean((1, 2)), lambda t: t) < 1.63 / count**0.5


def test_autoregressive_orders() -> None:
    """The first in turn becomes clean first. Shuffled, a token is clean (or noise) (n - 1) / 2n of the way."""
    law = autoregressive_law(torch.tensor([0, 2, 1]))
    level = law.at(torch.tensor([0.5], dtype=torch.float64), law.draw(1, generator())).level[0, :, 0]
    torch.testing.assert_close(level, torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64))
    law, count, g = autoregressive_law(torch.arange(5), True), 100_000, generator(9)
    offsets = law.draw(count, g)
    t = law.at(torch.rand(count, generator=g, dtype=torch.float64), offsets).level[:, 0, 0]
    for value in (0.0, 1.0):
        share = (t == value).double()
        assert abs(share.mean() - 0.4) < 5 * share.std() / count**0.5


def test_correlated_offsets_are_uniform_and_alike_as_said() -> None:
    """Variance 1 at every token, uniform, and Spearman's (6 / pi) asin(rho / 2) between neighbours."""
    grid, length, count = (6, 8), 1.2, 40_000
    drawn = correlated_offsets(grid, length)(count, generator(10))[..., 0]
    assert distance(drawn[:, 13], lambda t: t) < 1.63 / count**0.5
    field = torch.special.ndtri(drawn)
    square = field.square()
    assert ((square.mean(0) - 1).abs() < 5 * square.std(0) / count**0.5).all()
    for other, gap in ((1, (0.0, 1.0)), (9, (1.0, 1.0)), (7, (0.0, 1.0))):  # the last across the torus' edge
        around = [torch.tensor([gap[0] + 6 * i, gap[1] + 8 * j]).norm() for i in (-1, 0, 1) for j in (-1, 0, 1)]
        at_zero = [torch.tensor([6.0 * i, 8.0 * j]).norm() for i in (-1, 0, 1) for j in (-1, 0, 1)]
        kernel = lambda distances: sum(math.exp(-(float(r) ** 2) / (2 * length**2)) for r in distances)
        rho = kernel(around) / kernel(at_zero)
        product = field[:, 0] * field[:, other]
        assert abs(product.mean() - rho) < 5 * product.std() / count**0.5
        ranks = 12 * (drawn[:, 0] - 0.5) * (drawn[:, other] - 0.5)
        assert abs(ranks.mean() - 6 / math.pi * math.asin(rho / 2)) < 5 * ranks.std() / count**0.5


def test_a_law_from_its_levels_alone() -> None:
    """Differentiated, it is the law written out."""
    offsets = independent_offsets(4)
    by_hand = quad_law(offsets, 1.0)
    derived = law_of(lambda u, s: u[:, None, None] + (u * (1 - u))[:, None, None] * s, by_hand.draw)
    u, drawn = points(by_hand, 200)
    torch.testing.assert_close(derived.at(u, drawn).velocity, by_hand.at(u, drawn).velocity)
    torch.testing.assert_close(derived.at(u, drawn).level, by_hand.at(u, drawn).level)


def test_a_law_that_is_seen_too_rarely_is_not_judged() -> None:
    """One of 1,024 tokens moves at a time: a thousand maps hardly ever show what the first does."""
    found = flux(autoregressive_law(torch.arange(1024)), samples=1000)
    assert math.isnan(found.z["first"])
    assert found.is_bound


def test_levels_may_differ_within_a_token() -> None:
    law = quad_law(independent_offsets(3, elements=4))
    u, drawn = points(law, 5)
    assert law.at(u, drawn).level.shape == (5, 3, 4)
    assert flux(law).is_bound


def test_a_mixture_draws_from_its_parts() -> None:
    """Shares as said, to five standard errors, and each row is of one part whole."""
    law = mixture_law([(1.0, shared_law(3)), (3.0, autoregressive_law(torch.arange(3)))])
    count, g = 20_000, generator(11)
    u = torch.full((count,), 0.5, dtype=torch.float64)
    level = law.at(u, law.draw(count, g)).level[..., 0]
    is_shared = (level == 0.5).all(1)
    assert abs(is_shared.double().mean() - 0.25) < 5 * (0.25 * 0.75 / count) ** 0.5
    torch.testing.assert_close(
        level[~is_shared], torch.tensor([0.0, 0.5, 1.0]).double().expand(int((~is_shared).sum()), 3)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: shared_law(0), "at least one token"),
        (lambda: independent_offsets(0), "at least one token"),
        (lambda: correlated_offsets((3, 3), -1.0), "length >= 0"),
        (lambda: correlated_offsets((3, 3), math.inf), "finite length >= 0"),
        (lambda: quad_law(independent_offsets(2), 1.5), "kappa"),
        (lambda: tent_law(independent_offsets(2), math.nan), "kappa"),
        (lambda: logit_shift_law(independent_offsets(2), scale=-1.0), "scale"),
        (lambda: window_law(independent_offsets(2), span=0.0), "span"),
        (lambda: probit_law(independent_offsets(2), 0.75), "infinite variance"),
        (lambda: beta_law(independent_offsets(2), 0.0), "nu"),
        (lambda: split_law(4, 0.4), "sharpness"),
        (lambda: walk_law(0), "at least one token"),
        (lambda: mixture_law([]), "positive, finite shares"),
        (lambda: mixture_law([(0.0, shared_law(2))]), "positive, finite shares"),
        (lambda: mixture_law([(math.inf, shared_law(2))]), "positive, finite shares"),
        (lambda: mixture_law([(1.0, shared_law(2)), (1.0, shared_law(3))]), "different shapes"),
        (lambda: path_law(lambda s: 1 - synchronous(2)(s)), "must not fall"),
        (lambda: law_of(lambda u, s: u[:, None, None] * 0.5, lambda b, g: torch.zeros(b, 0)), "all levels 0"),
        (
            lambda: law_of(
                lambda u, s: (u + 2 * torch.sin(2 * torch.pi * u) * (u < 1) * (u > 0))[:, None, None],
                lambda b, g: torch.zeros(b, 0),
            ),
            "goes back",
        ),
        (
            lambda: path_law(lambda s: synchronous(2)(s)[..., None, :, :]).at(torch.ones(2), torch.zeros(2, 0)),
            "batch axes",
        ),
    ],
)
def test_impossible_laws_are_refused(make: "object", message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # pyrefly: ignore


def test_velocities_that_are_not_the_levels_are_found() -> None:
    honest = tent_law(independent_offsets(4))
    u, offsets = points(honest, 64)
    honest.check(u, offsets)

    def unweighted(u: Tensor, offsets: Tensor) -> Levels:
        level = honest.at(u, offsets).level
        return Levels(level, torch.ones_like(level))

    with pytest.raises(ValueError, match="not the derivatives"):
        PathLaw(honest.draw, unweighted).check(u, offsets)
    with pytest.raises(ValueError, match="not all 1"):
        PathLaw(honest.draw, lambda u, offsets: honest.at(0.5 * u, offsets)).check(u, offsets)


def test_levels_that_go_back_are_found() -> None:
    """With the right velocities, too: the path is not monotone."""

    def back(u: Tensor, offsets: Tensor) -> Levels:
        turn = 2 * torch.pi * u[:, None, None]
        return Levels(u[:, None, None] + 0.3 * turn.sin() * (u != 1)[:, None, None], 1 + 0.6 * torch.pi * turn.cos())

    law = PathLaw(lambda batch, g: torch.zeros(batch, 0), back)
    u = torch.linspace(0.05, 0.95, 40, dtype=torch.float64)
    with pytest.raises(ValueError, match="goes back"):
        law.check(u, law.draw(40, None))


def test_a_kink_beside_a_path_is_no_error() -> None:
    """One token after another: where one is done and the next begins, a difference across is of neither."""
    law = autoregressive_law(torch.arange(64))
    u = torch.arange(1, 33, dtype=torch.float64) / 64 + 3e-7
    law.check(u, law.draw(32, None))
    halved = PathLaw(
        law.draw, lambda u, offsets: replace(law.at(u, offsets), velocity=0.5 * law.at(u, offsets).velocity)
    )
    with pytest.raises(ValueError, match="not the derivatives"):
        halved.check(u, law.draw(32, None))
