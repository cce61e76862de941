"""Samplers of training levels: what each promises of its maps."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st

import apd_samplers as smp
from apd_samplers import (
    Arrival,
    LevelSampler,
    correlated,
    elbo_walk,
    half,
    inpainting_legs,
    mean_beta,
    on_path,
    patchwise,
    perlin,
    quad,
    radial_front,
    random_cells_front,
    raster_front,
    scattered,
    straight_front,
    tent,
    truncated_gaussian,
    two_level,
)
from apd_schedules import correlated_offsets, staggered
from level_checks import assert_mean, draw, rng
from strategies import seeds

GRID, N = (5, 6), 30
SAMPLERS: dict[str, LevelSampler] = {
    "shared": smp.shared(N),
    "shared_logit_normal": smp.shared(N, smp.logit_normal(0.5, 0.8)),
    "independent": smp.independent(N),
    "correlated": correlated(GRID, 1.5),
    "patchwise": patchwise(GRID),
    "async_patch": smp.async_patch(GRID),
    "async_patch, capped": smp.async_patch(GRID, [1, 3], 0.1, 0.9, 0.2, [0.3, 0.7]),
    "truncated_gaussian": truncated_gaussian(N),
    "two_level": two_level(N),
    "two_level, masks": two_level(N, masks=half(GRID)),
    "perlin": perlin(GRID),
    "wavefront": smp.wavefront(GRID),
    "wavefront, radial": smp.wavefront(GRID, arrivals=[radial_front]),
    "clean_context": smp.clean_context(GRID),
    "clean_context, masks": smp.clean_context(GRID, masks=scattered(N)),
    "clean_context, rest": smp.clean_context(GRID, rest=smp.independent(N)),
    "mean_beta": mean_beta(N),
    "elbo_walk": elbo_walk(N),
    "quad": quad(N),
    "quad, exact": quad(N, exact=True),
    "tent": tent(N, 0.7, offsets=correlated_offsets(GRID, 1.5)),
    "tent, exact": tent(N, exact=True),
    "on_path": on_path(staggered(torch.arange(N))),
    "inpainting_legs": inpainting_legs(half(GRID)),
    "mixture": smp.mixture([(2.0, smp.shared(N)), (1.0, smp.wavefront(GRID))]),
    "snap": smp.snap(smp.async_patch(GRID), 16),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


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


ARRIVALS: list[Arrival] = [straight_front, raster_front, radial_front, random_cells_front]


@pytest.mark.parametrize("field", ARRIVALS)
@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 6), (8, 8)])
def test_every_way_to_travel_arrives_between_zero_and_one(field: Arrival, grid: tuple[int, int]) -> None:
    arrival = field(grid, 64, rng())
    assert arrival.shape == (64, grid[0] * grid[1])
    assert arrival.amin() >= 0
    assert arrival.amax() <= 1 + 1e-6
    if grid[0] * grid[1] > 1:
        assert (arrival.amax(1) - arrival.amin(1)).max() > 0.9


def test_raster_fronts_never_let_a_later_cell_arrive_earlier() -> None:
    arrival = raster_front((8, 8), 64, rng()).reshape(64, 8, 8)
    assert (arrival.diff(dim=2) >= 0).all()
    assert (arrival[:, 1:, 0] - arrival[:, :-1, 0] >= 0).all()


def test_straight_fronts_are_straight_and_come_from_everywhere() -> None:
    arrival = straight_front((5, 6), 400, rng()).reshape(400, 5, 6)
    assert arrival.diff(n=2, dim=1).abs().max() < 1e-5
    assert arrival.diff(n=2, dim=2).abs().max() < 1e-5
    assert (arrival.diff(dim=1)[:, 0, 0].diff() != 0).all()
    for dim in (1, 2):
        assert_mean((arrival.diff(dim=dim)[:, 0, 0] > 0).float(), 0.5)


def test_radial_fronts_grow_from_a_point_or_close_in_on_it() -> None:
    """Along a row or a column they have no crest, or no trough."""
    arrival = radial_front((7, 7), 400, rng()).reshape(400, 7, 7)
    outward = torch.ones(400, dtype=torch.bool)
    inward = torch.ones(400, dtype=torch.bool)
    for dim in (1, 2):
        rising = arrival.diff(dim=dim) > 0
        turn = rising.long().diff(dim=dim)
        outward &= (turn >= 0).flatten(1).all(1)
        inward &= (turn <= 0).flatten(1).all(1)
    assert (outward | inward).all()
    assert_mean(outward[outward ^ inward].float(), 0.5)  # from beyond a corner a front does either


def test_random_cells_arrive_one_by_one_at_equal_distances_in_any_order() -> None:
    arrival = random_cells_front((8, 8), 300, rng())
    counts = []
    for row in arrival:
        found = row.unique()
        counts.append(len(found))
        torch.testing.assert_close(found, torch.linspace(0, 1, len(found)), rtol=0, atol=1e-6)
    assert set(counts) == {4, 16, 64}  # cells of a side of 4, 2 and 1 tokens
    four = arrival[torch.tensor(counts) == 4].reshape(-1, 2, 4, 2, 4)
    assert (four == four[:, :, :1, :, :1]).all()
    orders = random_cells_front((2, 2), 2400, rng()).unique(dim=0, return_counts=True)[1]
    assert len(orders) == 24
    assert ((orders - 100).abs() < 5 * math.sqrt(100)).all()


def test_a_wavefront_travels_as_it_is_told() -> None:
    right: Arrival = lambda grid, batch, generator: torch.arange(6.0).expand(batch, 5, 6).flatten(1) / 5
    levels = smp.wavefront(GRID, (0.5, 0.5), [right])(50, rng()).reshape(50, 5, 6)
    assert (levels == levels[:, :1]).all()
    assert (levels.diff(dim=2) >= 0).all()
    assert levels.diff(dim=2).max() == pytest.approx(0.4, abs=1e-5)  # a fifth of the way, a ramp of a half


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


def test_clean_context_of_masks_shows_what_they_know() -> None:
    known = draw(scattered(N))
    levels = draw(smp.clean_context(GRID, smp.logit_normal(), scattered(N)))
    assert torch.equal(levels == 0, known)
    assert all(len(level[level > 0].unique()) == 1 for level in levels[:200])


def test_clean_context_leaves_the_rest_to_a_sampler() -> None:
    ramp: LevelSampler = lambda batch, generator: torch.linspace(0.1, 0.9, N)[:, None].expand(batch, N, 1)
    levels, known = draw(smp.clean_context(GRID, masks=half(GRID), rest=ramp)), draw(half(GRID))
    assert torch.equal(levels, torch.where(known, 0.0, torch.linspace(0.1, 0.9, N)))


def test_a_map_is_never_all_clean() -> None:
    all_known = lambda batch, generator: torch.ones(batch, N, 1, dtype=torch.bool)
    levels = draw(smp.clean_context(GRID, masks=all_known))
    assert (levels == levels[:, :1]).all()
    assert (levels > 0).all()


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (
            smp.clean_context((2, 3)),
            [
                [0.0, 0.0, 0.68160856, 0.68160856, 0.68160856, 0.68160856],
                [0.0, 0.0, 0.91519397, 0.0, 0.0, 0.91519397],
                [0.39709991, 0.39709991, 0.0, 0.0, 0.0, 0.0],
                [0.0, 0.0, 0.0, 0.0, 0.87415588, 0.87415588],
            ],
        ),
        (
            smp.wavefront((2, 3)),
            [
                [0.0, 0.74327677, 0.41793522, 1.0, 0.0, 0.09259360],
                [1.0, 1.0, 1.0, 1.0, 1.0, 0.58268207],
                [1.0, 1.0, 1.0, 1.0, 1.0, 0.70036799],
                [0.0, 0.29178777, 1.0, 1.0, 1.0, 1.0],
            ],
        ),
        (
            smp.async_patch((2, 3)),
            [
                [0.86288810, 0.90738833, 0.83600467, 0.84930950, 0.75375152, 0.79065907],
                [0.07292204, 0.07292204, 0.12865993, 0.17311107, 0.17311107, 0.19850546],
                [0.76061046, 0.76061046, 0.76061046, 0.76061046, 0.76061046, 0.76061046],
                [0.71277034, 0.71277034, 0.71277034, 0.71277034, 0.71277034, 0.71277034],
            ],
        ),
    ],
    ids=["clean_context", "wavefront", "async_patch"],
)
def test_a_seed_goes_on_giving_the_same_levels(sampler: LevelSampler, expected: list[list[float]]) -> None:
    """Trained runs are made of these draws. The tolerance is of machines' sines and powers, not of the draws."""
    torch.testing.assert_close(sampler(4, rng())[..., 0], torch.tensor(expected), rtol=0, atol=1e-6)


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


