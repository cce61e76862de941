"""What is told of a sampler before training: numbers known in closed form, coverage, and whether it is a bound."""

import math
import sys
from collections.abc import Callable
from pathlib import Path as File

import pytest
import torch
from torch import Generator, Tensor

import apd_samplers as smp
from apd_samplers import (
    Draw,
    LevelSampler,
    OnLaw,
    TrainingLevelSampler,
    bound,
    describe,
    elbo_weighting,
    marginal_corrected,
    weighted,
)
from apd_samplers._figures import trace_figure
from apd_schedules import (
    EDM,
    Cosine,
    InvertibleSchedule,
    Linear,
    NoiseMap,
    Path,
    PathLaw,
    RectifiedFlow,
    VPBeta,
    autoregressive_law,
    independent_offsets,
    logit_shift,
    quad_law,
    raster,
    sequential,
    synchronous,
    tent_law,
)

GRID, N = (8, 8), 64
RASTER = sequential(raster(GRID))
FLOW = RectifiedFlow()


def these(levels: Tensor) -> LevelSampler:
    """A sampler of the same maps again and again."""
    return lambda batch, generator: levels[torch.arange(batch) % len(levels)]


@pytest.mark.parametrize(
    ("side", "deviation", "samples"),
    [(1, 0.167, 10_000), (2, 0.083, 10_000), (4, 0.042, 20_000), (8, 0.021, 40_000), (16, 0.010, 40_000)],
)
def test_async_patch_controls_the_mean_level_the_better_the_more_patches(
    side: int, deviation: float, samples: int
) -> None:
    """A map's mean is off the controlled one by a root mean square of 1 / 6 over the root of the number of patches.

    The controlled mean is evenly spread, of variance 1/12, and what is added to it independent.
    """
    found = describe(smp.async_patch((side, side), cells=[side]), samples=samples)
    extra = float(found.mean.var(correction=0)) - 1 / 12
    assert deviation == pytest.approx(1 / 6 / side, abs=6e-4)
    # of the mean square of what is added, and of its product with the controlled mean
    error = math.hypot(deviation**2 * 1.5, 2 * deviation / math.sqrt(12)) / math.sqrt(samples)
    assert abs(extra - deviation**2) < 5 * error + 2 * deviation * 6e-4
    assert 5 * error < 1.5 * deviation**2


def test_one_patch_of_async_patch_is_often_nearly_clean() -> None:
    """``.05 + ½ (.95 ln .95 - .05 ln .05)``, ten per cent of the maps, have a mean below .05."""
    share = 0.05 + 0.5 * (0.95 * math.log(0.95) - 0.05 * math.log(0.05))
    found = describe(smp.async_patch(GRID, cells=[1]))
    assert share == pytest.approx(0.10, abs=0.001)
    for histogram in (found.mean_histogram, found.marginal):
        assert abs(float(histogram[0]) - share) < 5 * math.sqrt(share * (1 - share) / 10_000)
        assert histogram.sum() == pytest.approx(1)
    assert found.nearly_uniform == 1
    assert found.spread.max() == found.deviation.max() == 0


def test_independent_levels_never_look_like_generation() -> None:
    found = describe(smp.independent(N), path=synchronous(N))
    deviation = 1 / math.sqrt(12 * N)
    assert float(found.mean.std()) == pytest.approx(deviation, abs=5 * deviation / math.sqrt(20_000))
    assert found.nearly_uniform == found.nearly_clean == found.nearly_noise == found.clean_context == 0
    assert found.coverage is not None
    assert found.coverage.share == 0
    # of each place s, the mean square distance is (1 - s)² - (1 - s) + 1/3; the nearest of many maps is not far below
    s = found.coverage.s
    typical = (s.square() - s + 1 / 3).sqrt()
    assert (found.coverage.distance < typical).all()
    assert (found.coverage.distance > 0.6 * typical).all()


