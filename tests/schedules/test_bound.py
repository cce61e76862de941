"""The bound, exactly: linear denoisers of normal data, by matrices and quadrature, without Monte Carlo."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from apd_schedules import (
    ContinuousGaussian,
    Cosine,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    Linear,
    NoiseMap,
    NoiseSchedule,
    Path,
    RectifiedFlow,
    bits_per_dim,
    concatenate,
    corrupt,
    diffusion_nats,
    discrete_diffusion_nats,
    eps_from_x,
    hold_at,
    hold_clean,
    logit_shift,
    prior_nats,
    reconstruction_nats,
    sequential,
    staggered,
    step_back,
    synchronous,
)
from oracles import (
    Matrix,
    autoregressive_covariance,
    covariance,
    errors_at,
    gain,
    information,
    line_integral,
    mean_errors,
)
from strategies import log_snrs, normals, schedules, seeds, turns

Kinked = tuple[Path, list[float]]


def quad(offsets: Tensor) -> Path:
    return lambda s: s[..., None, None] + (s * (1 - s))[..., None, None] * offsets[:, None]


def tent(offsets: Tensor) -> Path:
    return lambda s: s[..., None, None] + torch.minimum(s, 1 - s)[..., None, None] * offsets[:, None]


def families(n: int) -> dict[str, Kinked]:
    """One path of each kind, with the places where a velocity jumps."""
    offsets = torch.linspace(-0.9, 0.9, n, dtype=torch.float64).roll(1)
    rank = [i / max(n - 1, 1) for i in range(n)]
    return {
        "shared": (synchronous(n), []),
        "quad": (quad(offsets), []),
        "tent": (tent(offsets), [0.5]),
        "logit shift": (logit_shift(offsets[:, None]), []),
        "window": (staggered(torch.arange(n), 0.4), [k for r in rank for k in (1 - 0.6 * r, 0.6 * (1 - r))]),
        "autoregressive": (sequential(torch.arange(n)), [i / n for i in range(n)]),
        "groups": (sequential(torch.arange(n) // 2), [i / -(-n // 2) for i in range(-(-n // 2))]),
        "two level": (two_level(n), [0.5]),
    }


def two_level(n: int) -> Path:
    first = (torch.arange(n) % 2 == 0)[:, None]
    return concatenate([hold_at(synchronous(n), ~first, 1.0), hold_clean(synchronous(n), first)])


@st.composite
def kinked_paths(draw: st.DrawFn, n: int) -> Kinked:
    turn = draw(turns(n))
    count = int(turn.max()) + 1
    width = draw(st.floats(0.1, 1.0))
    rank = [i / max(count - 1, 1) for i in range(count)]
    return draw(
        st.sampled_from(
            [
                (synchronous(n), []),
                (sequential(turn), [i / count for i in range(count)]),
                (staggered(turn, width), [k for r in rank for k in (1 - (1 - width) * r, (1 - width) * (1 - r))]),
                (quad(torch.tensor(draw(st.lists(st.floats(-1, 1), min_size=n, max_size=n)), dtype=torch.float64)), []),
            ]
        )
    )


def ends(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    clean, noise = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    return clean, noise


@settings(max_examples=25)
@given(st.data(), st.integers(1, 5), seeds, schedules)
def test_every_path_gives_the_same(data: st.DataObject, n: int, seed: int, schedule: NoiseSchedule) -> None:
    """½ ∫ sum mmse_i dSNR_i = I(x; z_clean) - I(x; z_noise) (Guo et al. 2005, cs/0412108), to 1e-6 relative."""
    cov, (path, kinks) = covariance(n, seed), data.draw(kinked_paths(n))
    clean, noise = ends(schedule)
    exact = float(information(cov, clean.expand(n)) - information(cov, noise.expand(n)))
    found = line_integral(mean_errors(gain(cov), cov), path, schedule, kinks)
    assert found == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("name", families(4))
@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine(), Linear(14.0, -14.0)], ids=str)
def test_every_family_gives_the_same_to_nine_digits(name: str, schedule: NoiseSchedule) -> None:
    cov, (path, kinks) = covariance(4, 7), families(4)[name]
    clean, noise = ends(schedule)
    exact = float(information(cov, clean.expand(4)) - information(cov, noise.expand(4)))
    assert line_integral(mean_errors(gain(cov), cov), path, schedule, kinks) == pytest.approx(exact, rel=1e-9)


@settings(max_examples=25)
@given(st.data(), st.integers(1, 4), seeds)
def test_bound_is_the_negative_log_density_at_every_point(data: st.DataObject, n: int, seed: int) -> None:
    """prior + reconstruction + diffusion = -log p(x), up to what the two ends of the schedule leave over."""
    cov, x = covariance(n, seed), data.draw(normals(n)) * 1.5
    path, kinks = data.draw(kinked_paths(n))
    schedule = Linear(30.0, -30.0)
    clean, noise = (NoiseMap(end.expand(n, 1)) for end in ends(schedule))
    prior = prior_nats(x[None, :, None], noise)
    # The exact mean over eps: reconstruction with eps² = 1.
    reconstruction = reconstruction_nats(x[None, :, None], clean, torch.ones(1, n, 1).double(), ContinuousGaussian())
    diffusion = line_integral(errors_at(gain(cov), x), path, schedule, kinks)
    exact = -GaussianDenoiser(cov).log_prob(x[:, None])
    assert float(prior + reconstruction) + diffusion == pytest.approx(float(exact), abs=1e-6 * n)


def test_errors_are_a_gradient() -> None:
    """d KL(q(z | x) || q(z)) / d SNR_i = ½ E[(x_i - x̂_i)² | x] at every x, for a mixture, by finite differences.

    For two tokens, the means over z by Gauss-Hermite quadrature in the noise.
    """
    g = torch.Generator().manual_seed(1)
    model = GaussianMixtureDenoiser(
        torch.tensor([0.4, 0.6]).double(),
        torch.randn(2, 2, 1, generator=g, dtype=torch.float64),
        torch.stack([covariance(2, 1), 0.3 * covariance(2, 2)]),
    )
    x = torch.tensor([[0.3], [-0.8]], dtype=torch.float64)
    nodes, weights = hermite(60)
    eps = torch.cartesian_prod(nodes, nodes)[..., None]
    weight = (weights[:, None] * weights).flatten()

    def divergence(log_snr: Tensor) -> Tensor:
        noise = NoiseMap(log_snr[:, None])
        z = corrupt(x.expand_as(eps), noise, eps)
        own = torch.distributions.Normal(noise.alpha * x, noise.sigma).log_prob(z).sum((-2, -1))
        return (weight * (own - model.log_prob(z, noise))).sum()

    at = torch.tensor([0.4, -0.7], dtype=torch.float64)
    noise = NoiseMap(at[:, None])
    mean = model(corrupt(x.expand_as(eps), noise, eps), noise).mean
    half_errors = 0.5 * (weight[:, None] * (x - mean)[..., 0].square()).sum(0)
    step = 1e-5
    for i in range(2):
        shift = step * torch.eye(2, dtype=torch.float64)[i]
        slope = (divergence(at + shift) - divergence(at - shift)) / (2 * step)
        torch.testing.assert_close(slope / at[i].exp(), half_errors[i], rtol=1e-5, atol=0)


def hermite(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for means over a standard normal (Golub & Welsch 1969)."""
    off = torch.arange(1, count, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, vectors[0].square()


def test_a_consistent_wrong_denoiser_has_the_same_excess_on_every_path() -> None:
    """The posterior mean under another prior: its bound is that prior's likelihood, KL(p || q) above the entropy."""
    true, believed = covariance(4, 0), covariance(4, 9)
    schedule = Linear(25.0, -25.0)
    best = mean_errors(gain(true), true)
    wrong = mean_errors(gain(believed), true)
    divergence = 0.5 * float(
        torch.linalg.slogdet(believed)[1]
        - torch.linalg.slogdet(true)[1]
        + torch.linalg.solve(believed, true).trace()
        - 4
    )
    for path, kinks in families(4).values():
        excess = line_integral(wrong, path, schedule, kinks) - line_integral(best, path, schedule, kinks)
        assert excess == pytest.approx(divergence, abs=1e-8)


def inconsistent(cov: Tensor) -> Matrix:
    """Right where all levels are equal, and blind to the other tokens where they are not."""
    exact = gain(cov)

    def matrix(noise: NoiseMap) -> Tensor:
        k = exact(noise)
        unequal = 1 - torch.exp(-noise.log_snr[..., 0].std(-1, correction=0))[..., None, None]
        alone = torch.diag_embed(k.diagonal(dim1=-2, dim2=-1))
        return (1 - unequal) * k + unequal * alone

    return matrix


def test_an_inconsistent_denoiser_differs_between_paths_and_never_gains() -> None:
    cov, schedule = covariance(4, 0), Linear(14.0, -14.0)
    best, wrong = mean_errors(gain(cov), cov), mean_errors(inconsistent(cov), cov)
    excess = {
        name: line_integral(wrong, path, schedule, kinks) - line_integral(best, path, schedule, kinks)
        for name, (path, kinks) in families(4).items()
    }
    assert min(excess.values()) > -1e-9
    assert abs(excess["shared"]) < 1e-9
    assert excess["autoregressive"] > 1e-2


def discrete(errors: "object", path: Path, schedule: NoiseSchedule, steps: int, level: Tensor | None = None) -> float:
    """The sum over all steps, by the library's own term."""
    s = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    log_snr = schedule(path(s) if level is None else level)
    gaps = errors(NoiseMap(log_snr[1:])).sqrt()[..., None]  # pyrefly: ignore
    noise, cleaner = NoiseMap(log_snr[1:]), NoiseMap(log_snr[:-1])
    return float(discrete_diffusion_nats(gaps, torch.zeros_like(gaps), noise, cleaner).sum())


@pytest.mark.parametrize("name", families(3))
def test_discrete_bound_falls_to_the_continuous_one_at_first_order(name: str) -> None:
    cov, (path, kinks), schedule = covariance(3, 2), families(3)[name], Linear(8.0, -8.0)
    errors = mean_errors(gain(cov), cov)
    limit = line_integral(errors, path, schedule, kinks)
    excess = [discrete(errors, path, schedule, 60 * 4**k) - limit for k in range(4)]
    assert all(a > b > 0 for a, b in itertools.pairwise(excess))  # never below, never up by refining
    order = math.log(excess[-2] / excess[-1], 4)
    assert 0.95 < order < 1.1


def test_bound_is_the_density_to_1e_4_nats_a_dimension_as_steps_grow() -> None:
    """Pointwise, along an asynchronous path, with the order measured: 1."""
    cov, schedule = covariance(3, 4), Linear(9.0, -9.0)
    x = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    path, kinks = families(3)["quad"]
    errors = errors_at(gain(cov), x)
    limit = line_integral(errors, path, schedule, kinks)
    excess = [(discrete(errors, path, schedule, steps) - limit) / 3 for steps in (31_250, 125_000, 500_000)]
    assert math.log(excess[1] / excess[2], 4) == pytest.approx(1, abs=0.01)
    assert 0 < excess[2] < 1e-4


@given(st.data(), st.integers(1, 4), seeds)
def test_step_back_is_the_posterior_of_the_joint(data: st.DataObject, n: int, seed: int) -> None:
    """q(z_cleaner | z, x) by conditioning the joint normal of z_cleaner and z directly."""
    noise = NoiseMap(data.draw(log_snrs(n))[None] / 2)
    gap = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.1, 3.0]), min_size=n, max_size=n))).double()
    cleaner = NoiseMap(noise.log_snr + gap[None, :, None])
    x, z = data.draw(normals(1, n, 1)), data.draw(normals(1, n, 1))
    kept = noise.alpha / cleaner.alpha  # z = kept z_cleaner + fresh noise
    within, cross = noise.sigma**2, kept * cleaner.sigma**2
    mean = cleaner.alpha * x + cross / within * (z - noise.alpha * x)
    variance = cleaner.sigma**2 - cross**2 / within
    found = step_back(z, x, noise, cleaner, torch.zeros_like(z))
    torch.testing.assert_close(found, mean, rtol=1e-9, atol=1e-9)
    spread = step_back(z, x, noise, cleaner, torch.ones_like(z)) - found
    torch.testing.assert_close(spread**2, variance, rtol=1e-7, atol=1e-9)
    still = gap == 0
    assert torch.equal(found[0, still], z[0, still])
    assert (spread[0, still] == 0).all()


