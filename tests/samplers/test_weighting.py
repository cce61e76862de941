"""Weights of the literature, each against its definition in another form, and over all levels of all schedules."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

import apd_samplers as smp
from apd_samplers import (
    AsyncPatchMarginal,
    Draw,
    Weighting,
    edm_weighting,
    elbo_weighting,
    loss,
    marginal_corrected,
    min_snr_weighting,
    sigmoid_weighting,
    weighted,
)
from apd_schedules import (
    EDM,
    Cosine,
    InvertibleSchedule,
    LearnedSchedule,
    Linear,
    NoiseMap,
    Posterior,
    RectifiedFlow,
    VPBeta,
    corrupt,
    diffusion_nats,
    edm_from_x,
    shifted,
)
from oracles import Gaussian, autoregressive_covariance, gain, information, mean_errors

SCHEDULES: dict[str, InvertibleSchedule] = {
    "rectified flow": RectifiedFlow(),
    "rectified flow, far ends": RectifiedFlow(clean=40.0, noise=-40.0),
    "cosine": Cosine(),
    "linear": Linear(),
    "VP": VPBeta(),
    "EDM": EDM(),
    "EDM, linear": EDM(rho=1.0),
    "shifted": shifted(RectifiedFlow(), -3.0),
    "shifted VP": shifted(VPBeta(), -2.5),
    "learned": LearnedSchedule(generator=Generator().manual_seed(0)).requires_grad_(False),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
LOG_SNR = NoiseMap(torch.linspace(-16, 16, 65, dtype=torch.float64)[:, None])


def test_min_snr_is_the_error_of_eps_or_of_x_whichever_weighs_less() -> None:
    """In the paper's form for eps: ``min(gamma / SNR, 1)``."""
    snr = (LOG_SNR.alpha / LOG_SNR.sigma).square()
    paper = smp.eps_weighting(LOG_SNR) * torch.minimum(3.0 / snr, torch.ones_like(snr))
    torch.testing.assert_close(min_snr_weighting(3.0)(LOG_SNR), paper, rtol=1e-12, atol=0)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_edm_is_its_lambda_of_sigma(std: float) -> None:
    sigma = LOG_SNR.sigma / LOG_SNR.alpha
    paper = (sigma.square() + std**2) / (sigma * std).square()
    torch.testing.assert_close(edm_weighting(std)(LOG_SNR), paper, rtol=1e-12, atol=0)
    if std == 1:
        torch.testing.assert_close(paper, smp.v_weighting(LOG_SNR), rtol=1e-12, atol=0)


def test_edm_is_the_plain_error_of_its_networks_output() -> None:
    generator = Generator().manual_seed(0)
    x, eps = torch.randn(2, 5, 4, 1, generator=generator, dtype=torch.float64)
    noise = NoiseMap(torch.linspace(-6, 6, 20, dtype=torch.float64).reshape(5, 4, 1))
    z, oracle = corrupt(x, noise, eps), Gaussian(4, seed=1)
    plain = (edm_from_x(x, z, noise, 0.7) - edm_from_x(oracle(z, noise).mean, z, noise, 0.7)).square().sum((-2, -1))
    got = loss(oracle, x, Draw(noise, edm_weighting(0.7)(noise)), eps)
    torch.testing.assert_close(got, plain, rtol=1e-9, atol=0)


def test_elbo_of_the_flow_in_its_time() -> None:
    """``½ (2 / (t (1 - t))) ((1 - t) / t)²``, by the level, which is the time without its ends."""
    schedule = RectifiedFlow(clean=16.0, noise=-16.0)
    t, ends = LOG_SNR.flow_level, 1 / (1 + torch.tensor([8.0, -8.0], dtype=torch.float64).exp())
    expected = (ends[1] - ends[0]) * (1 - t) / t**3
    torch.testing.assert_close(elbo_weighting(schedule)(LOG_SNR), expected, rtol=1e-8, atol=0)


def test_elbo_of_a_cosine_in_its_angle() -> None:
    """``½ (4 / sin 2a) cot² a``, with ``tan a = sigma / alpha``."""
    schedule = Cosine(clean=16.0, noise=-16.0)
    angle, ends = torch.atan2(LOG_SNR.sigma, LOG_SNR.alpha), torch.tensor([-8.0, 8.0], dtype=torch.float64).exp().atan()
    expected = (ends[1] - ends[0]) * 2 / (2 * angle).sin() / angle.tan().square()
    torch.testing.assert_close(elbo_weighting(schedule)(LOG_SNR), expected, rtol=1e-8, atol=0)


