"""Samplers of training levels: what each promises of its maps."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

import apd_samplers as smp
from apd_samplers import LevelSampler
from strategies import seeds

GRID, N = (5, 6), 30
SAMPLERS: dict[str, LevelSampler] = {
    "shared": smp.shared(N),
    "shared_logit_normal": smp.shared(N, smp.logit_normal(0.5, 0.8)),
    "independent": smp.independent(N),
    "async_patch": smp.async_patch(GRID),
    "wavefront": smp.wavefront(GRID),
    "clean_context": smp.clean_context(GRID),
    "mixture": smp.mixture([(2.0, smp.shared(N)), (1.0, smp.wavefront(GRID))]),
    "snap": smp.snap(smp.async_patch(GRID), 16),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def draw(sampler: LevelSampler, batch: int = 4096) -> Tensor:
    return sampler(batch, rng())[..., 0]


def assert_mean(values: Tensor, expected: float) -> None:
    """Within five standard errors, from one fixed seed."""
    error = values.double().std().item() / math.sqrt(len(values))
    assert abs(values.double().mean().item() - expected) < 5 * error


@every_sampler
@given(st.integers(0, 9), seeds)
def test_levels_of_the_right_shape_in_the_unit_interval(sampler: LevelSampler, batch: int, seed: int) -> None:
    levels = sampler(batch, rng(seed))
    assert levels.shape == (batch, N, 1)
    assert ((levels >= 0) & (levels <= 1)).all()


@every_sampler
def test_a_function_of_its_generator_and_of_nothing_global(sampler: LevelSampler) -> None:
    before = torch.get_rng_state()
    first, second, other = sampler(8, rng(3)), sampler(8, rng(3)), sampler(8, rng(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_shared_is_one_level_a_sample_spread_evenly() -> None:
    levels = draw(smp.shared(N), 256)
    assert (levels == levels[:, :1]).all()
    assert (levels[:, 0] * 256).floor().long().sort().values.tolist() == list(range(256))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.8), (-1.0, 2.0)])
def test_logit_normal_quantiles(mean: float, std: float) -> None:
    """Its u-quantile is sigmoid(mean + std Phi^-1(u)); Phi^-1(0.8413447) = 1."""
    u = torch.tensor([1 - 0.8413447460685429, 0.5, 0.8413447460685429], dtype=torch.float64)
    expected = torch.tensor([mean - std, mean, mean + std], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(smp.logit_normal(mean, std)(u), expected, rtol=1e-9, atol=0)


def test_logit_normal_survives_the_ends_of_float32() -> None:
    levels = smp.logit_normal()(torch.tensor([0.0, 1 - 2**-24]))
    assert ((levels > 0) & (levels < 1)).all()


def test_independent_levels_are_independent_and_uniform() -> None:
    levels = draw(smp.independent(N))
    assert_mean(levels.flatten(), 0.5)
    product = (levels[:, 0] - 0.5) * (levels[:, 1] - 0.5)
    assert_mean(product, 0.0)


def test_async_patch_has_its_exact_marginal() -> None:
    """Every token's CDF is t + ((1-t) log(1-t) - t log t) / 2, whatever the scale of the patches."""
    levels = draw(smp.async_patch(GRID))[:, 13]
    for t in (0.05, 0.2, 0.5, 0.9):
        expected = t + 0.5 * ((1 - t) * math.log(1 - t) - t * math.log(t))
        assert_mean((levels <= t).float(), expected)


def test_async_patch_keeps_within_the_spread_around_the_mean() -> None:
    """With single tokens the map's mean is close to the controlled mean, and the range is within 2 d of it."""
    sampler = smp.async_patch((16, 16), cells=[16], low=0.2, high=0.8, max_spread=0.1)
    levels = draw(sampler, 512)
    assert (levels.amax(1) - levels.amin(1) <= 0.2 + 1e-6).all()
    assert levels.amin() >= 0.2
    assert levels.amax() <= 0.8
    middle = levels.mean(1).sort().values  # close to evenly spread over (0.2, 0.8)
    torch.testing.assert_close(middle, 0.2 + 0.6 * (torch.arange(512) + 0.5) / 512, rtol=0, atol=0.02)


def test_async_patch_draws_every_scale_equally_often() -> None:
    levels = smp.async_patch((8, 8))(400, rng())
    distinct = torch.tensor([len(levels[k].unique()) for k in range(400)])
    assert [int((distinct == cells**2).sum()) for cells in (1, 2, 4, 8)] == [100, 100, 100, 100]


def test_wavefront_is_clean_behind_noise_before_and_covers_both_extremes() -> None:
    levels = draw(smp.wavefront(GRID, width=(0.04, 0.04)))
    strictly_between = ((levels > 0) & (levels < 1)).float().mean(1)
    assert strictly_between.mean() < 0.15  # a narrow ramp touches few tokens …
    wide = draw(smp.wavefront(GRID, width=(50.0, 50.0)))
    assert (wide.amax(1) - wide.amin(1)).max() < 0.03  # … and a very wide one is nearly synchronous
    assert_mean((levels.mean(1) > 0.5).float(), 0.5)