@given(st.data(), st.integers(1, 4))
def test_a_step_costs_the_divergence_of_its_two_normal_laws(data: st.DataObject, n: int) -> None:
    noise = NoiseMap(data.draw(log_snrs(n))[None] / 2)
    gap = torch.tensor(data.draw(st.lists(st.sampled_from([0.1, 1.0, 3.0]), min_size=n, max_size=n))).double()
    cleaner = NoiseMap(noise.log_snr + gap[None, :, None])
    x, mean, z = (data.draw(normals(1, n, 1)) for _ in range(3))
    variance = data.draw(normals(1, n, 1)).square()
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    goal, guess = (step_back(z, target, noise, cleaner, zero) for target in (x, mean))
    spread = step_back(z, x, noise, cleaner, one) - goal
    widened = spread**2 + (cleaner.alpha * -torch.expm1(-gap)[None, :, None]) ** 2 * variance
    normal = torch.distributions.Normal
    for own, width in ((None, spread), (variance, widened.sqrt())):
        exact = torch.distributions.kl_divergence(normal(goal, spread), normal(guess, width)).sum((1, 2))
        found = discrete_diffusion_nats(x, mean, noise, cleaner, own)
        torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-9)
    by_eps = (eps_from_x(x, z, noise) - eps_from_x(mean, z, noise)).square()
    expected = 0.5 * (torch.expm1(cleaner.log_snr - noise.log_snr) * by_eps).sum((1, 2))
    torch.testing.assert_close(discrete_diffusion_nats(x, mean, noise, cleaner), expected, rtol=1e-9, atol=1e-12)