def test_shared_levels_cover_synchronous_generation_and_no_order() -> None:
    found, ordered = (describe(smp.shared(N), path=path).coverage for path in (synchronous(N), RASTER))
    fronts = describe(smp.wavefront(GRID), path=RASTER).coverage
    assert found is not None
    assert ordered is not None
    assert fronts is not None
    assert found.share == 1
    assert found.distance.max() <= 0.5e-3  # a thousand evenly spread levels a draw, ten draws
    # of 64 s tokens of noise and one between, the nearest shared map has the mean level
    done, part = (64 * found.s).floor(), (64 * found.s).frac()
    expected = ((done + part.square()) / 64 - found.s.square()).sqrt()
    torch.testing.assert_close(ordered.distance, expected, rtol=0, atol=1e-4)
    assert ordered.share == pytest.approx(float((expected <= 0.1).double().mean()))
    assert fronts.share > 0.5 + ordered.share
    assert fronts.distance.mean() < 0.25 * ordered.distance.mean()


MAPS = torch.tensor(
    [
        [0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.59],  # a clean context
        [0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.61],  # the rest is not at one level
        [0.5, 0.5, 0.0, 0.5, 0.5, 0.1, 0.5, 0.5, 0.5, 0.5],
        [0.02, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],  # one of ten is enough …
        [0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.11],  # … on either side
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.09],  # nearly done
        [0.0] * 10,
        [0.5] * 10,
        [0.9] * 5 + [1.0] * 5,
        [0.45] * 5 + [0.56] * 5,
    ],
    dtype=torch.float64,
)[..., None]


def test_statistics_of_maps_that_are_known() -> None:
    found = describe(these(MAPS), samples=10)
    assert found.context.tolist() == [True, False, False, True, True, False, False, False, False, False]
    assert found.distinct.tolist() == [3, 3, 3, 2, 3, 2, 1, 1, 2, 2]
    torch.testing.assert_close(found.mean, MAPS.mean((1, 2)))
    torch.testing.assert_close(found.spread[8:], torch.tensor([0.1, 0.11], dtype=torch.float64))
    torch.testing.assert_close(found.deviation[8:], torch.tensor([0.05, 0.055], dtype=torch.float64))
    assert found.nearly_clean == pytest.approx(0.2)
    assert found.nearly_noise == pytest.approx(0.1)
    assert found.nearly_uniform == pytest.approx(0.4)
    assert found.uniform_between == pytest.approx(1 / 7)
    assert found.clean_context == pytest.approx(0.3)
    assert found.at_ends == pytest.approx((0.32, 0.14))
    edges = torch.arange(1, 20, dtype=torch.float64) / 20  # a bin holds its lower edge, the last also 1
    below = torch.cat([torch.tensor([0]), (MAPS.flatten() < edges[:, None]).sum(1), torch.tensor([100])])
    torch.testing.assert_close(found.marginal, below.diff() / 100, check_dtype=False)


def test_levels_of_elements_are_counted_like_those_of_tokens() -> None:
    generator = Generator().manual_seed(0)
    levels = torch.rand(50, 4, 3, generator=generator, dtype=torch.float64)
    path = synchronous(4)
    found = describe(these(levels), samples=50, path=path)
    torch.testing.assert_close(found.mean, levels.mean((1, 2)))
    torch.testing.assert_close(found.spread, levels.amax((1, 2)) - levels.amin((1, 2)))
    assert found.levels == 12
    assert found.coverage is not None
    distance = (levels - found.coverage.s[:, None, None, None]).square().mean((2, 3)).sqrt().amin(1)
    torch.testing.assert_close(found.coverage.distance, distance)
    by_element = logit_shift(torch.zeros(4, 3, dtype=torch.float64))
    again = describe(these(levels[..., :1]), samples=50, path=by_element).coverage
    assert again is not None
    distance = (levels[..., :1] - found.coverage.s[:, None, None, None]).square().mean((2, 3)).sqrt().amin(1)
    torch.testing.assert_close(again.distance, distance)