@pytest.mark.parametrize("name", ["along_direction", "radially", "in_raster", "in_random_cells"])
@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 6), (8, 8)])
def test_every_way_to_travel_arrives_between_zero_and_one(name: str, grid: tuple[int, int]) -> None:
    from apd_samplers._training import _contiguous

    field: Callable[..., Tensor] = getattr(_contiguous, name)
    arrival = field(grid, 64, rng())
    assert arrival.shape == (64, grid[0] * grid[1])
    assert arrival.amin() >= 0
    assert arrival.amax() <= 1 + 1e-6
    if grid[0] * grid[1] > 1:
        assert (arrival.amax(1) - arrival.amin(1)).max() > 0.9


def test_raster_fields_never_let_a_later_cell_arrive_earlier() -> None:
    from apd_samplers._training._contiguous import in_raster

    arrival = in_raster((8, 8), 64, rng()).reshape(64, 8, 8)
    assert (arrival.diff(dim=2) >= 0).all()
    assert (arrival[:, 1:, 0] - arrival[:, :-1, 0] >= 0).all()


def test_clean_context_is_a_box_or_its_complement_with_one_level_elsewhere() -> None:
    levels = smp.clean_context(GRID)(2000, rng())[..., 0].reshape(-1, *GRID)
    boxes = complements = 0
    for level in levels:
        assert len(level[level > 0].unique()) <= 1
        assert (level > 0).any()
        for part in (level == 0, level > 0):
            where = part.nonzero()
            if len(where) and (where.amax(0) - where.amin(0) + 1).prod() == len(where):
                boxes += part is not None and torch.equal(part, level == 0)
                complements += torch.equal(part, level > 0)
                break
        else:
            pytest.fail(f"neither a box nor a complement:\n{level}")
    assert boxes > 500
    assert complements > 500


def test_mixture_gives_each_part_its_share_to_within_one() -> None:
    ones: LevelSampler = lambda batch, generator: torch.ones(batch, N, 1)
    halves: LevelSampler = lambda batch, generator: torch.full((batch, N, 1), 0.5)
    for seed in range(20):
        levels = smp.mixture([(0.3, ones), (0.7, halves)])(33, rng(seed))[:, 0, 0]
        assert int((levels == 1).sum()) in (9, 10)
    where = torch.stack([smp.mixture([(0.5, ones), (0.5, halves)])(8, rng(s))[:, 0, 0] == 1 for s in range(200)])
    assert ((where.float().mean(0) - 0.5).abs() < 5 * 0.5 / math.sqrt(200)).all()  # any row may get any part


def test_snap_leaves_few_distinct_levels_and_clean_and_noise_as_they_are() -> None:
    raw: LevelSampler = lambda batch, generator: torch.tensor([0.0, 1e-6, 0.06, 0.5001, 0.97, 1.0]).reshape(1, 6, 1)
    for seed in range(50):
        snapped = smp.snap(raw, 10)(1, rng(seed))[0, :, 0]
        assert snapped[0] == 0
        assert snapped[-1] == 1
        assert ((snapped[1:-1] > 0) & (snapped[1:-1] < 1)).all()
        assert (snapped - raw(1, None)[0, :, 0]).abs().max() <= 0.1
        steps = (snapped[1:-1] - snapped[1]) * 10
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-5)
    assert len(draw(smp.snap(smp.independent(N), 16)).unique()) <= 17


def test_snap_visits_every_level_in_the_long_run() -> None:
    """Over many batches the levels are as uniform as those that were rounded; but for the last bins at either end."""
    sampler = smp.snap(smp.independent(N), 8)
    generator = rng()
    levels = torch.cat([sampler(4, generator) for _ in range(2000)]).flatten()
    inner = levels[(levels > 1 / 8) & (levels < 7 / 8)]
    counts = ((inner - 1 / 8) / (6 / 8) * 48).floor().long().bincount(minlength=48)
    assert (counts / counts.float().mean() - 1).abs().max() < 0.15


def test_a_sampler_prints_as_the_call_that_made_it() -> None:
    text = repr(smp.mixture([(0.5, smp.shared(4, smp.logit_normal(0.5, 1.0))), (0.5, smp.clean_context((2, 2)))]))
    assert text == (
        "mixture(parts=[(0.5, shared(tokens=4, law=logit_normal(mean=0.5, std=1.0))), "
        "(0.5, clean_context(grid=(2, 2), law=uniform()))])"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: smp.mixture([]), "positive shares"),
        (lambda: smp.mixture([(0.0, smp.shared(2))]), "positive shares"),
        (lambda: smp.mixture([(1.0, smp.shared(2)), (1.0, smp.shared(3))])(8, None), "different shapes"),
        (lambda: smp.snap(smp.shared(2), 0), "bins"),
        (lambda: smp.logit_normal(std=0.0), "std"),
        (lambda: smp.async_patch(GRID, cells=[]), "patches per side"),
        (lambda: smp.async_patch(GRID, low=0.5, high=0.5), "low < high"),
        (lambda: smp.async_patch(GRID, max_spread=-1.0), "max_spread"),
        (lambda: smp.wavefront(GRID, width=(0.0, 1.0)), "width"),
        (lambda: smp.wavefront((0, 3)), "at least one"),
        (lambda: smp.clean_context((1, 1)), "two tokens"),
    ],
)
def test_impossible_samplers_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
