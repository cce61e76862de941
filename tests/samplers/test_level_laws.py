"""Samplers of training levels against the closed forms of their laws."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import apd_samplers as smp
from apd_samplers import (
    AsyncPatchMarginal,
    LevelSampler,
    OnLaw,
    correlated,
    elbo_walk,
    half,
    inpainting_legs,
    mean_beta,
    on_path,
    patchwise,
    perlin,
    quad,
    tent,
    truncated_gaussian,
    two_level,
)
from apd_schedules import correlated_offsets, piecewise_linear, synchronous
from level_checks import assert_law, assert_mean, draw, rng, uniform_cdf

GRID, N = (5, 6), 30
RANGES = [(0.0, 1.0, 0.5), (0.0, 1.0, 9.0), (0.0, 1.0, 0.3), (0.0, 1.0, 0.05), (0.2, 0.8, 0.1), (0.5, 1.0, 0.25)]
each_range = pytest.mark.parametrize(("low", "high", "most"), RANGES)


@each_range
def test_async_patch_marginal_is_the_average_over_its_means(low: float, high: float, most: float) -> None:
    """The density is the mean over m of 1 / 2d where |t - m| <= d."""
    cells = 200_000
    mean = low + (high - low) * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    spread = torch.minimum(mean - low, high - mean).clamp(max=most)
    law = AsyncPatchMarginal(low, high, most)
    for t in torch.linspace(low, high, 12, dtype=torch.float64)[1:-1]:
        average = torch.where((t - mean).abs() <= spread, 0.5 / spread, 0.0).mean()
        torch.testing.assert_close(law.density(t), average, rtol=1e-3, atol=0)


@each_range
def test_async_patch_marginal_density_is_the_slope_of_its_cdf(low: float, high: float, most: float) -> None:
    law = AsyncPatchMarginal(low, high, most)
    ends = torch.tensor([0.0, low, high, 1.0], dtype=torch.float64)
    torch.testing.assert_close(law.cdf(ends), torch.tensor([0.0, 0.0, 1.0, 1.0]).double(), rtol=0, atol=1e-14)
    t = (low + (high - low) * torch.linspace(0.0013, 0.9987, 200, dtype=torch.float64)).requires_grad_()
    slope = torch.autograd.grad(law.cdf(t).sum(), t)[0]
    torch.testing.assert_close(law.density(t.detach()), slope, rtol=1e-12, atol=1e-12)


def test_async_patch_marginal_on_the_unit_interval_and_without_spread() -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    free, none = AsyncPatchMarginal(), AsyncPatchMarginal(0.2, 0.7, 0.0)
    torch.testing.assert_close(free.density(t), -0.5 * (t * (1 - t)).log(), rtol=1e-12, atol=0)
    torch.testing.assert_close(free.cdf(t), t + 0.5 * ((1 - t) * (1 - t).log() - t * t.log()), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(none.density(torch.tensor([0.1, 0.3, 0.8])), torch.tensor([0.0, 2.0, 0.0]))
    torch.testing.assert_close(none.cdf(torch.tensor([0.1, 0.3, 0.8])), torch.tensor([0.0, 0.2, 1.0]))


def test_async_patch_marginal_weighs_levels_at_the_ends_nothing_and_all_others_finitely() -> None:
    t = torch.tensor([0.0, 1e-30, 1e-7, 1 - 2**-24, 1.0])
    weight = 1 / AsyncPatchMarginal().density(t)
    assert weight[[0, -1]].tolist() == [0.0, 0.0]
    assert (weight[1:-1] > 0).all()
    assert weight.isfinite().all()


@each_range
@pytest.mark.parametrize("cells", [[1], [2], [1, 3, 6]])
def test_async_patch_levels_have_their_marginal(low: float, high: float, most: float, cells: list[int]) -> None:
    levels = draw(smp.async_patch(GRID, cells, low, high, most))[:, 13]
    assert_law(levels, AsyncPatchMarginal(low, high, most).cdf)


def test_one_over_the_density_makes_the_levels_uniform() -> None:
    """The weighted mean of a function of the level is its integral over (0, 1)."""
    levels = draw(smp.async_patch((1, 1)), 100_000)[:, 0].double()
    weight = 1 / AsyncPatchMarginal().density(levels)
    assert_mean(weight * levels.square(), 1 / 3)
    assert_mean(weight * (levels > 0.8), 0.2)


def test_shares_of_scales() -> None:
    for sampler in (smp.async_patch((4, 4), [1, 2], shares=[3.0, 1.0]), patchwise((4, 4), [1, 2], [3.0, 1.0])):
        levels = sampler(400, rng())
        distinct = [len(level.unique()) for level in levels]
        assert (distinct.count(1), distinct.count(4)) == (300, 100)


def test_patchwise_levels_are_uniform_shared_in_a_patch_and_independent_between() -> None:
    levels = draw(patchwise((4, 6), [2])).reshape(-1, 2, 2, 2, 3)
    assert (levels == levels[:, :, :1, :, :1]).all()
    one, other = levels[:, 0, 0, 0, 0], levels[:, 1, 0, 1, 0]
    assert_law(one, uniform_cdf)
    assert_mean((one - 0.5) * (other - 0.5), 0.0)
    assert [len(level.unique()) for level in patchwise((4, 4))(3, rng())].count(16) == 1


def test_correlated_levels_have_their_law_and_neighbours_are_alike() -> None:
    """Spearman's correlation of normal variables of correlation rho is ``6 / pi asin(rho / 2)``."""
    length, side = 1.5, 8
    levels = draw(correlated((side, side), length), 8000).reshape(-1, side, side)
    assert_law(levels[:, 3, 4], uniform_cdf)
    for step in (1, 2, 4):
        rho = sum(math.exp(-((step + side * k) ** 2) / (2 * length**2)) for k in (-2, -1, 0, 1, 2))
        rho /= sum(math.exp(-((side * k) ** 2) / (2 * length**2)) for k in (-2, -1, 0, 1, 2))
        product = 12 * (levels[:, 3, 0] - 0.5) * (levels[:, 3, step] - 0.5)
        assert_mean(product, 6 / math.pi * math.asin(rho / 2))
    logits = draw(correlated((side, side), length, smp.logit_normal(0.5, 2.0)))[:, 5].double().logit()
    assert_law(logits, lambda t: torch.special.ndtr((t - 0.5) / 2))