def test_training_draws_are_read_by_their_schedule() -> None:
    sampler = smp.clean_context(GRID)
    plain = describe(sampler, samples=2500, path=RASTER)
    for schedule in (FLOW, Cosine()):
        found = describe(weighted(sampler, schedule), samples=2500, path=RASTER, schedule=schedule)
        torch.testing.assert_close(found.mean, plain.mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.spread, plain.spread, rtol=0, atol=1e-5)
        assert torch.equal(found.distinct, plain.distinct)
        assert found.bound is not None
        assert plain.bound is None


Make = Callable[[InvertibleSchedule], TrainingLevelSampler]
LAW = smp.logit_normal(0.3, 1.5)


def density(t: Tensor) -> Tensor:
    """Of ``LAW``."""
    off = (t.logit() - 0.3) / 1.5
    return (-0.5 * off.square()).exp() / (1.5 * math.sqrt(2 * math.pi) * t * (1 - t))


BOUNDS: dict[str, Make] = {
    "shared": lambda schedule: weighted(smp.shared(5), schedule, elbo_weighting(schedule)),
    "shared, corrected": lambda schedule: weighted(
        smp.shared(5, LAW), schedule, marginal_corrected(elbo_weighting(schedule), density, schedule)
    ),
    "quad": lambda schedule: bound(quad_law(independent_offsets(5)), schedule),
    "tent": lambda schedule: bound(OnLaw(tent_law(independent_offsets(5)), "tent"), schedule),
    "autoregressive": lambda schedule: bound(autoregressive_law(torch.arange(5), shuffle=True), schedule),
}
NO_BOUNDS: dict[str, Make] = {
    "shared, uncorrected": lambda schedule: weighted(smp.shared(5, LAW), schedule, elbo_weighting(schedule)),
    "shared, of the flow": lambda schedule: weighted(smp.shared(5), schedule),
    "independent": lambda schedule: weighted(smp.independent(5), schedule, elbo_weighting(schedule)),
    "wavefront": lambda schedule: weighted(smp.wavefront((2, 3)), schedule, elbo_weighting(schedule)),
    "autoregressive": lambda schedule: weighted(
        OnLaw(autoregressive_law(torch.arange(5), shuffle=True), "law"), schedule, elbo_weighting(schedule)
    ),
}


@pytest.mark.parametrize("schedule", [FLOW, Linear()], ids=["flow", "linear"])
@pytest.mark.parametrize("make", BOUNDS.values(), ids=BOUNDS.keys())
def test_what_is_a_bound(make: Make, schedule: InvertibleSchedule) -> None:
    found = describe(make(schedule), schedule=schedule, samples=20_000)
    assert found.bound is not None
    assert found.bound.is_bound
    assert found.bound.factor == pytest.approx(1, abs=0.1)
    assert all(count >= 30 for count in found.bound.flux.seen.values())


@pytest.mark.parametrize("schedule", [FLOW, Linear()], ids=["flow", "linear"])
@pytest.mark.parametrize("make", NO_BOUNDS.values(), ids=NO_BOUNDS.keys())
def test_what_is_not(make: Make, schedule: InvertibleSchedule) -> None:
    found = describe(make(schedule), schedule=schedule, samples=20_000).bound
    assert found is not None
    assert not found.is_bound


@pytest.mark.parametrize(
    ("law", "samples"),
    [(quad_law(independent_offsets(2)), 100_000), (tent_law(independent_offsets(2)), 20_000)],
    ids=["quad", "tent"],
)
def test_controlled_levels_with_the_ordinary_weight_are_not_one(law: PathLaw, samples: int) -> None:
    """Near misses, by one per cent for quad: it takes many maps to see."""
    found = describe(OnLaw(law, "law"), schedule=Linear(), weighting=elbo_weighting(Linear()), samples=samples).bound
    assert found is not None
    assert not found.is_bound


