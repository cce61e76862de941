"""Predicted against actual errors, where both are known exactly."""

import json
import math
from dataclasses import astuple, replace

import pytest
import torch
from torch import Generator, Tensor

from apd_models import Calibration, CalibrationRow, calibration
from apd_schedules import GaussianDenoiser, GaussianMixtureDenoiser, NoiseMap, Posterior, RectifiedFlow

LEVEL = 0.45  # flow level of the tests at one level
LOW, HIGH = 0.05, 4.0  # variances of their two kinds of tokens


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def at_levels(*shape: int, seed: int = 0) -> NoiseMap:
    """Levels at random, one a token."""
    return NoiseMap(
        RectifiedFlow()(torch.rand(*shape, 1, generator=Generator().manual_seed(seed), dtype=torch.float64))
    )


def mixture() -> GaussianMixtureDenoiser:
    """Three kinds of images of four tokens: what a token's error is depends on what is seen."""
    root = normal(3, 8, 8, seed=5)
    return GaussianMixtureDenoiser(
        torch.tensor([0.5, 0.3, 0.2]).double(), 3 * normal(3, 4, 2, seed=6), root @ root.mT / 16
    )


def of_two_kinds() -> tuple[GaussianDenoiser, NoiseMap]:
    """Independent tokens of two elements, half of them of small variance, half of large, all at one level."""
    variance = torch.tensor([LOW, LOW, HIGH, HIGH] * 2, dtype=torch.float64)  # of two elements each, in turn
    log_snr = 2 * math.log((1 - LEVEL) / LEVEL)
    return GaussianDenoiser(variance.diag(), torch.zeros(4, 2).double()), NoiseMap(
        torch.full((4, 1), log_snr, dtype=torch.float64)
    )


def only(found: Calibration) -> CalibrationRow:
    (row,) = found.rows
    return row


def test_an_exact_denoiser_errs_as_it_says_at_every_level() -> None:
    exact, count = mixture(), 2000
    x = exact.sample(count, Generator().manual_seed(1))
    found = calibration(exact, x, at_levels(count, 4), normal(count, 4, 2))
    assert len(found.rows) == 10
    for row in found.rows:
        assert 0 < row.ratio_error < 0.2
        assert abs(row.ratio - 1) < 5 * row.ratio_error, row
        assert row.ratio == pytest.approx(row.actual / row.predicted)
        assert row.nll < row.nll_constant
    assert max(row.pearson for row in found.rows) > 0.2


def test_what_is_wrong_by_a_factor_is_seen_to_be() -> None:
    exact = mixture()

    def overconfident(z: Tensor, noise: NoiseMap) -> Posterior:
        posterior = exact(z, noise)
        assert posterior.log_var is not None
        return replace(posterior, log_var=posterior.log_var - math.log(2))

    given = exact.sample(50, Generator().manual_seed(1)), at_levels(50, 4), normal(50, 4, 2)
    honest, boastful = calibration(exact, *given), calibration(overconfident, *given)
    for a, b in zip(honest.rows, boastful.rows, strict=True):
        assert b.ratio == pytest.approx(2 * a.ratio, rel=1e-12)
        assert b.ratio_error == pytest.approx(2 * a.ratio_error, rel=1e-12)
        assert (b.actual, b.nll_constant) == (a.actual, a.nll_constant)
        assert (b.pearson, b.spearman) == pytest.approx((a.pearson, a.spearman), rel=1e-12)
    whole = replace(honest, edges=(0.0, 1.0)), replace(boastful, edges=(0.0, 1.0))
    scaled = (honest.log_actual - honest.log_predicted).exp().mean().item()
    assert only(whole[1]).nll - only(whole[0]).nll == pytest.approx((scaled - math.log(2)) / 2)


