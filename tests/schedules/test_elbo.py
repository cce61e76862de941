"""The estimates: unbiased to their own standard errors, whatever the path, on data whose likelihood is known.

Seeds are fixed; what is drawn is compared at four or five standard errors.
"""

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from apd_schedules import (
    EDM,
    ContinuousGaussian,
    Cosine,
    DiscretizedGaussian,
    Elbo,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    LearnedSchedule,
    Levels,
    Linear,
    NoiseMap,
    PathLaw,
    Posterior,
    RectifiedFlow,
    VPBeta,
    adaptive_elbo,
    autoregressive_law,
    beta_law,
    correlated_offsets,
    elbo,
    gaussian_texture,
    hold_clean,
    independent_offsets,
    logit_shift_law,
    mixture_law,
    path_weights,
    prior_nats,
    probit_law,
    quad_law,
    sequential,
    shared_law,
    split_law,
    synchronous,
    tent_law,
    two_level_law,
    walk_law,
    walk_log_density,
    window_law,
)
from apd_schedules._elbo import check_data, check_known
from apd_schedules._estimate import Bound, Draws, Rows, draw
from long_runs import unchecked
from oracles import autoregressive_covariance, covariance, information

N = 5
CONTINUOUS = ContinuousGaussian()


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def laws(n: int = N) -> dict[str, Any]:
    offsets = independent_offsets(n)
    return {
        "path, synchronous": synchronous(n),
        "path, sequential": sequential(torch.arange(n)),
        "shared": shared_law(n),
        "quad": quad_law(offsets),
        "quad, exact": quad_law(offsets, exact=True),
        "tent": tent_law(offsets),
        "tent, correlated": tent_law(correlated_offsets((1, n), 1.5)),
        "logit shift": logit_shift_law(offsets),
        "window": window_law(offsets),
        "probit": probit_law(offsets),
        "beta": beta_law(offsets),
        "split": split_law(n),
        "autoregressive": autoregressive_law(torch.arange(n), shuffle=True),
        "two level": two_level_law(lambda b, g: torch.rand(b, n, 1, generator=g) < 0.5),
        "walk": walk_law(n),
        "mixture": mixture_law([(1.0, tent_law(offsets)), (1.0, autoregressive_law(torch.arange(n)))]),
    }


def assert_unbiased(found: Elbo, exact: Tensor, slack: float = 0.0, errors: float = 5.0) -> None:
    off = found.nats - exact
    assert abs(off.mean()) < errors * off.std() / len(off) ** 0.5 + slack, (float(off.mean()), float(off.std()))


@pytest.mark.parametrize("name", laws())
def test_every_law_gives_the_likelihood_of_the_exact_denoiser(name: str) -> None:
    model = GaussianDenoiser(covariance(N, 0))
    x = model.sample(100, seeded(1))
    found = elbo(
        model,
        x,
        Linear(14.0, -14.0),
        laws()[name],
        generator=seeded(2),
        points=32,
        likelihood=CONTINUOUS,
        data_variance=1.0,
    )
    assert_unbiased(found, -model.log_prob(x))
    assert (found.prior < 1e-4).all()
    assert found.evaluations == 32


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine(), Linear(12.0, -16.0)], ids=str)
def test_every_schedule_gives_it_too(schedule: Any) -> None:
    model = GaussianDenoiser(covariance(N, 3))
    x = model.sample(60, seeded(1))
    law = laws()["quad"]
    found = elbo(model, x, schedule, law, generator=seeded(2), points=64, likelihood=CONTINUOUS, data_variance=1.0)
    assert_unbiased(found, -model.log_prob(x))


def test_a_learned_schedule_gives_it_too() -> None:
    model, schedule = GaussianDenoiser(covariance(N, 3)), LearnedSchedule(14.0, -14.0, generator=seeded(0)).double()
    x = model.sample(60, seeded(1))
    law = laws()["tent"]
    found = elbo(model, x, schedule, law, generator=seeded(2), points=32, likelihood=CONTINUOUS, data_variance=1.0)
    assert_unbiased(found, -model.log_prob(x))


@pytest.mark.parametrize("name", [name for name in laws() if name != "beta"])
def test_discrete_steps_are_never_below_the_truth(name: str) -> None:
    """By more than the stated error, with all steps looked at; and closer with four times as many."""
    model = GaussianDenoiser(covariance(3, 4))
    x = model.sample(60, seeded(5))
    exact = -model.log_prob(x)
    mean = {}
    for steps in (64, 256):
        found = elbo(
            model,
            x,
            Linear(8.0, -8.0),
            laws(3)[name],
            generator=seeded(6),
            points=steps,
            steps=steps,
            likelihood=CONTINUOUS,
        )
        off = found.nats - exact
        error = found.standard_error.square().sum().sqrt() / len(x)
        assert off.mean() > -4 * error
        mean[steps] = off.mean()
    assert mean[256] < mean[64]