def test_a_bound_up_to_a_factor_is_one() -> None:
    ordinary = elbo_weighting(FLOW)
    found = describe(smp.shared(5), schedule=FLOW, weighting=lambda noise: 3 * ordinary(noise)).bound
    assert found is not None
    assert found.factor == pytest.approx(3, rel=1e-3)
    assert found.is_bound
    assert found.flux.found["first"] == pytest.approx(1, abs=1e-3)


def test_weights_of_nothing_are_no_bound() -> None:
    found = describe(smp.shared(5), schedule=FLOW, weighting=lambda noise: torch.zeros_like(noise.log_snr), samples=99)
    assert found.bound is not None
    assert not found.bound.is_bound
    assert "the mean weight is 0" in str(found)


def test_weights_that_are_right_only_on_average_are_no_bound() -> None:
    """Half of the tokens are never trained, the other half twice as much."""
    draw = weighted(smp.shared(8), FLOW, elbo_weighting(FLOW))
    half = torch.tensor([2.0, 0.0] * 4)[:, None]

    def uneven(batch: int, generator: Generator | None = None) -> Draw:
        drawn = draw(batch, generator)
        return Draw(drawn.noise, drawn.weight * half)

    for sampler, expected in ((draw, True), (uneven, False)):
        found = describe(sampler, schedule=FLOW).bound
        assert found is not None
        assert found.is_bound == expected


def test_too_few_maps_tell_nothing() -> None:
    found = describe(smp.independent(N), schedule=FLOW, weighting=elbo_weighting(FLOW), samples=20)
    assert found.bound is not None
    assert not found.bound.is_bound
    assert "too few maps to tell" in str(found)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine(), Linear(), VPBeta(), EDM()], ids=repr)
def test_ends_of_draws_are_those_of_their_levels(schedule: InvertibleSchedule) -> None:
    levels = smp.wavefront(GRID)
    drawn = describe(weighted(levels, schedule), schedule=schedule, samples=1000)
    assert drawn.at_ends == pytest.approx(describe(levels, samples=1000).at_ends)


def test_a_noisy_rest_beside_a_clean_context_is_not_nearly_clean() -> None:
    found = describe(smp.clean_context(GRID, lambda u: 0.5 + 0.5 * u), samples=1000)
    assert found.nearly_clean == 0