def test_figures_of_independent_normal_tokens_in_closed_form() -> None:
    """The error of a token is its posterior variance ``v / (1 + v SNR)`` times chi-square of two degrees, halved."""
    exact, noise = of_two_kinds()
    count = 20_000
    x = exact.sample(count, Generator().manual_seed(1))
    row = only(calibration(exact, x, noise, normal(count, 4, 2)))
    snr = ((1 - LEVEL) / LEVEL) ** 2
    small, large = (v / (1 + v * snr) / LEVEL**2 for v in (LOW, HIGH))  # of the flow velocity
    tokens, mean = 4 * count, (small + large) / 2
    assert row.tokens == tokens
    assert row.predicted == pytest.approx(mean, rel=1e-12)
    # Var of the mean of exponentials of mean p is the mean of p² over the tokens.
    off = ((small**2 + large**2) / 2 / tokens) ** 0.5
    assert row.ratio_error == pytest.approx(off / mean, rel=0.05)
    assert abs(row.actual - mean) < 5 * off
    assert abs(row.nll - (0.5 * math.log(small * large) + 1) / 2) < 5 * 0.5 / tokens**0.5
    assert abs(row.nll_constant - (math.log(mean) + 1) / 2) < 5 * 0.5 * off / mean
    # log of an exponential has the variance pi² / 6; that of the predictions is that of two equal halves.
    between = (math.log(large / small) / 2) ** 2
    pearson = (between / (between + math.pi**2 / 6)) ** 0.5
    assert abs(row.pearson - pearson) < 5 / tokens**0.5
    # The larger of an exponential of each kind is the one of mean `large` with the odds of the means.
    spearman = (large / (small + large) - 0.5) * 3**0.5
    assert abs(row.spearman - spearman) < 5 / tokens**0.5


def test_the_standard_error_is_that_of_leaving_out_a_sample_at_a_time() -> None:
    exact, count = mixture(), 300
    x = exact.sample(count, Generator().manual_seed(1))
    found = calibration(exact, x, at_levels(count, 4), normal(count, 4, 2), edges=(0.0, 1.0))
    predicted, actual = (each.exp().view(count, 4).sum(1) for each in (found.log_predicted, found.log_actual))
    without = (actual.sum() - actual) / (predicted.sum() - predicted)
    jackknife = ((count - 1) / count * (without - without.mean()).square().sum()).sqrt()
    assert only(found).ratio_error == pytest.approx(float(jackknife), rel=0.02)


def test_further_looks_at_a_sample_are_not_further_samples() -> None:
    """Seen twice in the same way, a set of samples is no more than seen once."""
    exact = mixture()
    x, noise, eps = exact.sample(40, Generator().manual_seed(1)), at_levels(40, 4), normal(40, 4, 2)
    once = calibration(exact, x, noise, eps)
    twice = calibration(exact, x, noise, eps.expand(2, -1, -1, -1))
    for a, b in zip(once.rows, twice.rows, strict=True):
        assert b.tokens == 2 * a.tokens
        assert (b.ratio, b.ratio_error) == pytest.approx((a.ratio, a.ratio_error), rel=1e-9)
        assert b.nll == pytest.approx(a.nll)


def test_batches_add_up() -> None:
    exact = mixture()
    x, noise, eps = exact.sample(60, Generator().manual_seed(1)), at_levels(3, 60, 4), normal(3, 60, 4, 2)
    whole = calibration(exact, x, noise, eps)
    part = lambda some: calibration(exact, x[some], NoiseMap(noise.log_snr[:, some]), eps[:, some])
    parts = part(slice(0, 25)) + part(slice(25, 60))
    assert parts.samples == whole.samples == 60
    for a, b in zip(whole.rows, parts.rows, strict=True):
        assert astuple(a) == pytest.approx(astuple(b), rel=1e-9)


def test_levels_go_where_they_belong_and_clean_tokens_nowhere() -> None:
    level = torch.tensor([1e-4, 1e-3 + 1e-9, 0.05, 0.2 + 1e-9, 0.25, 1 - 1e-4]).double()
    exact = GaussianDenoiser(torch.eye(6).double())
    noise = NoiseMap((2 * torch.log((1 - level) / level))[:, None])
    found = calibration(exact, normal(5, 6, 1), noise, normal(5, 6, 1, seed=1))
    assert [(row.low, row.high, row.tokens) for row in found.rows] == [(0.001, 0.1, 10), (0.2, 0.3, 10), (0.9, 1.0, 5)]
    third = float(found.level[2])  # on an edge: belongs above it, and at the end to the last range
    assert [row.tokens for row in replace(found, edges=(0.0, third, 0.3)).rows] == [10, 15]
    assert only(replace(found, edges=(0.02, third))).tokens == 5
    ends = replace(found, edges=(0.05 - 1e-9, 0.25 + 1e-9))
    assert only(ends).tokens == 15