@each_schedule
def test_elbo_is_half_the_slope_of_the_snr(schedule: InvertibleSchedule) -> None:
    """By central differences of the SNR in the level."""
    level = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)[:, None]
    step = 1e-6
    slope = (schedule(level - step).exp() - schedule(level + step).exp()) / (2 * step)
    torch.testing.assert_close(elbo_weighting(schedule)(NoiseMap(schedule(level))), 0.5 * slope, rtol=1e-6, atol=0)


@each_schedule
def test_elbo_makes_the_loss_the_bounds_integrand(schedule: InvertibleSchedule) -> None:
    generator = Generator().manual_seed(0)
    x, eps = torch.randn(2, 7, 4, 3, generator=generator, dtype=torch.float64)
    level = torch.rand(7, 4, 1, generator=generator, dtype=torch.float64)
    log_snr, rate, *_ = torch.func.jvp(schedule, (level,), (torch.ones_like(level),))
    noise = NoiseMap(log_snr)

    def guess(z: Tensor, noise: NoiseMap) -> Posterior:
        return Posterior(noise.alpha * z)

    got = loss(guess, x, Draw(noise, elbo_weighting(schedule)(noise)), eps)
    nats = diffusion_nats(x, corrupt(x, noise, eps) * noise.alpha, noise, rate)
    torch.testing.assert_close(got, nats, rtol=1e-7, atol=0)