def test_a_description_is_a_function_of_its_seed() -> None:
    before = torch.get_rng_state()
    first, again, other = (describe(smp.independent(N), samples=1500, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.mean, other.mean)
    assert len(first.mean) == 1500


def test_it_reads_as_a_table() -> None:
    text = str(describe(smp.shared(N), path=RASTER, schedule=FLOW, weighting=elbo_weighting(FLOW), samples=1000))
    name, maps, *rows = text.splitlines()
    assert name == "shared(tokens=64, law=uniform())"
    assert maps == "1,000 maps of 64 levels (0 clean, 1 noise)"
    table = [[part.strip() for part in row.split("  ") if part.strip()] for row in rows]
    assert table == [
        ["mean level", "0.500 ± 0.289", "0.500 ± 0.289 if evenly spread"],
        ["spread, max - min", "0.000", "5, 50, 95 % of maps below 0.00, 0.00, 0.00"],
        ["standard deviation", "0.000", "of the levels of a map, on average"],
        ["distinct levels", "1.0", "of 64 in a map, on average"],
        ["clean, noise", "0.0 %, 0.0 %", "levels that are exactly 0, exactly 1"],
        ["nearly clean maps", "10.0 %", "the end of every generation"],
        ["nearly noise maps", "10.0 %", "the beginning of every generation"],
        ["nearly uniform maps", "100.0 %", "synchronous generation; 100.0 % of those in between"],
        ["clean contexts", "0.0 %", "rare! one level beside clean tokens: synchronous inpainting"],
        ["path covered", "6.1 %", "least at s = 0.03: 0 % of maps near"],
        ["likelihood bound", "yes", "up to a factor of 1, as far as 1,000 maps tell"],
    ]
    assert len({len(row) - len(row.lstrip()) for row in rows}) == 1
    notes = {row.index(parts[2], row.index(parts[1]) + len(parts[1])) for row, parts in zip(rows, table, strict=True)}
    assert len(notes) == 1  # the last column is aligned


def test_verdicts_by_their_thresholds() -> None:
    text = str(describe(smp.async_patch(GRID, cells=[8]), path=synchronous(N)))
    assert "rare! synchronous generation; 0.2 % of those in between" in text  # nearly uniform only at the ends
    text = str(describe(smp.independent(N), schedule=FLOW, weighting=elbo_weighting(FLOW)))
    for use in ("the end of every", "the beginning of every", "synchronous generation", "one level beside clean"):
        assert f"rare! {use}" in text
    assert "misses by over 1000 standard errors" in text
    assert "clean contexts" in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: describe(smp.shared(4), samples=1), "at least two maps"),
        (lambda: describe(weighted(smp.shared(4), FLOW)), "found by their schedule"),
        (lambda: describe(smp.shared(4), weighting=elbo_weighting(FLOW)), "together with a schedule"),
        (
            lambda: describe(weighted(smp.shared(4), FLOW), schedule=FLOW, weighting=elbo_weighting(FLOW)),
            "weights of their own",
        ),
        (lambda: describe(weighted(smp.shared(4), FLOW), schedule=Linear()), "the schedule they were made with"),
        (lambda: describe(smp.shared(4), path=synchronous(5)), r"\(4, 1\) or one a token"),
        (lambda: describe(these(MAPS.expand(-1, -1, 3)), path=logit_shift(torch.zeros(10, 2))), r"\(10, 3\)"),
        (lambda: describe(smp.shared(4), path=logit_shift(torch.zeros(2, 4, 1))), "without batch axes"),
    ],
)
def test_what_cannot_be_described_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("path", [None, RASTER])
def test_a_figure_is_returned_and_saved(path: Path | None, tmp_path: File) -> None:
    found = describe(smp.wavefront(GRID), path=path, samples=500)
    figure = found.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == (3 if path is None else 4)
    heights = [bar.get_height() for bar in panels[0].patches]
    assert heights == pytest.approx(found.mean_histogram.tolist())
    assert [bar.get_height() for bar in panels[1].patches] == pytest.approx(found.marginal.tolist())
    if found.coverage is not None:
        assert panels[3].lines[0].get_ydata() == pytest.approx(found.coverage.distance.tolist())


@pytest.mark.parametrize("grid", [None, GRID])
def test_a_trace_is_drawn_token_by_token_and_as_maps(grid: tuple[int, int] | None, tmp_path: File) -> None:
    levels = NoiseMap(FLOW(RASTER(torch.linspace(1, 0, 30)))).flow_level[..., 0]
    figure = trace_figure(levels, grid, tmp_path / "trace.pdf")
    assert (tmp_path / "trace.pdf").read_bytes().startswith(b"%PDF")
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert (images[-1] == levels.T.numpy()).all()
    if grid is not None:
        assert len(images) == 9
        assert [axes.get_title() for axes in figure.axes[:3]] == ["start", "step 4", "step 8"]
        assert (images[1] == levels[4].reshape(grid).numpy()).all()


def test_a_trace_of_few_steps_shows_each_once() -> None:
    figure = trace_figure(torch.rand(3, 6, generator=Generator().manual_seed(0)), (2, 3))
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["start", "step 1", "step 2"]


def test_a_trace_that_is_no_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="2 by 2 does not hold the 6 tokens"):
        trace_figure(torch.zeros(3, 6), (2, 2))


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"^figures need matplotlib: pip install apd-samplers\[plots\]$"):
        describe(smp.shared(4), samples=10).plot()
    with pytest.raises(ImportError, match="plots"):
        trace_figure(torch.zeros(3, 6))
