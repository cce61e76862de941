"""The fit of profiles, against quadrature and the normal equations."""

from itertools import pairwise

import numpy as np
import pytest

from apd_train._averages import power_of_width
from apd_train._post_hoc import Profile, _products, fit_profile

POINTS, WEIGHTS = np.polynomial.legendre.leggauss(200)


def density(profile: Profile, t: np.ndarray) -> np.ndarray:
    power = power_of_width(profile.sigma_rel)
    return np.where(t <= profile.steps, (power + 1) / profile.steps * (t / profile.steps) ** power, 0.0)


def integral(values: np.ndarray, end: float) -> float:
    """Over [0, end], of values at ``nodes(end)``."""
    return float(values @ WEIGHTS) * end / 2


def nodes(end: float) -> np.ndarray:
    return (POINTS + 1) * end / 2


def kept(steps: int, every: int, widths: tuple[float, ...] = (0.05, 0.1)) -> list[Profile]:
    return [Profile(width, float(step)) for step in range(every, steps + 1, every) for width in widths]


@pytest.mark.parametrize("a", [Profile(0.05, 1000.0), Profile(0.1, 300.0), Profile(0.25, 1000.0)])
@pytest.mark.parametrize("b", [Profile(0.05, 700.0), Profile(0.1, 1000.0), Profile(0.02, 40.0)])
def test_products_are_those_of_quadrature(a: Profile, b: Profile) -> None:
    end = min(a.steps, b.steps)
    t = nodes(end)
    expected = integral(density(a, t) * density(b, t), end)
    assert _products([a], [b])[0, 0] == pytest.approx(expected, rel=1e-9)
    assert _products([b], [a])[0, 0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.08, 0.2])
@pytest.mark.parametrize("end", [2000.0, 1300.0])
def test_the_error_is_that_of_the_sum_of_profiles(sigma_rel: float, end: float) -> None:
    """Piece by piece between the snapshots, since the sum jumps there."""
    profiles, target = kept(2000, 250), Profile(sigma_rel, end)
    factors, error = fit_profile(profiles, target)
    edges = sorted({0.0, end, *(profile.steps for profile in profiles)})
    off = size = 0.0
    for low, high in pairwise(edges):
        t = nodes(high - low) + low
        wanted = density(target, t)
        found = sum(factor * density(profile, t) for factor, profile in zip(factors, profiles, strict=True))
        off += integral((found - wanted) ** 2, high - low)
        size += integral(wanted**2, high - low)
    assert error == pytest.approx((off / size) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.08, 0.15, 0.25])
def test_factors_are_the_smallest_error_among_those_of_sum_one(sigma_rel: float) -> None:
    """The gradient of the squared error is the same along every factor: no change of sum 0 makes it smaller."""
    profiles, target = kept(2000, 250), Profile(sigma_rel, 2000.0)
    factors, error = fit_profile(profiles, target)
    assert sum(factors) == pytest.approx(1, abs=1e-11)
    gradient = _products(profiles, profiles) @ factors - _products(profiles, [target])[:, 0]
    size = _products([target], [target])[0, 0]
    assert np.ptp(gradient) < 1e-10 * size
    assert error > 1e-3


@pytest.mark.parametrize("count", [1, 8, 64])
def test_what_was_kept_is_given_back(count: int) -> None:
    profiles = kept(1000 * count, 1000)
    factors, error = fit_profile(profiles, profiles[-1])
    assert factors == [0.0] * (2 * count - 1) + [1.0]
    assert error == 0


@pytest.mark.parametrize("sigma_rel", [0.08, 0.15])
def test_nearly_what_was_kept_is_nearly_given_back(sigma_rel: float) -> None:
    """By the fit itself, not by the look-up."""
    profiles = kept(64_000, 1000, (0.05, sigma_rel))
    factors, error = fit_profile(profiles, Profile(sigma_rel + 1e-9, 64_000.0))
    assert factors[-1] == pytest.approx(1, abs=1e-5)
    assert np.abs(factors[:-1]).max() < 1e-5
    assert error < 1e-6


def test_more_snapshots_and_nearer_widths_fit_better() -> None:
    error = lambda every, sigma_rel: fit_profile(kept(64_000, every), Profile(sigma_rel, 64_000.0))[1]
    by_count = [error(64_000 // count, 0.08) for count in (2, 4, 8, 16, 32, 64, 256)]
    assert all(later < earlier / 1.4 for earlier, later in pairwise(by_count))
    assert by_count[2] < 0.012
    assert by_count[-1] < 2e-5
    assert error(8000, 0.03) > error(8000, 0.08) < error(8000, 0.15) < error(8000, 0.25)


def test_time_has_no_unit() -> None:
    factors, error = fit_profile(kept(2000, 250), Profile(0.08, 2000.0))
    scaled, same = fit_profile(kept(2_000_000, 250_000), Profile(0.08, 2_000_000.0))
    assert scaled == pytest.approx(factors, rel=1e-9, abs=1e-12)
    assert same == pytest.approx(error, rel=1e-6)


def test_a_profile_kept_twice_does_no_harm() -> None:
    profiles, target = kept(2000, 500), Profile(0.08, 2000.0)
    once, error = fit_profile(profiles, target)
    twice, same = fit_profile([*profiles, *profiles], target)
    halves = np.array(twice)
    assert halves[: len(once)] + halves[len(once) :] == pytest.approx(np.array(once), abs=1e-9)
    assert same == pytest.approx(error, rel=1e-6)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="keep one at least"):
        fit_profile([], Profile(0.05, 10.0))
    with pytest.raises(ValueError, match="sigma_rel must be in"):
        fit_profile(kept(10, 5), Profile(0.3, 10.0))