@pytest.mark.parametrize("path", [synchronous(3), sequential(torch.arange(3))], ids=["synchronous", "sequential"])
def test_as_many_points_as_steps_look_at_each_step_once(path: Any) -> None:
    """For a blind denoiser the steps telescope: ½ (SNR_clean - SNR_noise) x², exactly."""
    x = torch.randn(4, 3, 1, generator=seeded(0), dtype=torch.float64)
    blind, schedule = lambda z, noise: Posterior(torch.zeros_like(z)), Linear(3.0, -2.0)
    found = elbo(blind, x, schedule, path, generator=seeded(1), points=7, steps=7, likelihood=CONTINUOUS)
    snr = math.exp(3.0) - math.exp(-2.0)
    torch.testing.assert_close(found.diffusion, 0.5 * snr * x.square().sum((1, 2)), rtol=1e-12, atol=0)


def test_few_points_estimate_all_steps() -> None:
    model = GaussianDenoiser(covariance(N, 4))
    x = model.sample(1, seeded(5)).expand(1500, -1, -1)
    ask = lambda points, seed: elbo(
        model,
        x,
        Linear(8.0, -8.0),
        quad_law(independent_offsets(N)),
        generator=seeded(seed),
        points=points,
        steps=40,
        likelihood=CONTINUOUS,
    )
    few, all_of_them = ask(4, 0).nats, ask(40, 1).nats
    gap = few.mean() - all_of_them.mean()
    assert abs(gap) < 5 * ((few.var() + all_of_them.var()) / 1500) ** 0.5


@pytest.mark.parametrize("steps", [4, 16])
def test_own_variance_tightens_steps_and_stays_a_bound(steps: int) -> None:
    """Where the posterior of each token is normal, widening by its variance is the best a step can do."""
    model = GaussianDenoiser(covariance(N, 4))
    x = model.sample(300, seeded(5))
    exact = -model.log_prob(x)
    plain, own = (
        elbo(
            model,
            x,
            Linear(8.0, -8.0),
            quad_law(independent_offsets(N)),
            generator=seeded(6),
            points=steps,
            steps=steps,
            likelihood=CONTINUOUS,
            own_variance=widened,
        )
        for widened in (False, True)
    )
    assert own.nats.mean() < plain.nats.mean() - 1
    assert (own.nats - exact).mean() > -5 * (own.nats - exact).std() / 300**0.5
    assert own.evaluations == steps + min(steps, 8)


def test_own_variance_in_continuous_time_is_of_the_clean_end() -> None:
    """Where the schedule ends far from clean, the guess tells the data better than z does."""
    model = GaussianDenoiser(covariance(N, 4))
    x = model.sample(1000, seeded(5))
    ask = lambda own: elbo(
        model,
        x,
        Linear(2.0, -10.0),
        shared_law(N),
        generator=seeded(6),
        points=16,
        likelihood=CONTINUOUS,
        own_variance=own,
    )
    plain, own = ask(False), ask(True)
    torch.testing.assert_close(plain.diffusion, own.diffusion)
    gain = plain.reconstruction - own.reconstruction
    assert gain.mean() > 5 * gain.std() / 1000**0.5
    assert (own.nats + model.log_prob(x)).mean() > 0


@pytest.mark.parametrize("name", ["quad", "autoregressive", "walk", "path, synchronous"])
@pytest.mark.parametrize("context", [0.0, 0.5])
def test_conditional_bound_is_the_conditional_likelihood(name: str, context: float) -> None:
    """Clean context: -log p(x_unknown | x_known) at every image. Noisy: its mean over the context's noise, which
    moves the mean of the conditional law, a normal one, and not its covariance."""
    model, known = GaussianDenoiser(covariance(N, 2)), torch.tensor([1, 0, 1, 0, 0]).bool()[:, None]
    x = model.sample(80, seeded(3))
    schedule = Linear(16.0, -16.0)
    found = elbo(
        model,
        x,
        schedule,
        laws()[name],
        generator=seeded(4),
        points=64,
        likelihood=CONTINUOUS,
        known=known,
        context=context,
        data_variance=1.0,
    )
    assert (found.dims == 3).all()
    unknown = ~known[:, 0]
    if context == 0:
        exact = [-model.conditional(image, known).log_prob(image[unknown]) for image in x]
    else:
        noise = NoiseMap(schedule(torch.tensor([[context]], dtype=torch.float64)))
        of = lambda seen: model.conditional(seen, known, noise)
        units = torch.eye(N, dtype=torch.float64)[~unknown][..., None]
        gain = torch.cat([of(unit).mean for unit in units], 1)  # what is seen moves the mean by this, linearly
        spread = torch.trace(torch.linalg.solve(of(x[0]).cov, gain @ gain.T)) * noise.sigma.square().squeeze()
        exact = [-of(noise.alpha * image).log_prob(image[unknown]) + 0.5 * spread for image in x]
    assert_unbiased(found, torch.stack(exact))