@pytest.mark.parametrize(("location", "std"), [(0.7, 0.6), (0.7, 0.2), (2.0, 0.3), (-1.0, 0.05)])
def test_truncated_gaussian_given_its_cleanest_level(location: float, std: float) -> None:
    """A normal variable folded at tau_max, and what falls below 0 uniform on (0, tau_max)."""
    top = 1 / (1 + math.exp(-location))
    s = min(top / 2, std)
    reach = lambda distance: torch.erf(torch.as_tensor(distance / (s * math.sqrt(2)), dtype=torch.float64))
    beyond = 1 - reach(top)
    cdf = lambda tau: reach(top) - reach(top - tau) + beyond * tau / top
    levels = draw(truncated_gaussian(4, location, 1e-9, std)).flatten()
    tau = 1 - levels.double()
    assert tau.max() <= top + 1e-6
    assert_law(tau, lambda tau: cdf(tau.clamp(0, top)))


def test_truncated_gaussian_cleanest_level_is_logit_normal() -> None:
    """Of 3000 tokens the cleanest is within 0.001 of tau_max, and tau_max is evenly spread in its law's quantiles."""
    cleanest = (1 - draw(truncated_gaussian(3000, 0.7, 1.3, 0.6), 64).amin(1)).sort().values
    place = torch.special.ndtr((cleanest.double().logit() - 0.7) / 1.3)
    torch.testing.assert_close(place, (torch.arange(64).double() + 0.5) / 64, rtol=0, atol=0.012)