def test_a_token_that_does_not_move_costs_nothing_and_its_gradient_is_zero() -> None:
    noise = NoiseMap(torch.tensor([[[1.0], [18.0], [-18.0]]]))
    x, mean = torch.randn(1, 3, 1), torch.randn(1, 3, 1, requires_grad=True)
    for variance in (None, torch.ones(1, 3, 1)):
        value = discrete_diffusion_nats(x, mean, noise, noise, variance)
        assert value.item() == 0
        (slope,) = torch.autograd.grad(value, mean)
        assert (slope == 0).all()
    still = diffusion_nats(x, mean, noise, torch.zeros(1, 3, 1))
    assert still.item() == 0


def joints(cov: Tensor, matrix: Matrix, log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances of (x, z_0, the moved parts of z_1 … z_T) under q and under the generating p, each built in its own
    order from independent noise. A part that a step leaves alone is the same variable, and is listed once."""
    steps, n = len(log_snr) - 1, len(cov)
    moved = [log_snr[k + 1] != log_snr[k] for k in range(steps)]
    total = 2 * n + sum(int(m.sum()) for m in moved)
    root = torch.linalg.cholesky(cov)
    noises = 0

    def fresh(count: int) -> Tensor:
        nonlocal noises
        rows = torch.zeros(count, 8 * total, dtype=cov.dtype)
        rows[:, noises : noises + count] = torch.eye(count, dtype=cov.dtype)
        noises += count
        return rows

    a, s = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    x = root @ fresh(n)
    z = a[0, :, None] * x + s[0, :, None] * fresh(n)
    forward = [x, z]
    for k in range(steps):
        kept = a[k + 1] / a[k]
        added = (s[k + 1] ** 2 - (kept * s[k]) ** 2).clamp(min=0).sqrt()
        z = torch.where(moved[k][:, None], kept[:, None] * z + added[:, None] * fresh(n), z)
        forward.append(z[moved[k]])
    q = torch.cat(forward)

    noises = 0
    z = fresh(n)
    back = []
    for k in reversed(range(steps)):
        back.append(z[moved[k]])
        noise, cleaner = NoiseMap(log_snr[k + 1][:, None]), NoiseMap(log_snr[k][:, None])
        guess = matrix(NoiseMap(log_snr[k + 1][None, :, None]))[0] @ z
        z = step_back(z, guess, noise, cleaner, fresh(n))
    x = z / a[0, :, None] + (s[0] / a[0])[:, None] * fresh(n)
    p = torch.cat([x, z, *reversed(back)])
    return q @ q.T, p @ p.T


def entropy(cov: Tensor) -> float:
    return 0.5 * float(torch.linalg.slogdet(2 * math.pi * math.e * cov)[1])


def gaussian_divergence(q: Tensor, p: Tensor) -> float:
    solved = torch.linalg.solve(p, q)
    return 0.5 * float(solved.trace() - len(q) - torch.linalg.slogdet(solved)[1])


@pytest.mark.parametrize("name", families(3))
@pytest.mark.parametrize("denoiser", ["exact", "inconsistent"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_bound_is_the_divergence_of_the_joints_by_brute_force(name: str, denoiser: str, steps: int) -> None:
    """KL(q || p) over data and all latents, plus the entropy, is what the three terms sum to; and it is no less than
    the model's own negative log-likelihood, which is no less than the entropy."""
    cov, schedule = covariance(3, 6), Linear(4.0, -4.0)
    matrix = gain(cov) if denoiser == "exact" else inconsistent(cov)
    path, _ = families(3)[name]
    log_snr = schedule(path(torch.linspace(0, 1, steps + 1, dtype=torch.float64)))[..., 0]
    q, p = joints(cov, matrix, log_snr)
    brute = gaussian_divergence(q, p) + entropy(cov)
    # Means over x: the terms at x with x² = diag(cov), eps² = 1.
    typical = cov.diagonal().sqrt()[None, :, None]
    prior = prior_nats(typical, NoiseMap(log_snr[-1][None, :, None]))
    clean = NoiseMap(log_snr[0][None, :, None])
    reconstruction = reconstruction_nats(typical, clean, torch.ones_like(typical), ContinuousGaussian())
    sum_of_steps = discrete(mean_errors(matrix, cov), path, schedule, steps)
    assert float(prior + reconstruction) + sum_of_steps == pytest.approx(brute, abs=1e-8)
    model = p[:3, :3]
    likelihood = 0.5 * float(torch.linalg.slogdet(2 * math.pi * model)[1] + torch.linalg.solve(model, cov).trace())
    assert brute >= likelihood - 1e-9
    assert likelihood >= entropy(cov) - 1e-9


@pytest.mark.parametrize("context", [0.0, 0.4, 0.7, 1.0])
def test_conditional_bound_is_the_conditional_entropy_on_every_path(context: float) -> None:
    """prior + reconstruction + diffusion of the unknown, less H(x_unknown | context): the end slack alone, and the same
    on every path."""
    cov, n = covariance(4, 3), 4
    known = torch.tensor([True, False, False, True])
    schedule = Linear(36.0, -36.0)
    held = schedule(torch.tensor(context, dtype=torch.float64)) if context else torch.tensor(40.0).double()
    alpha, variance = held.sigmoid().sqrt(), (-held).sigmoid()
    within = alpha**2 * cov[known][:, known] + variance * torch.eye(2, dtype=torch.float64)
    cross = alpha * cov[~known][:, known]
    conditional = cov[~known][:, ~known] - cross @ torch.linalg.solve(within, cross.T)
    errors = mean_errors(gain(cov), cov)
    unknown_errors = lambda noise: errors(noise) * ~known
    typical = cov.diagonal().sqrt()[None, :, None]
    mask = known[None, :, None]
    clean, noise = (NoiseMap(end.expand(1, n, 1)) for end in ends(schedule))
    fixed = float(
        prior_nats(typical, noise, mask)
        + reconstruction_nats(typical, clean, torch.ones_like(typical), ContinuousGaussian(), mask)
    )
    for name, (path, kinks) in families(4).items():
        found = line_integral(unknown_errors, hold_at(path, known[:, None], context), schedule, kinks)
        assert fixed + found == pytest.approx(entropy(conditional), abs=1e-6), name


def test_context_and_then_the_rest_is_the_joint() -> None:
    """Chain rule: the unknown beside a context at level c, then the context from c to clean beside the clean rest."""
    cov, schedule, c = covariance(4, 3), Linear(20.0, -20.0), 0.55
    known = torch.tensor([True, False, False, True])[:, None]
    errors = mean_errors(gain(cov), cov)
    first = line_integral(errors, hold_at(synchronous(4), known, c), schedule)
    rest: Path = lambda s: torch.where(known, c * s[..., None, None], 0.0)
    second = line_integral(errors, rest, schedule)
    clean, noise = ends(schedule)
    start = torch.where(known[:, 0], schedule(torch.tensor(c, dtype=torch.float64)), noise)
    exact = float(information(cov, clean.expand(4)) - information(cov, start))
    assert first + second == pytest.approx(exact, rel=1e-9)


def test_pointwise_for_a_mixture_by_quadrature() -> None:
    """A mixture of two tokens, at one x: the same number on eight paths, and it is -log p(x)."""
    model = GaussianMixtureDenoiser(
        torch.tensor([0.3, 0.7]).double(),
        torch.tensor([[[-0.6], [0.2]], [[0.5], [0.4]]]).double(),
        torch.stack([covariance(2, 0), 0.7 * covariance(2, 1)]),
    )
    x = torch.tensor([[0.2], [0.4]], dtype=torch.float64)
    nodes, weights = hermite(32)
    eps = torch.cartesian_prod(nodes, nodes)[None, ..., None]
    weight = (weights[:, None] * weights).flatten()

    def errors(noise: NoiseMap) -> Tensor:
        flat = NoiseMap(noise.log_snr[:, None])
        z = corrupt(x.expand(len(noise.log_snr), len(weight), 2, 1), flat, eps.expand(len(noise.log_snr), -1, -1, -1))
        return (weight[:, None] * (x - model(z, flat).mean)[..., 0].square()).sum(1)

    schedule = Linear(22.0, -22.0)
    clean, noise = (NoiseMap(end.expand(1, 2, 1)) for end in ends(schedule))
    fixed = float(
        prior_nats(x[None], noise)
        + reconstruction_nats(x[None], clean, torch.ones(1, 2, 1).double(), ContinuousGaussian())
    )
    exact = -float(model.log_prob(x))
    for name, (path, kinks) in families(2).items():
        found = fixed + line_integral(errors, path, schedule, kinks, nodes=320)
        assert found == pytest.approx(exact, abs=1e-7), name


def test_bits_per_dim() -> None:
    nats = torch.tensor([math.log(2) * 12, 0.0])
    torch.testing.assert_close(bits_per_dim(nats, 6), torch.tensor([2.0, 0.0]))


def test_one_level_is_the_ordinary_diffusion_loss() -> None:
    """½ (d gamma / dt) |eps - epŝ|² of VDM's code, with the same draws, to 1e-12."""
    schedule, g = Cosine(), torch.Generator().manual_seed(0)
    x, mean, eps = torch.randn(3, 5, 4, 2, generator=g, dtype=torch.float64)
    t = torch.rand(5, generator=g, dtype=torch.float64)
    gamma, gamma_rate, *_ = torch.func.jvp(lambda t: -schedule(t), (t,), (torch.ones_like(t),))
    sigma, alpha = gamma.sigmoid().sqrt()[:, None, None], (-gamma).sigmoid().sqrt()[:, None, None]
    z = alpha * x + sigma * eps
    guess = (z - alpha * mean) / sigma
    expected = 0.5 * gamma_rate * (eps - guess).square().sum((1, 2))
    noise = NoiseMap(-gamma[:, None, None].expand(5, 4, 1))
    found = diffusion_nats(x, mean, noise, -gamma_rate[:, None, None].expand(5, 4, 1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def naive_gap(cov: Tensor, schedule: NoiseSchedule, nodes: int = 240) -> float:
    """What the ordinary weight on independent uniform levels gives above the negative log-likelihood, two tokens.

    The integral over the square of levels, by a tensor product of double-exponential rules.
    """
    v = torch.linspace(-3.6, 3.6, nodes, dtype=torch.float64)
    phi = 0.5 * torch.pi * v.sinh()
    t, weight = (2 * phi).sigmoid(), 0.5 * torch.pi * v.cosh() / (2 * phi.cosh().square()) * (v[1] - v[0])
    log_snr, rate, *_ = torch.func.jvp(schedule, (t,), (torch.ones_like(t),))
    pairs = torch.cartesian_prod(log_snr, log_snr)
    errors = mean_errors(gain(cov), cov)(NoiseMap(pairs[..., None]))
    density = -0.5 * torch.cartesian_prod(rate, rate) * pairs.exp() * errors
    naive = float((density.sum(-1) * (weight[:, None] * weight).flatten()).sum())
    clean, noise = ends(schedule)
    return naive - float(information(cov, clean.expand(2)) - information(cov, noise.expand(2)))


def test_independent_levels_with_the_ordinary_weight_undershoot_the_truth() -> None:
    """Two tokens of correlation .9. On VDM's schedule the "bound" is .297 nats below the true negative log-likelihood;
    on the cosine schedule it lies above it by log((1 + c)² / 4c), c = sqrt(1 - rho²). Neither is the truth."""
    cov = autoregressive_covariance(2, 0.9)
    assert naive_gap(cov, Linear()) == pytest.approx(-0.2970, abs=1e-3)
    c = math.sqrt(1 - 0.9**2)
    assert naive_gap(cov, Cosine(30.0, -30.0)) == pytest.approx(math.log((1 + c) ** 2 / (4 * c)), abs=1e-6)
    assert naive_gap(autoregressive_covariance(2, 0.6), Linear()) < -0.09


def test_independent_data_hide_the_mistake() -> None:
    """With independent tokens even the naive number is right: no test on such data can see it."""
    assert naive_gap(torch.eye(2).double(), Cosine(30.0, -30.0)) == pytest.approx(0.0, abs=1e-6)