def test_what_is_known_counts_in_no_term() -> None:
    """With ends at which prior and reconstruction weigh: of the unknown tokens alone, whatever the known ones hold."""
    known = torch.tensor([1, 0, 1, 0, 0]).bool()[:, None]
    x = torch.randn(6, N, 1, generator=seeded(0), dtype=torch.float64)
    other = torch.where(known, 100 * torch.randn(x.shape, generator=seeded(1), dtype=torch.float64), x)
    blind = lambda z, noise: Posterior(torch.zeros_like(z))
    ask = lambda x: elbo(
        blind,
        x,
        Linear(3.0, -1.0),
        tent_law(independent_offsets(N)),
        generator=seeded(2),
        points=4,
        likelihood=CONTINUOUS,
        known=known,
    )
    one, two = ask(x), ask(other)
    for name in ("prior", "reconstruction", "diffusion"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=0, atol=1e-12)
    end = NoiseMap(torch.full((1, 1), -1.0, dtype=torch.float64))
    torch.testing.assert_close(one.prior, prior_nats(x[:, ~known[:, 0]], end))


@pytest.mark.parametrize("context", [0.0, 0.5])
def test_a_clean_context_is_shown_to_the_bit_and_a_noisy_one_is_not(context: float) -> None:
    known = torch.tensor([1, 0, 1]).bool()[:, None]
    x, seen = torch.randn(4, 3, 2, generator=seeded(0)), []

    def watch(z: Tensor, noise: NoiseMap) -> Posterior:
        seen.append((z[:, known[:, 0]] == x.repeat_interleave(4, 0)[:, known[:, 0]]).all())
        return Posterior(z)

    elbo(
        watch,
        x,
        Linear(2.0, -2.0),
        shared_law(3),
        generator=seeded(1),
        points=4,
        likelihood=CONTINUOUS,
        known=known,
        context=context,
    )
    assert seen == [context == 0]


def test_known_may_be_elements_and_differ_between_images() -> None:
    model = GaussianDenoiser(covariance(6, 2), torch.zeros(3, 2).double())
    x = model.sample(60, seeded(3))
    known = torch.rand(60, 3, 2, generator=seeded(0)) < 0.5
    known[:, 0, 0] = False
    found = elbo(
        model,
        x,
        Linear(16.0, -16.0),
        quad_law(independent_offsets(3)),
        generator=seeded(4),
        points=64,
        likelihood=CONTINUOUS,
        known=known,
        data_variance=1.0,
    )
    exact = [-model.conditional(i, k).log_prob(i[~k][:, None]) for i, k in zip(x, known, strict=True)]
    assert_unbiased(found, torch.stack(exact))
    assert torch.equal(found.dims, (~known).sum((1, 2)).double())


def discrete_data(
    values: int, n: int, seed: int, correlation: float = 0.9
) -> tuple[GaussianMixtureDenoiser, Tensor, Tensor]:
    """A correlated law on all ``values ** n`` points, with log-probabilities in the order of the points."""
    place = torch.linspace(-1, 1, values, dtype=torch.float64)
    points = torch.tensor([*itertools.product(place.tolist(), repeat=n)], dtype=torch.float64)
    precision = torch.linalg.inv(0.35 * autoregressive_covariance(n, correlation))
    ripple = torch.randn(len(points), generator=seeded(seed), dtype=torch.float64)
    log_p = (-0.5 * (points @ precision * points).sum(1) + 0.3 * ripple).log_softmax(0).clamp(min=-60)
    covs = torch.zeros(len(points), n, n, dtype=torch.float64)
    return GaussianMixtureDenoiser(log_p.exp(), points[..., None], covs), points, log_p


TOY = ["shared", "quad", "tent", "window", "autoregressive", "walk", "split"]


def toy(images: int) -> tuple[GaussianMixtureDenoiser, Tensor, Tensor]:
    model, points, log_p = discrete_data(8, 3, 0)
    chosen = torch.multinomial(log_p.exp(), images, replacement=True, generator=seeded(1))
    return model, points[chosen][..., None], -log_p[chosen]


@pytest.mark.parametrize("name", TOY)
def test_discrete_data_end_to_end(name: str) -> None:
    """Eight values, three tokens, VDM's ends: the probabilities of the points themselves, on every path."""
    model, x, exact = toy(400)
    found = elbo(
        model,
        x,
        Linear(),
        laws(3)[name],
        generator=seeded(2),
        points=16,
        likelihood=DiscretizedGaussian(8),
        batch=2048,
    )
    assert_unbiased(found, exact, slack=float(found.prior.mean()), errors=4)