def test_snap_leaves_uniform_levels_uniform_to_the_ends() -> None:
    """Over many batches every level comes up as often as before, in the first and the last cell too."""
    sampler = smp.snap(smp.independent(N), 8)
    generator = rng()
    levels = torch.cat([sampler(4, generator) for _ in range(4000)]).flatten()
    counts = (levels * 64).floor().long().bincount(minlength=64)
    assert (counts / counts.float().mean() - 1).abs().max() < 0.15


def test_scale_of_the_patches_and_mean_are_independent() -> None:
    levels = draw(smp.async_patch((8, 8)), 8192)
    cells = torch.tensor([len(row.unique()) for row in levels])
    for count in (1, 4, 16, 64):
        assert_mean(levels[cells == count].mean(1), 0.5)


def test_boxes_of_a_clean_context_are_of_every_height_alike() -> None:
    """A column of four: a run of 1 to 4 is known, or all but it; a run of all four is a context of nothing."""
    known = (smp.clean_context((4, 1))(8192, rng())[..., 0] == 0).sum(1)
    for count in range(4):
        assert_mean((known == count).float(), 0.25)


def test_widths_of_a_front_are_log_uniform() -> None:
    line = lambda grid, batch, generator=None: torch.linspace(0, 1, 201).expand(batch, -1)
    levels = draw(smp.wavefront((1, 201), (0.05, 0.8), arrivals=[line]), 4000)
    steps = levels.diff(dim=1)
    on_ramp = (levels[:, 1:] < 1) & (levels[:, :-1] > 0)
    width = [0.005 / float(step[where].mean()) for step, where in zip(steps, on_ramp, strict=True) if where.sum() > 1]
    logs = torch.tensor(width).log()
    assert abs(float(logs.mean()) - (math.log(0.05) + math.log(0.8)) / 2) < 0.06  # uniform widths: 0.45 higher
    assert abs(float(logs.std()) - math.log(16) / math.sqrt(12)) < 0.06