def test_elbo_of_shared_levels_integrates_to_the_information() -> None:
    """The I-MMSE relation, by the midpoint rule: the expected loss is the information that the ends differ by."""
    schedule, cov = Linear(), autoregressive_covariance(4, 0.9)
    level = ((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[:, None, None].expand(-1, 4, 1)
    noise = NoiseMap(schedule(level))
    errors = mean_errors(gain(cov), cov)(noise)
    found = (elbo_weighting(schedule)(noise)[..., 0] * errors).sum(1).mean()
    ends = (information(cov, torch.full((4,), end, dtype=torch.float64)) for end in (schedule.clean, schedule.noise))
    torch.testing.assert_close(found, next(ends) - next(ends), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_sigmoid_on_the_error_of_the_flow(bias: float) -> None:
    """On the flow's error the bound's weight is ``(1 - t) / t``, of which the sigmoid leaves
    ``1 / (1 + e^-bias ((1 - t) / t)²)``."""
    schedule = RectifiedFlow(clean=16.0, noise=-16.0)
    t, span = LOG_SNR.flow_level, math.tanh(4.0)  # of the times between the ends
    on_flow = span * ((1 - t) / t) / (1 + math.exp(-bias) * ((1 - t) / t).square())
    expected = on_flow * smp.flow_weighting(LOG_SNR)
    torch.testing.assert_close(sigmoid_weighting(schedule, bias)(LOG_SNR), expected, rtol=1e-8, atol=0)


@each_schedule
@pytest.mark.parametrize("bias", [-3.0, 1.0])
def test_sigmoid_is_the_published_weight_of_x(schedule: InvertibleSchedule, bias: float) -> None:
    """``½ (-d log_snr / dt) e^bias sigmoid(log_snr - bias)``; half of the bound's at the bias."""
    level = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)[:, None]
    noise, step = NoiseMap(schedule(level)), 1e-6
    rate = (schedule(level + step) - schedule(level - step)) / (2 * step)
    published = -0.5 * rate * math.exp(bias) * (noise.log_snr - bias).sigmoid()
    torch.testing.assert_close(sigmoid_weighting(schedule, bias)(noise), published, rtol=1e-6, atol=0)
    half = NoiseMap(torch.full((1, 1), bias, dtype=torch.float64))
    torch.testing.assert_close(sigmoid_weighting(schedule, bias)(half), 0.5 * elbo_weighting(schedule)(half))


def test_corrected_levels_count_as_uniform_ones() -> None:
    """The mean of ``t²`` over AsyncPatch's levels, corrected, is 1/3. Five standard errors."""
    schedule, generator = RectifiedFlow(), Generator().manual_seed(0)
    weighting = marginal_corrected(smp.x_weighting, AsyncPatchMarginal(0.1, 1.0, 0.3).density, schedule)
    draw = weighted(smp.async_patch((6, 6), low=0.1, high=1.0, max_spread=0.3), schedule, weighting)(20_000, generator)
    each = (draw.weight * schedule.level_of(draw.noise.log_snr).square()).double().mean((1, 2))
    assert abs(each.mean() - (1 - 0.1**3) / 3) < 5 * each.std() / len(each) ** 0.5


@each_schedule
def test_corrected_at_the_ends_is_as_it_was(schedule: InvertibleSchedule) -> None:
    """In float32, where an end may come back from its log-SNR a digit off."""
    noise = NoiseMap(schedule(torch.tensor([[0.0], [1.0], [0.5]])))
    nowhere = marginal_corrected(smp.v_weighting, lambda t: torch.full_like(t, torch.nan), schedule)(noise)
    assert torch.equal(nowhere[:2], smp.v_weighting(noise)[:2])
    never = marginal_corrected(smp.v_weighting, torch.zeros_like, schedule)(noise)
    assert torch.equal(never[:2], smp.v_weighting(noise)[:2])
    assert never[2] == 0
    halved = marginal_corrected(smp.v_weighting, lambda t: torch.full_like(t, 2.0), schedule)(noise)
    assert halved[2] == smp.v_weighting(noise)[2] / 2


MAKE: dict[str, Callable[[InvertibleSchedule], Weighting]] = {
    "x": lambda schedule: smp.x_weighting,
    "eps": lambda schedule: smp.eps_weighting,
    "v": lambda schedule: smp.v_weighting,
    "flow": lambda schedule: smp.flow_weighting,
    "min-SNR": lambda schedule: min_snr_weighting(),
    "EDM": lambda schedule: edm_weighting(),
    "elbo": elbo_weighting,
    "sigmoid": lambda schedule: sigmoid_weighting(schedule, -2.0),
    "corrected": lambda schedule: marginal_corrected(elbo_weighting(schedule), AsyncPatchMarginal().density, schedule),
}


@each_schedule
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_every_weight_in_float32_is_that_of_float64(
    make: Callable[[InvertibleSchedule], Weighting], schedule: InvertibleSchedule
) -> None:
    """Positive and finite at every level. Next to noise, where little is weighed, levels have few digits in float32."""
    near = torch.logspace(-6, -1, 60)
    level = torch.cat([torch.zeros(1), near, torch.linspace(0.1, 0.9, 100), 1 - near, torch.ones(1)])[:, None]
    noise = NoiseMap(schedule(level))
    weight = make(schedule)(noise)
    assert weight.dtype == torch.float32
    assert ((weight > 0) & weight.isfinite()).all()
    exact = make(schedule)(NoiseMap(noise.log_snr.double()))
    off = (weight / exact - 1).abs()[(level > 2e-6) & (level < 1 - 2e-6)]  # beside the ends one may count as one
    assert off.max() < 0.02
    assert off.median() < 1e-5


def test_a_weighting_prints_as_its_call() -> None:
    schedule = Linear(clean=8.0, noise=-6.0)
    text = "elbo_weighting(schedule=Linear(clean=8.0, noise=-6.0))"
    density = AsyncPatchMarginal().density
    assert repr(min_snr_weighting()) == "min_snr_weighting(gamma=5.0)"
    assert repr(edm_weighting(1.0)) == "edm_weighting(sigma_data=1.0)"
    assert repr(elbo_weighting(schedule)) == text
    assert repr(sigmoid_weighting(schedule)) == "sigmoid_weighting(schedule=Linear(clean=8.0, noise=-6.0), bias=0.0)"
    assert repr(marginal_corrected(elbo_weighting(schedule), density, schedule)).startswith(
        f"marginal_corrected(weighting={text}, density="
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: min_snr_weighting(0.0), "gamma, a signal-to-noise ratio, must be positive"),
        (lambda: min_snr_weighting(math.inf), "gamma"),
        (lambda: edm_weighting(-0.5), "sigma_data, a standard deviation, must be positive"),
        (lambda: sigmoid_weighting(Linear(), math.nan), "bias is a log-SNR"),
    ],
)
def test_impossible_weightings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