def test_the_two_wrong_weights_report_better_than_the_truth() -> None:
    """Independent levels, and a controlled sampler, with the ordinary weight: on data whose tokens are alike, both say
    less than the true negative log-likelihood. elbo takes neither."""
    model, points, log_p = discrete_data(8, 3, 0, correlation=0.995)
    chosen = torch.multinomial(log_p.exp(), 400, replacement=True, generator=seeded(1))
    x, exact = points[chosen][..., None], -log_p[chosen]
    tent = laws(3)["tent"]
    wrong = {
        "independent": PathLaw(independent_offsets(3), lambda u, t: Levels(t, torch.ones_like(t))),
        "controlled": PathLaw(tent.draw, lambda u, s: Levels(tent.at(u, s).level, torch.ones_like(s))),
    }
    right = elbo(model, x, Linear(), tent, generator=seeded(2), points=16, likelihood=DiscretizedGaussian(8))
    for name, law in wrong.items():
        draws, _ = draw(law, x, 16, 2, seeded(3))
        bound = Bound(model, Linear(), law)
        value, _ = bound.continuous(Rows(x.repeat_interleave(16, 0), None, {}), draws, None)
        off = value.unflatten(0, (-1, 16)).mean(1) + right.prior + right.reconstruction - exact
        assert off.mean() < -5 * off.std() / len(x) ** 0.5, name
        with pytest.raises(ValueError, match=r"not all 0|not the derivatives"):
            elbo(model, x[:4], Linear(), law, generator=seeded(0), likelihood=DiscretizedGaussian(8))
    assert_unbiased(right, exact, slack=float(right.prior.mean()))


@pytest.mark.parametrize("name", [*TOY, "logit shift", "probit", "mixture"])
def test_maps_of_a_law_with_its_weights_integrate_to_the_information(name: str) -> None:
    """E ½ sum w_i (-dSNR_i/dt_i) mmse_i = I(x; z_clean) - I(x; z_noise); with weights 1 it deviates, downwards."""
    n, count = 8, 40_000
    cov = autoregressive_covariance(n, 0.95)
    model, schedule, law = GaussianDenoiser(cov), Linear(), laws(n)[name]
    g = seeded(7)
    found = law.at(torch.rand(count, generator=g, dtype=torch.float64), law.draw(count, g))
    log_snr, slope, *_ = torch.func.jvp(schedule, (found.level.contiguous(),), (torch.ones_like(found.level),))
    log_var = model(torch.zeros(count, n, 1, dtype=torch.float64), NoiseMap(log_snr)).log_var
    assert log_var is not None
    each = -0.5 * (slope * log_snr.exp())[..., 0] * log_var.exp()
    clean, noise = (schedule(torch.tensor(end, dtype=torch.float64)).expand(n) for end in (0.0, 1.0))
    exact = float(information(cov, clean) - information(cov, noise))
    weighted = (each * found.velocity[..., 0]).sum(1)
    assert abs(weighted.mean() - exact) < 4.5 * weighted.std() / count**0.5
    if name not in ("shared", "mixture", "probit"):
        plain = each.sum(1)
        assert plain.mean() - exact < -5 * plain.std() / count**0.5