@pytest.mark.parametrize("front", [smp.raster_front, smp.random_cells_front])
def test_cells_of_every_size_are_as_likely(front: Arrival) -> None:
    distinct = torch.tensor([len(row.unique()) for row in front((4, 4), 6000, rng())])
    for count in (4, 16):
        assert_mean((distinct == count).float(), 0.5)


def test_a_sampler_prints_as_the_call_that_made_it() -> None:
    text = repr(smp.mixture([(0.5, smp.shared(4, smp.logit_normal(0.5, 1.0))), (0.5, smp.clean_context((2, 2)))]))
    assert text == (
        "mixture(parts=[(0.5, shared(tokens=4, law=logit_normal(mean=0.5, std=1.0))), "
        "(0.5, clean_context(grid=(2, 2), law=None, masks=None, rest=None))])"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: smp.mixture([]), "positive, finite shares"),
        (lambda: smp.mixture([(0.0, smp.shared(2))]), "positive, finite shares"),
        (lambda: smp.mixture([(1.0, smp.shared(2)), (1.0, smp.shared(3))])(8, None), "different shapes"),
        (lambda: smp.snap(smp.shared(2), 0), "bins"),
        (lambda: smp.logit_normal(std=0.0), "std"),
        (lambda: smp.async_patch(GRID, cells=[]), "patches per side"),
        (lambda: smp.async_patch(GRID, low=0.5, high=0.5), "low < high"),
        (lambda: smp.async_patch(GRID, max_spread=-1.0), "max_spread"),
        (lambda: smp.wavefront(GRID, width=(0.0, 1.0)), "width"),
        (lambda: smp.wavefront((0, 3)), "at least one"),
        (lambda: smp.wavefront(GRID, arrivals=[]), "one way"),
        (lambda: smp.clean_context((1, 1)), "two tokens"),
        (lambda: smp.clean_context(GRID, smp.logit_normal(), rest=smp.shared(N)), "not both"),
        (lambda: smp.clean_context(GRID, masks=half((2, 2))), "4 tokens"),
        (lambda: smp.clean_context(GRID, rest=smp.shared(1)), "levels of 1 tokens, the maps of 30"),
        (lambda: smp.truncated_gaussian(0), "at least one token"),
        (lambda: smp.logit_normal(mean=math.nan), "mean must be finite"),
        (
            lambda: smp.known_elements(smp.shared(3), lambda batch, generator: torch.ones(batch, 2, 4) > 0)(1, None),
            "of 2 tok",
        ),
    ],
)
def test_impossible_samplers_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
