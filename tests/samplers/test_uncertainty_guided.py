"""Uncertainty-guided generation: the rule, where its uncertainty comes from, and what it is worth."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import uncertainty_guided as benchmark
from torch import Generator, Tensor

from apd_samplers import (
    DDIM,
    AtRandom,
    Changing,
    FollowPath,
    PerSampleNoise,
    Predicted,
    Uncertainty,
    UncertaintyGuided,
    sample,
    sample_steps,
)
from apd_schedules import (
    GaussianDenoiser,
    NoiseMap,
    Posterior,
    RectifiedFlow,
    corrupt,
    gaussian_texture,
    step_back,
    synchronous,
)
from long_runs import unchecked
from oracles import Gaussian

SCHEDULE = RectifiedFlow(clean=7.0, noise=-9.0)
END, BEGIN = math.exp(7.0), math.exp(-9.0)
VARIANCES = torch.tensor([1.0, 0.3, 0.05, 0.001], dtype=torch.float64)
ALONE = GaussianDenoiser(VARIANCES.diag())  # independent tokens: every number of the rule is a closed form


def snrs(patience: float, steps: int = 40) -> Tensor:
    """SNR of each of the independent tokens after every step, ``(steps + 1, n)``."""
    z = torch.zeros(1, 4, 1, dtype=torch.float64)
    walk = UncertaintyGuided(SCHEDULE, steps, pace="nats", patience=patience, tolerance=1e-6)
    return torch.stack([now.noise.log_snr[0, :, 0] for now in sample_steps(ALONE, DDIM(), walk, z)]).exp()


def test_moving_tokens_commit_the_same_nats_in_every_step() -> None:
    s = snrs(patience=0.0)
    v = VARIANCES / (1 + VARIANCES * s[:-1])
    y = v * s.diff(dim=0)
    arrives = s[1:] >= END * (1 - 1e-9)
    hardest = math.log((1 + VARIANCES[0] * END) / (1 + VARIANCES[0] * BEGIN)) / 40
    moving = (y > 0) & ~arrives
    assert moving.sum() > 60
    torch.testing.assert_close(y[moving], torch.full_like(y[moving], math.expm1(hardest)), rtol=1e-9, atol=0)
    assert (y[arrives] <= math.expm1(hardest) * (1 + 1e-9)).all()
    assert arrives[:, 0].tolist() == [False] * 39 + [True]  # the hardest uses all steps, no more and no less


@pytest.mark.parametrize("patience", [0.0, 0.5, 1.0])
def test_a_token_takes_the_steps_that_it_needs_and_starts_when_patience_says(patience: float) -> None:
    s = snrs(patience)
    moved = s.diff(dim=0) != 0
    whole = torch.log((1 + VARIANCES * END) / (1 + VARIANCES * BEGIN))
    assert moved.sum(0).tolist() == (40 * whole / whole[0] - 1e-6).ceil().tolist()
    left = torch.arange(40, 0, -1)[:, None]
    gain = torch.log((1 + VARIANCES * END) / (1 + VARIANCES * s[:-1]))
    most = gain[:, :1]
    assert torch.equal(moved, (gain > patience * (most - most / left) - 1e-9) & (gain > 0))
    if patience == 1.0:
        assert moved[-int(moved[:, 3].sum()) :, 3].all()


@pytest.mark.parametrize("uncertainty", [Predicted(), Changing()])
def test_the_most_uncertain_token_keeps_pace_with_synchronous_generation(uncertainty: Uncertainty[Any]) -> None:
    """By levels it makes equal steps of them; all tokens together are then ordinary synchronous generation."""
    z = torch.randn(2, 4, 1, generator=Generator().manual_seed(0), dtype=torch.float64)
    even = sample(ALONE, DDIM(), FollowPath(synchronous(4), SCHEDULE, 30), z)
    together = sample(ALONE, DDIM(), UncertaintyGuided(SCHEDULE, 30, uncertainty, together=True, tolerance=1e-6), z)
    torch.testing.assert_close(together.tokens, even.tokens, rtol=1e-6, atol=1e-7)
    for patience in (0.0, 1.0):
        walk = UncertaintyGuided(SCHEDULE, 30, patience=patience, tolerance=1e-6)
        levels = [SCHEDULE.level_of(now.noise.log_snr)[0, :, 0] for now in sample_steps(ALONE, DDIM(), walk, z)]
        torch.testing.assert_close(
            torch.stack(levels)[:, 0], torch.linspace(1, 0, 31, dtype=torch.float64), rtol=0, atol=1e-9
        )
        v = [VARIANCES / (1 + VARIANCES * SCHEDULE(level).exp()) for level in levels]
        for before, now, error in zip(levels, levels[1:], v, strict=False):
            y = error * (SCHEDULE(now).exp() - SCHEDULE(before).exp())
            under_way = (now < before) & (now > 1e-6)
            torch.testing.assert_close(y[under_way], y[0].expand(int(under_way.sum())), rtol=1e-6, atol=0)


def test_known_tokens_stay_levels_never_rise_and_all_end_clean() -> None:
    oracle = Gaussian(4, seed=1)
    start = torch.tensor([[[0.0], [1.0], [1.0], [0.4]], [[1.0], [1.0], [0.0], [1.0]]], dtype=torch.float64)
    z = torch.randn(2, 4, 1, generator=Generator().manual_seed(0), dtype=torch.float64)
    walk = UncertaintyGuided(RectifiedFlow(), 12, start=start)
    result = sample(oracle, DDIM(), walk, z, trace=True)
    assert result.trace is not None
    log_snr = result.trace.log_snr
    assert (log_snr.diff(dim=0) >= 0).all()
    assert (log_snr[-1] == RectifiedFlow()(torch.zeros(1, dtype=torch.float64))).all()
    torch.testing.assert_close(log_snr[0], RectifiedFlow()(start))
    known = start[..., 0] == 0
    assert torch.equal(result.tokens[known], z[known])
    assert (result.token_updates[known] == 0).all()
    assert (result.token_updates[~known] > 0).all()
    together = sample(oracle, DDIM(), UncertaintyGuided(RectifiedFlow(), 12, start=start), z)
    alone = [
        sample(oracle, DDIM(), UncertaintyGuided(RectifiedFlow(), 12, start=start[k]), z[k : k + 1]) for k in (0, 1)
    ]
    torch.testing.assert_close(together.tokens, torch.cat([each.tokens for each in alone]), rtol=1e-12, atol=1e-12)


def test_it_ends_early_when_all_is_clean() -> None:
    z = torch.zeros(2, 4, 1, dtype=torch.float64)
    quick = sample(ALONE, DDIM(), UncertaintyGuided(SCHEDULE, 200, pace="nats", least_nats=0.5, tolerance=1e-6), z)
    gain = math.log((1 + END) / (1 + BEGIN))
    assert quick.evaluations == math.ceil(gain / math.log1p(2 * 0.5))
    nothing = sample(ALONE, DDIM(), UncertaintyGuided(SCHEDULE, 9, start=torch.zeros(4, 1)), z)
    assert nothing.evaluations == 0


def test_tolerance_ends_a_token_at_its_own_variance() -> None:
    z = torch.zeros(1, 4, 1, dtype=torch.float64)
    walk = UncertaintyGuided(RectifiedFlow(), 30, pace="nats", tolerance=1e-3, patience=0.0)
    reached = torch.stack([now.noise.log_snr[0, :, 0] for now in sample_steps(ALONE, DDIM(), walk, z)]).exp()
    below = reached[reached < reached[-1]]
    assert below.max() < 1e3
    needs = (30 * torch.log1p(VARIANCES * 1e3) / math.log1p(1e3) - 1e-6).ceil()
    assert (reached.diff(dim=0) != 0).sum(0).tolist() == needs.tolist()


def test_together_is_synchronous_at_the_pace_of_the_most_uncertain() -> None:
    z = torch.zeros(1, 4, 1, dtype=torch.float64)
    walk = UncertaintyGuided(SCHEDULE, 20, pace="nats", together=True, tolerance=1e-6)
    s = torch.stack([now.noise.log_snr[0, :, 0] for now in sample_steps(ALONE, DDIM(), walk, z)]).exp()
    assert (s == s[:, :1]).all()
    y = (s.diff(dim=0) / (1 + s[:-1]))[:, 0]
    torch.testing.assert_close(y, torch.full_like(y, float(y[0])), rtol=1e-9, atol=0)


@pytest.mark.parametrize("pace", ["level", "nats"])
@pytest.mark.parametrize("patience", [0.0, 1.0])
def test_uneven_steps_draw_from_the_same_law(patience: float, pace: Any) -> None:
    """Linear denoiser, variances that do not depend on z: the sampler is a matrix, first order in its steps."""
    oracle, errors = Gaussian(4, seed=3), []
    for steps in (400, 800):
        schedule = RectifiedFlow(clean=16.0, noise=-16.0)
        walk = UncertaintyGuided(schedule, steps, pace=pace, patience=patience, tolerance=1e-9)
        eye = torch.eye(4, dtype=torch.float64)[..., None]
        with unchecked():
            pushed = sample(oracle, DDIM(), walk, eye).tokens[..., 0]
        errors.append((pushed.T @ pushed - oracle.cov).abs().max().item())
    assert 0.8 < math.log2(errors[0] / errors[1]) < 1.2
    assert errors[-1] < 0.07


def test_the_change_of_the_guess_tells_the_variance() -> None:
    """Ancestral sampling of independent tokens of many elements: the estimate follows the exact variance."""
    variance = torch.tensor([1.0, 0.3, 0.01], dtype=torch.float64)[:, None]
    elements, estimate = 4000, Changing(0.5)
    generator = Generator().manual_seed(0)
    normal = lambda: torch.randn(1, 3, elements, generator=generator, dtype=torch.float64)
    x = variance.sqrt() * normal()
    maps = [NoiseMap(torch.full((1, 3, 1), value, dtype=torch.float64)) for value in torch.linspace(-6, 6, 25).tolist()]
    z, state = corrupt(x, maps[0], normal()), estimate.init(x)
    found = torch.zeros(1, 3)
    for step, noise in enumerate(maps):
        if step:
            z = step_back(z, x, maps[step - 1], noise, normal())
        share = variance * noise.alpha / (variance * noise.alpha**2 + noise.sigma**2)
        found, state = estimate(noise, Posterior(share * z), state)
    snr = maps[-1].log_snr.exp()[..., 0]
    exact = variance[:, 0] / (1 + variance[:, 0] * snr)
    torch.testing.assert_close(found.exp(), exact, rtol=0.08, atol=0)


def test_a_token_at_rest_becomes_certain_as_its_neighbours_move() -> None:
    estimate = Changing()
    still = NoiseMap(torch.full((1, 2, 1), -9.0, dtype=torch.float64))
    state = estimate.init(torch.zeros(1, 2, 4, dtype=torch.float64))
    first, state = estimate(still, Posterior(torch.zeros(1, 2, 4, dtype=torch.float64)), state)
    second, state = estimate(still, Posterior(torch.full((1, 2, 4), 0.6, dtype=torch.float64)), state)
    torch.testing.assert_close(first.exp() - second.exp(), torch.full_like(first, 0.36), rtol=1e-3, atol=0)
    third, _ = estimate(still, Posterior(torch.full((1, 2, 4), 9.0, dtype=torch.float64)), state)
    torch.testing.assert_close(third.exp(), 0.1 * second.exp())  # one large change does not make it certain


def test_random_variances_are_drawn_once_and_fall_with_the_own_snr() -> None:
    z = torch.zeros(2, 5, 3)
    random = AtRandom(PerSampleNoise([3, 4]))
    drawn = random.init(z)
    assert drawn.shape == (2, 5)
    assert len(drawn.unique()) == 10
    noise = NoiseMap(torch.linspace(-4, 4, 10).reshape(2, 5, 1))
    found, same = random(noise, Posterior(z), drawn)
    assert torch.equal(same, drawn)
    torch.testing.assert_close(found.exp(), 1 / (1 / drawn.exp() + noise.log_snr[..., 0].exp()))


def test_fewer_token_evaluations_at_equal_error_on_easy_and_hard_regions() -> None:
    """Against synchronous generation at the same pace, and at the usual one; exact variances and those from changes."""
    problem = benchmark.problem()
    whole, _ = benchmark.information(problem, benchmark.SCHEDULE, 4000)
    samples = 24

    def measured(scheduler: object) -> tuple[float, float]:
        found = benchmark.chains(problem, scheduler, samples)  # pyrefly: ignore
        return found.committed.mean().item() - whole, found.updates.double().mean().item()

    schedule = benchmark.SCHEDULE
    even = measured(FollowPath(synchronous(benchmark.TOKENS), schedule, 24))
    uneven = measured(UncertaintyGuided(schedule, 24))
    assert uneven[0] < even[0]
    assert uneven[1] < even[1] / 3
    paced = measured(UncertaintyGuided(schedule, 16, pace="nats", together=True))
    exact = measured(UncertaintyGuided(schedule, 16, pace="nats", patience=1.0))
    changes = measured(UncertaintyGuided(schedule, 16, Changing(), pace="nats"))
    assert exact[0] < 1.1 * paced[0]
    assert exact[1] < paced[1] / 3
    assert changes[0] < 1.25 * paced[0]
    assert changes[1] < paced[1] / 1.5
    assert changes[0] < even[0] / 1.5  # better than usual steps with half as many evaluations again


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UncertaintyGuided(SCHEDULE, 0), "at least one step"),
        (lambda: UncertaintyGuided(SCHEDULE, 5, patience=1.5), "patience lies in"),
        (lambda: UncertaintyGuided(SCHEDULE, 5, tolerance=0.0), "tolerance is a variance"),
        (lambda: UncertaintyGuided(SCHEDULE, 5, least_nats=-1.0), "least_nats must not be negative"),
        (lambda: Changing(weight=0.0), "weight"),
        (lambda: Changing(variance=-1.0), "variance must be positive"),
        (lambda: AtRandom(torch.randn_like, spread=-1.0), "spread must not be negative"),
    ],
)
def test_rules_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_starts_that_do_not_fit_are_refused() -> None:
    z = torch.zeros(2, 4, 1)
    for start, message in (
        (torch.full((4, 1), 1.5), r"in \[0, 1\]"),
        (torch.ones(3, 1), r"levels of shape \(3, 1\)"),
        (torch.ones(5, 4, 1), r"levels of shape \(5, 4, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(ALONE, DDIM(), UncertaintyGuided(SCHEDULE, 5, start=start), z)


def test_a_model_that_does_not_predict_its_error_is_told_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"such as Changing\(\)"):
        sample(lambda z, noise: Posterior(z), DDIM(), UncertaintyGuided(SCHEDULE, 5, Predicted()), torch.zeros(1, 4, 1))


def test_texture_is_sampled_with_all_uncertainties() -> None:
    """A smoke test with float32 tokens and batch axes: every uncertainty brings every token to clean."""
    oracle = gaussian_texture((3, 3), dtype=torch.float32)
    z = torch.randn(2, 2, 9, 1, generator=Generator().manual_seed(0))
    every: list[Uncertainty[Any]] = [Predicted(), Changing(), AtRandom(lambda like: torch.zeros_like(like))]
    for uncertainty in every:
        result = sample(oracle, DDIM(), UncertaintyGuided(RectifiedFlow(), 20, uncertainty), z)
        assert (result.noise.log_snr == RectifiedFlow()(torch.zeros(()))).all()
        assert result.tokens.isfinite().all()