def test_theorem_one() -> None:
    """What the paper's weights must satisfy: for one token they are the ordinary bound's; seen from a token, the map
    has a density of mass 1; at equal levels all tokens are as likely to move; and path_weights are their shares."""
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)[:, None]
    torch.testing.assert_close(walk_log_density(t), torch.zeros_like(t), rtol=0, atol=1e-12)
    equal = torch.full((3, 6), 0.37, dtype=torch.float64)
    torch.testing.assert_close(path_weights(equal), torch.full_like(equal, 1 / 6))
    levels = torch.rand(50, 4, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(walk_log_density(levels).softmax(-1), path_weights(levels))
    by_hand = math.factorial(3) * (1 - levels) * -torch.log1p(-levels)
    h = -torch.log1p(-levels)
    by_hand = by_hand / ((1 - levels).prod(1) * h.sum(1) ** 4)[:, None]
    torch.testing.assert_close(walk_log_density(levels).exp(), by_hand)
    # Two tokens: given t_i, the mass where t_j stays below T is h_T / (h_i + h_T), which goes to 1 with T.
    nodes = torch.linspace(-4, 4, 401, dtype=torch.float64)
    phi = 0.5 * torch.pi * nodes.sinh()
    weight = 0.5 * torch.pi * nodes.cosh() / (2 * phi.cosh().square()) * (nodes[1] - nodes[0])
    for first, limit in itertools.product((0.2, 0.7), (0.5, 0.9, 0.999)):
        second = limit * (2 * phi).sigmoid()
        pairs = torch.stack([torch.full_like(second, first), second], 1)
        mass = (walk_log_density(pairs)[:, 0].exp() * weight).sum() * limit
        h, top = -math.log1p(-first), -math.log1p(-limit)
        assert float(mass) == pytest.approx(top / (h + top), rel=1e-9)


def test_the_walk_draws_from_theorem_ones_density() -> None:
    """Means of functions of the map under walk_law, with velocities n times the share, against an importance-weighted
    mean over independent uniform levels with the theorem's density."""
    law, n, count, g = walk_law(2), 2, 400_000, seeded(3)
    u = torch.rand(count, generator=g, dtype=torch.float64)
    drawn = law.at(u, law.draw(count, g))
    naive = torch.rand(count, n, generator=g, dtype=torch.float64)
    weight = walk_log_density(naive).exp()  # bounded in the middle of the square
    inside = lambda t: ((t > 0.2) & (t < 0.9)).all(-1)
    for power in (1, 2):
        one = (drawn.velocity[..., 0] * drawn.level[..., 0] ** power).sum(1) * inside(drawn.level[..., 0])
        other = (weight * naive**power).sum(1) * inside(naive)
        error = ((one.var() + other.var()) / count) ** 0.5
        assert abs(one.mean() - other.mean()) < 5 * error


def test_stratified_points_are_closer_than_independent_ones() -> None:
    n = 32
    model = GaussianDenoiser(covariance(n, 0))
    x = model.sample(1, seeded(1)).expand(400, -1, -1)
    law, points = shared_law(n), 16
    found = elbo(model, x, Linear(), law, generator=seeded(2), points=points, likelihood=CONTINUOUS)
    bound, g = Bound(model, Linear(), law), seeded(3)
    rows = 400 * points
    eps = torch.randn(rows, n, 1, generator=g, dtype=torch.float64)
    draws = Draws(torch.rand(rows, generator=g, dtype=torch.float64), law.draw(rows, g), eps)
    single, _ = bound.continuous(Rows(x[:1].expand(rows, -1, -1), None, {}), draws, None)
    independent = single.unflatten(0, (400, points)).mean(1)
    assert found.diffusion.std() / independent.std() < 0.7
    gap = found.diffusion.mean() - independent.mean()
    assert abs(gap) < 4 * ((found.diffusion.var() + independent.var()) / 400) ** 0.5


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine(), Linear(), VPBeta(), EDM()], ids=str)
@pytest.mark.parametrize("points", [8, 15, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("control", [None, 1.0])
def test_the_stated_error_is_cautious_and_not_by_much(schedule: Any, points: int, control: float | None) -> None:
    """Of one image, 1,500 times: the stated error's mean square against the estimates' variance."""
    model = GaussianDenoiser(covariance(N, 0))
    x = model.sample(1, seeded(1)).expand(1500, -1, -1)
    law = quad_law(independent_offsets(N))
    found = elbo(
        model,
        x,
        schedule,
        law,
        generator=seeded(2),
        points=points,
        likelihood=CONTINUOUS,
        data_variance=control,
        batch=4096,
    )
    ratio = found.standard_error.square().mean().sqrt() / found.nats.std()
    assert 0.92 < ratio < 1.25


def test_control_variate_and_proposal_change_the_spread_and_not_the_mean() -> None:
    model = GaussianDenoiser(covariance(N, 0))
    x = model.sample(200, seeded(1))
    ask = lambda seed, **how: elbo(
        model,
        x,
        Linear(),
        quad_law(independent_offsets(N)),
        generator=seeded(seed),
        points=16,
        likelihood=CONTINUOUS,
        **how,
    )
    towards_clean = lambda v: v**1.5  # the density of u is 1 / (1.5 v^0.5)
    plain = ask(2)
    others = {"control": ask(3, data_variance=1.0), "proposal": ask(4, proposal=towards_clean)}
    others["odd control"] = ask(5, data_variance=0.1)
    for name, other in others.items():
        gap = (other.nats - plain.nats).mean()
        assert abs(gap) < 4 * (other.nats - plain.nats).std() / 200**0.5, name
    assert others["control"].standard_error.mean() < 0.5 * plain.standard_error.mean()


def test_adaptive_paths_are_bounds_too() -> None:
    """The most certain token first, by what the denoiser says at the moment: at twice the steps half the excess, and
    Richardson's extrapolation is the truth."""
    model = GaussianMixtureDenoiser(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[[-1.0], [0.5], [0.0]], [[1.0], [0.5], [1.0]]]).double(),
        torch.stack([0.2 * covariance(3, 1), 0.4 * covariance(3, 2)]),
    )
    x = model.sample(300, seeded(3))
    exact = -model.log_prob(x)

    def rule(parts: int) -> Any:
        def choose(level: Tensor, posterior: Posterior) -> Tensor:
            assert posterior.log_var is not None
            first = posterior.log_var.masked_fill(level[..., 0] == 0, math.inf).argmin(1)[:, None, None]
            return (
                level.scatter_add(1, first, torch.full_like(level[:, :1], -1 / parts)).clamp(min=0).mul(parts).round()
                / parts
            )

        return choose

    found = {
        parts: adaptive_elbo(
            model,
            x,
            Linear(7.0, -7.0),
            rule(parts),
            generator=seeded(4),
            max_steps=3 * parts,
            likelihood=CONTINUOUS,
            draws=4,
        )
        for parts in (32, 64)
    }
    excess = {parts: (each.nats - exact).mean() for parts, each in found.items()}
    assert excess[32] > excess[64] > 0
    richardson = 2 * found[64].nats - found[32].nats - exact
    assert abs(richardson.mean()) < 4 * richardson.std() / 300**0.5
    assert found[32].evaluations == 4 * 96


