"""Training by a likelihood bound: the expected loss of the draws is the bound's diffusion term, whatever the law."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

import apd_samplers as smp
from apd_samplers import (
    LevelSampler,
    OnLaw,
    TrainingLevelSampler,
    async_patch,
    bound,
    elbo_weighting,
    loss,
    quad,
    weighted,
)
from apd_schedules import (
    GaussianDenoiser,
    InvertibleSchedule,
    Levels,
    Linear,
    PathLaw,
    Posterior,
    RectifiedFlow,
    autoregressive_law,
    correlated_offsets,
    elbo,
    flux,
    independent_offsets,
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
from oracles import autoregressive_covariance, gain, information, mean_errors

N = 4
COV = autoregressive_covariance(N, 0.95)
LAWS: dict[str, PathLaw] = {
    "shared": shared_law(N),
    "quad": quad_law(independent_offsets(N)),
    "quad, exact": quad_law(independent_offsets(N), exact=True),
    "quad, correlated": quad_law(correlated_offsets((1, N), 1.0)),
    "tent": tent_law(independent_offsets(N)),
    "walk": walk_law(N),
    "split": split_law(N),
    "autoregressive": autoregressive_law(torch.arange(N)),
    "autoregressive, shuffled": autoregressive_law(torch.arange(N) // 2, shuffle=True),
    "window": window_law(independent_offsets(N)),
    "logit shift": logit_shift_law(independent_offsets(N)),
    "probit": probit_law(independent_offsets(N)),
    "tilt": tilt_law(independent_offsets(N)),
    "two level": two_level_law(lambda b, g: torch.rand(b, N, 1, generator=g) < 0.5),
    "staggered": path_law(staggered(torch.arange(N), 0.4)),
    "mixture": mixture_law([(1.0, quad_law(independent_offsets(N))), (2.0, autoregressive_law(torch.arange(N)))]),
}


def nats(schedule: InvertibleSchedule) -> float:
    """The diffusion term of the exact denoiser: the information that the two ends differ by."""
    clean, noise = (
        information(COV, torch.full((N,), end, dtype=torch.float64)) for end in (schedule.clean, schedule.noise)
    )
    return float(clean - noise)


def expected_loss(sampler: TrainingLevelSampler, batches: int = 50, batch: int = 64) -> tuple[float, float]:
    """Of the exact denoiser, over data and noise in closed form, over draws by their mean; and its standard error.

    Between batches, since the places in a batch are evenly spread.
    """
    generator = Generator().manual_seed(0)
    errors = mean_errors(gain(COV), COV)
    draws = [sampler(batch, generator) for _ in range(batches)]
    each = torch.stack([(draw.weight[..., 0] * errors(draw.noise)).sum(1).mean() for draw in draws])
    return float(each.mean()), float(each.std()) / batches**0.5


@pytest.mark.parametrize("schedule", [Linear(), RectifiedFlow(clean=6.0, noise=-6.0)], ids=["linear", "flow"])
@pytest.mark.parametrize("name", LAWS.keys())
def test_the_expected_loss_is_the_diffusion_term(name: str, schedule: InvertibleSchedule) -> None:
    found, error = expected_loss(bound(LAWS[name], schedule))
    assert abs(found - nats(schedule)) < 5 * error + 1e-4
    assert error < 0.03 * nats(schedule)


@pytest.mark.parametrize("name", ["shared", "quad", "tent", "walk", "autoregressive, shuffled"])
def test_the_loss_itself(name: str) -> None:
    """With data and noise drawn, and the denoiser asked."""
    schedule, denoiser, generator = Linear(8.0, -8.0), GaussianDenoiser(COV), Generator().manual_seed(1)
    sampler = bound(LAWS[name], schedule)
    batches: list[Tensor] = []
    for _ in range(40):
        x = denoiser.sample(256, generator)
        eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        batches.append(loss(denoiser, x, sampler(256, generator), eps).mean())
    each = torch.stack(batches)
    assert abs(each.mean() - nats(schedule)) < 5 * each.std() / len(each) ** 0.5
    assert each.std() / len(each) ** 0.5 < 0.02 * nats(schedule)


@pytest.mark.parametrize("name", ["quad", "tent", "window", "split", "autoregressive, shuffled"])
def test_the_same_levels_with_the_ordinary_weight_are_something_else(name: str) -> None:
    """And here something better than the truth."""
    schedule = Linear()
    found, error = expected_loss(weighted(OnLaw(LAWS[name], name), schedule, elbo_weighting(schedule)))
    assert found < nats(schedule) - 8 * error


def test_shared_levels_with_the_ordinary_weight_are_the_bound() -> None:
    schedule = Linear()
    sampler: LevelSampler = OnLaw(shared_law(N), "shared")
    found, error = expected_loss(weighted(sampler, schedule, elbo_weighting(schedule)))
    assert abs(found - nats(schedule)) < 5 * error + 1e-4


@pytest.mark.parametrize("name", ["quad", "walk", "window"])
def test_draws_are_levels_weighted_by_their_velocity(name: str) -> None:
    """Maps of the law, read by the schedule; tokens that wait weigh nothing."""
    schedule, sampler = RectifiedFlow(), OnLaw(LAWS[name], name)
    levels = sampler.draw(64, Generator().manual_seed(0))
    draw = bound(sampler, schedule)(64, Generator().manual_seed(0))
    assert draw.weight.dtype == draw.noise.log_snr.dtype == torch.float32
    torch.testing.assert_close(draw.noise.log_snr, schedule(levels.level).float())
    ordinary = elbo_weighting(schedule)(type(draw.noise)(schedule(levels.level)))
    torch.testing.assert_close(draw.weight, (levels.velocity * ordinary).float(), rtol=1e-5, atol=0)
    assert (draw.weight[levels.velocity == 0] == 0).all()
    assert ((draw.weight >= 0) & draw.weight.isfinite()).all()


def test_places_on_the_paths_are_evenly_spread_over_a_batch() -> None:
    levels = OnLaw(shared_law(N), "shared")(256, Generator().manual_seed(0))
    assert levels.shape == (256, N, 1)
    assert levels.dtype == torch.float32
    assert (levels[:, 0, 0] * 256).floor().long().sort().values.tolist() == list(range(256))
    assert not torch.equal(levels, levels.sort(0).values)


@pytest.mark.parametrize("make", [lambda: OnLaw(LAWS["quad"], "quad"), lambda: bound(LAWS["quad"], Linear())])
def test_a_function_of_its_generator_and_of_nothing_global(make: Callable[[], Callable[..., object]]) -> None:
    def found(seed: int) -> Tensor:
        drawn = make()(8, Generator().manual_seed(seed))
        return drawn if isinstance(drawn, Tensor) else drawn.noise.log_snr  # pyrefly: ignore

    before = torch.get_rng_state()
    assert torch.equal(found(3), found(3))
    assert not torch.equal(found(3), found(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sampler_on_a_law_prints_as_what_made_it() -> None:
    sampler = OnLaw(LAWS["quad"], "quad(tokens=4)")
    assert repr(sampler) == "quad(tokens=4)"
    assert repr(bound(sampler, Linear())) == "bound(sampler=quad(tokens=4), schedule=Linear(clean=13.3, noise=-5.0))"


def test_what_knows_no_velocities_or_wrong_ones_makes_no_bound() -> None:
    for sampler in (smp.independent(4), smp.snap(smp.quad(4), 8), synchronous(4)):
        with pytest.raises(TypeError, match="needs the velocities of a law of paths"):
            bound(sampler, Linear())  # pyrefly: ignore
    tent = tent_law(independent_offsets(4))
    forgetful = PathLaw(tent.draw, lambda u, offsets: Levels(tent.at(u, offsets).level, torch.ones(len(u), 4, 1)))
    with pytest.raises(ValueError, match="not the derivatives of its levels"):
        bound(forgetful, Linear())


def test_flux_takes_samplers_as_they_are() -> None:
    """With the weight of ordinary diffusion, as the error of a bound over them says."""
    assert not flux(async_patch((2, 2)), 20_000).is_bound
    x = torch.zeros(2, 4, 1)
    with pytest.raises(TypeError, match="Use a law such as quad_law, or see what flux says of the sampler"):
        elbo(lambda z, noise: Posterior(z), x, RectifiedFlow(), async_patch((2, 2)), generator=Generator())  # pyrefly: ignore
    with pytest.raises(TypeError, match=r"Use its law, sampler.law, or see what flux says of the sampler"):
        elbo(lambda z, noise: Posterior(z), x, RectifiedFlow(), quad(4), generator=Generator())  # pyrefly: ignore