def test_truncated_gaussian_hardly_shows_what_is_nearly_clean() -> None:
    """The share of levels below 0.1 is the average of the conditional law over tau_max."""
    top = smp.logit_normal(0.7, 1.0)((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    s, root = (top / 2).clamp(max=0.6), math.sqrt(2)
    above = torch.erf((top - 0.9).clamp(min=0) / (s * root)) + (1 - torch.erf(top / (s * root))) * (
        (top - 0.9).clamp(min=0) / top
    )
    assert 0.002 < above.mean() < 0.004
    levels = draw(truncated_gaussian(64))
    assert_mean((levels < 0.1).float().mean(1), float(above.mean()))
    assert levels.mean(1).min() > 0.25


@pytest.mark.parametrize("share", [(0.25, 0.25), (0.1, 0.6)])
def test_perlin_is_one_level_on_a_share_of_tokens_beside_clean_or_noise(share: tuple[float, float]) -> None:
    levels = draw(perlin((8, 8), share), 4000)
    ends = (levels == 0) | (levels == 1)
    background = levels.masked_fill(~ends, 2.0).amin(1)
    assert ((levels == background[:, None]) == ends).all()  # clean or noise, never both
    assert int((background == 0).sum()) == 2000
    inside = levels[torch.arange(4000), (~ends).float().argmax(1)]
    assert ((levels == inside[:, None]) | ends).all()
    assert_law(inside, uniform_cdf)
    assert_mean((inside - 0.5) * (background - 0.5), 0.0)  # which of the two it is says nothing of the level
    number = (~ends).sum(1)
    assert (number.min(), number.max()) == (round(64 * share[0]), round(64 * share[1]))
    assert_mean(number / 64, sum(share) / 2) if share[0] < share[1] else None
    assert_mean(levels[:, 19], 0.5)
    agree = (~ends).reshape(-1, 8, 8).diff(dim=2).float().mean()
    shuffled = (~ends)[:, torch.randperm(64, generator=rng())].reshape(-1, 8, 8).diff(dim=2).float().mean()
    assert agree < 0.75 * shuffled


def test_two_level_maps_have_two_levels_and_every_token_its_law() -> None:
    law = smp.logit_normal(0.5, 2.0)
    levels = draw(two_level(N, law=law))
    assert all(len(level.unique()) == 2 for level in levels[:500])
    for token in (0, 17):
        assert_law(levels[:, token].double().logit(), lambda t: torch.special.ndtr((t - 0.5) / 2))
    rare = (levels == levels.amin(1, keepdim=True)).sum(1)
    rare = torch.minimum(rare, N - rare)
    assert rare.bincount(minlength=16)[1:].tolist() == pytest.approx([4096 / 15] * 15, abs=1)
    low, high = levels.amin(1).double().logit(), levels.amax(1).double().logit()
    assert_mean((low - 0.5) * (high - 0.5), 0.0)  # of independent levels the product of the two is that of any two


def test_two_level_on_masks() -> None:
    levels = draw(two_level(16, masks=half((4, 4)))).reshape(-1, 4, 4)
    upper = (levels[:, :2] == levels[:, :1, :1]).all((1, 2)) & (levels[:, 2:] == levels[:, 3:, :1]).all((1, 2))
    assert int(upper.sum()) == 2048


def test_mean_beta_controls_the_mean_to_the_last_digit() -> None:
    for sampler in (mean_beta(N), mean_beta(N, 4.0, shuffle=False)):
        assert_evenly_spread(sampler.draw(256, rng()).level.mean((1, 2)))
    wide, narrow = (draw(mean_beta(N, sharpness)).std(1).mean() for sharpness in (1.0, 10.0))
    assert narrow < 0.5 * wide


def test_mean_beta_of_two_tokens_is_uniform_about_its_mean() -> None:
    """Beta(1, 1): ``t ~ U(u - d, u + d)`` with ``d = min(u, 1 - u)``, as a token of async_patch."""
    levels = draw(mean_beta(2))
    assert_law(levels[:, 0], AsyncPatchMarginal().cdf)
    assert_law(levels[:, 1], AsyncPatchMarginal().cdf)


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_mean_beta_splits_in_order_unless_shuffled(sharpness: float) -> None:
    """Of four tokens the first two have the share ``Beta(a, a)`` of what is free, ``a = sharpness 3^1.05``."""
    levels = mean_beta(4, sharpness, shuffle=False).draw(4096, rng()).level[..., 0]
    u = levels.mean(1)
    share = (levels[:, :2].sum(1) - 2 * u) / (4 * torch.minimum(u, 1 - u))
    assert_mean(share, 0.0)
    assert_mean(share.square(), 1 / (4 * (2 * sharpness * 3**1.05 + 1)))
    mixed = mean_beta(4, sharpness).draw(4096, rng()).level[..., 0]
    for token in (2, 3):
        assert_mean((mixed[:, 0] - mixed[:, token]).square() - (mixed[:, 0] - mixed[:, 1]).square(), 0.0)


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_elbo_walk_has_uniform_mean_levels(tokens: int) -> None:
    assert_law(draw(elbo_walk(tokens)).double().mean(1), uniform_cdf)


@pytest.mark.parametrize("tokens", [2, 5])
def test_elbo_walk_levels_have_their_marginal(tokens: int) -> None:
    """The token looked at is uniform; another has ``h = r h'`` with ``h = -log(1 - t)`` and r a ratio of exponential
    rates, ``P(r < x) = x / (1 + x)``, so that ``P(h > y) = ∫ exp(-y (1 - v) / v) dv`` over (0, 1)."""
    levels = draw(elbo_walk(tokens), 8192)[:, 1]
    v = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for t in (0.02, 0.2, 0.5, 0.8, 0.98):
        other = torch.exp(math.log1p(-t) * (1 - v) / v).mean()
        assert_mean((levels > t).float(), float((1 - t) / tokens + other * (1 - 1 / tokens)))


@pytest.mark.parametrize(("kappa", "offsets"), [(1.0, None), (0.6, None), (1.0, correlated_offsets(GRID, 2.0))])
def test_quad_and_tent_moments(kappa: float, offsets: Callable[..., Tensor] | None) -> None:
    """``Var t = 1/12 + kappa² / 3 E[f(u)²]`` with f = u (1 - u) and min(u, 1 - u): 1/30 and 1/12; any offsets."""
    for make, square in ((quad, 1 / 30), (tent, 1 / 12)):
        levels = draw(make(N, kappa, offsets=offsets))
        assert_mean(levels[:, 7], 0.5)
        assert_mean((levels[:, 7] - 0.5).square(), 1 / 12 + kappa**2 / 3 * square)


def test_tent_is_async_patch_of_single_tokens() -> None:
    assert_law(draw(tent(N))[:, 4], AsyncPatchMarginal().cdf)


@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_exact_quad_and_tent_control_the_mean_and_the_spread_of_every_map(kappa: float) -> None:
    """The mean is u, the deviation over tokens k f(u), with ``k = min(kappa, 1 / max|ŝ|)``."""
    for make in (quad, tent):
        level = make(N, kappa, exact=True).draw(256, rng()).level[..., 0]
        u, std = level.mean(1), level.std(1, correction=0)
        assert_evenly_spread(u)
        f = u * (1 - u) if make is quad else torch.minimum(u, 1 - u)
        s = (level - u[:, None]) / std[:, None]
        torch.testing.assert_close(std / f, (1 / s.abs().amax(1)).clamp(max=kappa), rtol=1e-9, atol=0)


def test_offsets_say_which_tokens_are_alike() -> None:
    alike, alone = (draw(quad(N, offsets=offsets)) for offsets in (correlated_offsets((1, N), 3.0), None))
    assert alike.diff(dim=1).abs().mean() < 0.5 * alone.diff(dim=1).abs().mean()


def test_every_map_of_on_path_lies_on_the_path_at_evenly_spread_places() -> None:
    plan = torch.tensor([[1.0, 1.0, 1.0], [0.75, 1.0, 0.2], [0.5, 0.0, 0.2], [0.0, 0.0, 0.0]])[..., None]
    path = piecewise_linear(plan)
    levels = on_path(path).draw(256, rng()).level
    assert_evenly_spread(_places(path, levels))
    torch.testing.assert_close(path(_places(path, levels)), levels, rtol=0, atol=1e-12)


def test_inpainting_legs_are_a_clean_context_and_a_noisy_rest() -> None:
    known = half((4, 4))
    levels = draw(inpainting_legs(known), 400)
    first = (levels == 0).sum(1) == 8
    second = (levels == 1).sum(1) == 8
    assert int(first.sum()) == int(second.sum()) == 200
    moving = torch.where(first, levels.amax(1), levels.amin(1))
    assert ((levels == moving[:, None]).sum(1) == 8).all()
    assert_evenly_spread(moving[first])
    assert_evenly_spread(moving[second])


@pytest.mark.parametrize(
    ("sampler", "text"),
    [
        (mean_beta(4), "mean_beta(tokens=4, sharpness=1.0, shuffle=True)"),
        (elbo_walk(4), "elbo_walk(tokens=4)"),
        (quad(4, 0.5), "quad(tokens=4, kappa=0.5, exact=False, offsets=None)"),
        (tent(4, exact=True), "tent(tokens=4, kappa=1.0, exact=True, offsets=None)"),
        (inpainting_legs(half((2, 2))), "inpainting_legs(masks=half(grid=(2, 2)))"),
    ],
)
def test_samplers_on_laws_know_their_law_and_print_as_their_call(sampler: OnLaw, text: str) -> None:
    assert repr(sampler) == text
    offsets = sampler.law.draw(1, rng())
    assert sampler.law.at(torch.ones(1, dtype=torch.float64), offsets).level.flatten().tolist() == [1.0] * 4


def test_on_path_prints_the_path() -> None:
    path = synchronous(3)
    assert repr(on_path(path)) == "on_path(path=path)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AsyncPatchMarginal(0.5, 0.4), "low < high"),
        (lambda: AsyncPatchMarginal(max_spread=-0.1), "max_spread"),
        (lambda: AsyncPatchMarginal(max_spread=math.nan), "max_spread"),
        (lambda: smp.async_patch(GRID, [1, 2], shares=[1.0]), "one for each"),
        (lambda: smp.async_patch(GRID, [1, 2], shares=[1.0, 0.0]), "positive"),
        (lambda: patchwise(GRID, [0]), "patches per side"),
        (lambda: patchwise(GRID, shares=[math.inf]), "one for each"),
        (lambda: correlated(GRID, -1.0), "length"),
        (lambda: truncated_gaussian(4, scale=0.0), "scale and std"),
        (lambda: truncated_gaussian(4, std=0.0), "scale and std"),
        (lambda: perlin((1, 1)), "two tokens"),
        (lambda: two_level(1), "known and an unknown"),
        (lambda: two_level(9, (0.1, 0.2), masks=half((3, 3))), "not both"),
        (lambda: two_level(9, masks=half((2, 2))), "4 tokens"),
        (lambda: quad(5, offsets=correlated_offsets((2, 2), 1.0)), "4 tokens"),
        (lambda: tent(4, kappa=1.5), "kappa"),
        (lambda: mean_beta(0), "at least one token"),
        (lambda: elbo_walk(0), "at least one token"),
    ],
)
def test_impossible_samplers_are_refused(make: Callable[[], LevelSampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def assert_evenly_spread(values: Tensor) -> None:
    """In (0, 1), at equal distances, one in each of as many cells."""
    ordered = values.double().sort().values
    torch.testing.assert_close(ordered.diff() * len(ordered), torch.ones(len(ordered) - 1).double(), rtol=0, atol=1e-4)
    assert 0 <= ordered[0] < 1 / len(ordered)


def _places(path: Callable[[Tensor], Tensor], levels: Tensor) -> Tensor:
    """``s`` of maps of a path, by bisection on their mean level."""
    low, high = torch.zeros(len(levels)).double(), torch.ones(len(levels)).double()
    for _ in range(60):
        middle = (low + high) / 2
        above = path(middle).mean((1, 2)) > levels.mean((1, 2))
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2