def test_an_adaptive_rule_must_go_down_and_arrive() -> None:
    model, x = GaussianDenoiser(torch.eye(2).double()), torch.zeros(1, 2, 1).double()

    def ask(rule: Any, denoise: Any) -> Elbo:
        how: dict[str, Any] = {"max_steps": 3, "likelihood": CONTINUOUS}
        return adaptive_elbo(denoise, x, Linear(), rule, generator=seeded(), **how)

    with pytest.raises(ValueError, match="raised a level"):
        ask(lambda level, posterior: level + 0.1, model)
    with pytest.raises(ValueError, match="raised a level"):
        ask(lambda level, posterior: level * math.nan, model)
    with pytest.raises(ValueError, match="within 3 steps"):
        ask(lambda level, posterior: level * 0.5, model)
    with pytest.raises(ValueError, match="levels of shape"):
        ask(lambda level, posterior: level[..., 0], model)
    with pytest.raises(ValueError, match="not finite"):
        ask(lambda level, posterior: level * 0, lambda z, noise: Posterior(z * math.nan))


def test_adaptive_bounds_in_float32_keep_the_noise_of_the_clean_end() -> None:
    """At a log-SNR of 30 the noise is 3e-7: a trajectory kept in float32 would have lost it."""
    model, x = GaussianDenoiser(torch.eye(2).double()), torch.randn(20, 2, 1, generator=seeded(0))

    def single(z: Tensor, noise: NoiseMap) -> Posterior:
        return Posterior(model(z.double(), NoiseMap(noise.log_snr.double())).mean.to(z.dtype))

    ask = lambda denoise, x: (
        adaptive_elbo(
            denoise,
            x,
            Linear(30.0, -10.0),
            lambda level, posterior: (level - 0.25).clamp(min=0),
            generator=seeded(1),
            max_steps=4,
            likelihood=CONTINUOUS,
            batch=16,
        ).reconstruction
    )
    torch.testing.assert_close(ask(single, x), ask(model, x.double()), rtol=0, atol=1e-6)


def test_results_do_not_depend_on_the_batch_and_conditions_go_with_their_images() -> None:
    def denoise(z: Tensor, noise: NoiseMap, shift: Tensor) -> Posterior:
        return Posterior(noise.alpha * z + shift[:, None, None])

    x, shift = torch.randn(7, 3, 2, generator=seeded(0)), torch.arange(7.0)
    ask = lambda batch: elbo(
        denoise,
        x,
        Linear(),
        quad_law(independent_offsets(3)),
        generator=seeded(1),
        points=6,
        likelihood=CONTINUOUS,
        batch=batch,
        cond={"shift": shift},
    )
    one, many = ask(1), ask(1000)  # one: even the points of an image go through the network one by one
    torch.testing.assert_close(one.nats, many.nats, rtol=1e-6, atol=0)
    assert (many.diffusion.diff() > 0).all()  # a larger shift errs more


def test_float32_is_close_to_float64() -> None:
    model = GaussianDenoiser(covariance(N, 0))
    x = model.sample(20, seeded(1))

    def single(z: Tensor, noise: NoiseMap) -> Posterior:
        return Posterior(model(z.double(), NoiseMap(noise.log_snr.double())).mean.to(z.dtype))

    ask = lambda denoise, x: (
        elbo(denoise, x, Linear(), shared_law(N), generator=seeded(2), points=16, likelihood=CONTINUOUS).nats
    )
    torch.testing.assert_close(ask(single, x.float()), ask(model, x), rtol=0, atol=0.02)


def test_the_average_states_its_error() -> None:
    nats = torch.tensor([0.0, 2.0]).double() * math.log(2)
    found = Elbo(nats, nats, nats, torch.zeros(2), torch.full((2,), 6.0), 1)
    assert found.average() == (pytest.approx(0.5), pytest.approx(0.5))
    torch.testing.assert_close(found.bits_per_dim, torch.tensor([0.0, 1.0]).double())