def test_a_token_is_as_noisy_as_its_noisiest_element() -> None:
    exact = GaussianDenoiser(torch.eye(6).double(), torch.zeros(3, 2).double())
    level = torch.tensor([[0.15, 0.55], [0.75, 0.35], [0.95, 0.95]]).double()
    noise = NoiseMap(2 * torch.log((1 - level) / level))
    found = calibration(exact, normal(4, 3, 2), noise, normal(4, 3, 2, seed=1))
    assert [row.low for row in found.rows] == [0.5, 0.7, 0.9]


def test_conditions_follow_their_samples() -> None:
    """A denoiser that is told the answer errs by what it is told to."""
    x, off = normal(6, 3, 1), torch.arange(1.0, 7.0).double()

    def told(z: Tensor, noise: NoiseMap, truth: Tensor, off: Tensor, scale: float) -> Posterior:
        assert len(z) == len(noise.log_snr) == 12
        return Posterior(truth + scale * off[:, None, None], 2 * (scale * off).log()[:, None].expand(-1, 3))

    noise = NoiseMap(torch.zeros(3, 1).double())  # level 0.5: squared errors of the flow are fourfold
    row = only(calibration(told, x, noise, normal(2, 6, 3, 1), truth=x, off=off, scale=0.5))
    assert (row.predicted, row.actual, row.pearson) == pytest.approx((91 / 6, 91 / 6, 1.0))


def test_one_prediction_for_all_has_no_correlation_and_one_sample_no_standard_error() -> None:
    exact = GaussianDenoiser(torch.eye(3).double())
    found = calibration(exact, normal(1, 3, 1), NoiseMap(torch.zeros(3, 1).double()), normal(1, 3, 1, seed=1))
    row = only(found)
    assert all(math.isnan(value) for value in (row.ratio_error, row.pearson, row.spearman))
    (record,) = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["ratio_error"] is record["pearson"] is record["spearman"] is None
    assert record["ratio"] == row.ratio


def test_a_table() -> None:
    exact, noise = of_two_kinds()
    found = calibration(exact, exact.sample(50, Generator().manual_seed(1)), noise, normal(50, 4, 2))
    head, line = str(found).splitlines()
    assert head.split()[2:] == [
        "tokens",
        "predicted",
        "actual",
        "actual/predicted",
        *"pearson spearman nll constant".split(),
    ]
    assert "0.4-0.5" in line.replace(" ", "")
    row = only(found)
    assert f"{row.ratio:.3f} ± {row.ratio_error:.3f}" in line
    assert len(head) == len(line) <= 110


def test_what_cannot_be_calibrated() -> None:
    silent = lambda z, noise: Posterior(z)
    given = normal(2, 3, 1), NoiseMap(torch.zeros(3, 1).double()), normal(2, 3, 1)
    with pytest.raises(ValueError, match="does not predict its error"):
        calibration(silent, *given)
    broken = lambda z, noise: Posterior(z, torch.full(z.shape[:-1], math.nan))
    with pytest.raises(ValueError, match="not finite"):
        calibration(broken, *given)
    exact = GaussianDenoiser(torch.eye(3).double())
    for edges in ((0.5,), (0.5, 0.2), (-0.1, 0.5), (0.5, 1.5), (0.3, 0.3)):
        with pytest.raises(ValueError, match="two or more flow levels"):
            calibration(exact, *given, edges=edges)
    with pytest.raises(ValueError, match="equal edges"):
        calibration(exact, *given) + calibration(exact, *given, edges=(0.0, 1.0))