@pytest.mark.parametrize("values", [2, 8, 256])
def test_discretized_gaussian_sums_to_one(values: int) -> None:
    """Over all values, for any centre, also beyond the range, and any variance; by the definition written out."""
    likelihood = DiscretizedGaussian(values)
    place = torch.linspace(-1, 1, values, dtype=torch.float64)
    for spread in (1e-3, 0.01, 0.3, 5.0):
        mean = torch.tensor([-1.3, -0.4, 0.1, 0.999], dtype=torch.float64).expand(values, 4)
        variance = torch.tensor([[spread**2]], dtype=torch.float64)
        found = likelihood(place[:, None].expand(values, 4)[None], mean[None], variance[None])[0]
        exact = -(-0.5 * (place[:, None] - mean).square() / variance).log_softmax(0)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_continuous_gaussian_is_the_normal_density() -> None:
    x, mean = torch.randn(2, 3, 4, 2, generator=seeded(0), dtype=torch.float64)
    variance = torch.rand(3, 4, 1, generator=seeded(1), dtype=torch.float64) + 0.1
    exact = -torch.distributions.Normal(mean, variance.sqrt().expand_as(mean)).log_prob(x)
    torch.testing.assert_close(ContinuousGaussian()(x, mean, variance), exact)


IMAGE = torch.zeros(2, 3, 1)


AR, ONE_FORGOTTEN = autoregressive_law(torch.arange(3)), torch.tensor([[1.0], [1.0], [0.0]])


def forgetful(law: PathLaw, weight: Callable[[Tensor], Tensor]) -> PathLaw:
    """The law with other velocities."""

    def at(u: Tensor, offsets: Tensor) -> Levels:
        found = law.at(u, offsets)
        return Levels(found.level, weight(found.velocity).to(found.level))

    return PathLaw(law.draw, at)


def spoiled(found: Levels) -> Levels:
    return Levels(found.level, torch.ones_like(found.level))


def raise_name_error() -> Tensor:
    raise NameError("nowhere")


def sampler_of_levels(batch: int, generator: Generator | None = None) -> Tensor:
    return torch.rand(batch, 3, 1, generator=generator)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"law": sampler_of_levels}, TypeError, "not over a sampler of levels"),
        ({"law": hold_clean(synchronous(3), torch.tensor([[True], [False], [False]]))}, ValueError, "known="),
        ({"law": lambda s: 0.9 * synchronous(3)(s)}, ValueError, "not all 1"),
        ({"law": synchronous(4)}, ValueError, "do not fit data of 3 tokens"),
        ({"points": 1}, ValueError, "at least 2 points"),
        ({"steps": 0}, ValueError, "at least one step"),
        ({"context": 1.0}, ValueError, "context"),
        ({"own_variance": True}, ValueError, "does not say its variance"),
        (
            {
                "law": lambda s: (
                    s[..., None, None] + 0.3 * torch.sin(2 * torch.pi * s)[..., None, None] * torch.ones(3, 1)
                )
            },
            ValueError,
            "must not fall",
        ),
        (
            {"law": forgetful(autoregressive_law(torch.arange(3)), lambda w: (w > 0).double())},
            ValueError,
            "not the deri",
        ),
        ({"law": forgetful(window_law(independent_offsets(3), 20.0), lambda w: 0.3 * w)}, ValueError, "derivatives"),
        (
            {"law": forgetful(shared_law(3), lambda w: w * torch.tensor([[1.0], [1.0], [0.0]]))},
            ValueError,
            "not the deri",
        ),
        ({"law": replace(walk_law(3), at=lambda u, o: spoiled(walk_law(3).at(u, o)))}, ValueError, "averaged"),
        ({"law": lambda s: raise_name_error()}, NameError, "nowhere"),
        ({"proposal": lambda v: v / 2}, ValueError, "increasing map"),
        ({"proposal": lambda v: v + 0.5 * torch.sin(2 * torch.pi * v)}, ValueError, "increasing map"),
        ({"x": IMAGE[:0]}, ValueError, "at least one image"),
        ({"cond": {"label": torch.zeros(1)}}, ValueError, "a row for each of the 2 images"),
        ({"known": torch.ones(3, 1) > 0}, ValueError, "nothing left to bound"),
        ({"data_variance": -1.0}, ValueError, "data_variance"),
        ({"data_variance": 1.0, "steps": 3}, ValueError, "data_variance"),
        ({"x": IMAGE + 0.02, "likelihood": DiscretizedGaussian(3)}, ValueError, "are not 3 values"),
        ({"x": IMAGE + 3, "likelihood": DiscretizedGaussian(3)}, ValueError, "are not 3 values"),
        ({"denoise": lambda z, noise: Posterior(z * math.nan)}, ValueError, "not finite"),
    ],
)
def test_what_is_no_bound_is_refused(how: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "denoise": lambda z, noise: Posterior(noise.alpha * z),
        "x": IMAGE,
        "schedule": Linear(),
        "law": synchronous(3),
        "likelihood": DiscretizedGaussian(3),
        **how,
    }
    first = [arguments.pop(name) for name in ("denoise", "x", "schedule", "law")]
    with pytest.raises(error, match=message):
        elbo(*first, generator=seeded(), **arguments)


@pytest.mark.parametrize("known", [torch.ones(3) > 0, torch.ones(3, 1), torch.ones(4, 1) > 0, torch.ones(5, 3, 1) > 0])
def test_known_of_another_shape_or_dtype_is_refused(known: Tensor) -> None:
    """By the library itself, where no checker of shapes comes first."""
    with pytest.raises(ValueError, match=r"known is a bool tensor of shape \(3, 1\)"):
        inspect.unwrap(check_known)(known, IMAGE)


def test_data_that_are_no_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="floating dtype"):
        inspect.unwrap(check_data)(IMAGE.long(), Linear(), {})


def shrink(z: Tensor, noise: NoiseMap) -> Posterior:
    """Exact for independent elements of unit variance."""
    return Posterior(noise.alpha * z, torch.zeros_like(z[..., 0]))


def test_images_that_are_no_tokens_are_refused() -> None:
    with unchecked(), pytest.raises(ValueError, match=r"images as tokens, \(b, n, d\), .*got \(2, 3, 4, 4\)"):
        elbo(shrink, torch.zeros(2, 3, 4, 4), Linear(), synchronous(4), generator=seeded())


def test_no_map_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one map goes through the network at once, got batch=0"):
        elbo(shrink, torch.zeros(2, 3, 1), Linear(), synchronous(3), generator=seeded(), batch=0)


@pytest.mark.parametrize(("dtype", "finest"), [(torch.bfloat16, 13.9), (torch.float16, 18.0), (torch.float32, 36.0)])
def test_a_clean_end_that_rounding_hides_is_refused(dtype: torch.dtype, finest: float) -> None:
    """There noisy tokens are the clean ones to the bit, and a bound would be of what everyone sees."""
    x = gaussian_texture((2, 2)).sample(4, seeded()).to(dtype)
    asked = lambda clean: elbo(
        shrink, x, Linear(clean), synchronous(4), generator=seeded(), points=2, likelihood=CONTINUOUS
    )
    with pytest.raises(ValueError, match=rf"finer than {dtype} resolves: .* a clean end of {finest:.3g} at most"):
        asked(finest + 0.1)
    with pytest.raises(ValueError, match="finer than"):
        adaptive_elbo(
            shrink,
            x,
            Linear(finest + 0.1),
            lambda level, _: 0 * level,
            generator=seeded(),
            max_steps=1,
            likelihood=CONTINUOUS,
        )
    asked(finest - 0.1)
    eps = torch.randn(10_000, generator=seeded())
    near = lambda clean: (x.flatten()[0].double() + math.exp(-clean / 2) * eps).to(dtype)
    assert (near(finest + 4) == x.flatten()[0]).double().mean() > 0.9
    assert (near(finest - 4) == x.flatten()[0]).double().mean() < 0.9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda found: replace(found, mean=found.mean[..., :1]), r"mean of shape \(\d+, 4, 1\) for tokens of shape"),
        (lambda found: replace(found, log_var=found.mean), r"log_var of shape \(\d+, 4, 3\), one number a token"),
        (lambda found: replace(found, log_var=found.mean[..., 0] * torch.nan), "log_var is not finite, at a map"),
        (lambda found: replace(found, mean=found.mean / 0), "mean is not finite, at a map"),
    ],
)
def test_answers_that_are_not_of_the_tokens_are_refused(wrong: Callable[[Posterior], Posterior], message: str) -> None:
    x = torch.zeros(2, 4, 3, dtype=torch.float64)
    denoise = lambda z, noise: wrong(shrink(z, noise))
    with unchecked(), pytest.raises(ValueError, match=message):
        elbo(denoise, x, Linear(), synchronous(4), generator=seeded(), points=2, likelihood=CONTINUOUS)
    with unchecked(), pytest.raises(ValueError, match=message):
        adaptive_elbo(
            denoise, x, Linear(), lambda level, _: 0 * level, generator=seeded(), max_steps=1, likelihood=CONTINUOUS
        )


def test_draws_do_not_depend_on_pytorchs_defaults() -> None:
    x = gaussian_texture((2, 2)).sample(2, seeded()).float()
    asked = lambda: elbo(shrink, x, Linear(), synchronous(4), generator=seeded(), points=32, likelihood=CONTINUOUS).nats
    usual = asked()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(asked(), usual)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make", [lambda: DiscretizedGaussian(1), lambda: DiscretizedGaussian(8, 1.0, -1.0)])
def test_impossible_likelihoods_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="at least two values"):
        make()
