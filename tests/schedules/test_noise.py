"""Noise maps and corruption."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from apd_schedules import NoiseMap, corrupt
from strategies import log_snrs, normals, tokens


@given(st.data(), tokens)
def test_alpha_and_sigma_are_variance_preserving_and_carry_the_log_snr(data: st.DataObject, n: int) -> None:
    log_snr = data.draw(log_snrs(n))
    noise = NoiseMap(log_snr)
    torch.testing.assert_close(noise.alpha**2 + noise.sigma**2, torch.ones_like(log_snr), rtol=1e-14, atol=0)
    torch.testing.assert_close(2 * (noise.alpha.log() - noise.sigma.log()), log_snr, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(noise.flow_level, noise.sigma / (noise.alpha + noise.sigma), rtol=1e-12, atol=0)


def test_small_sigma_keeps_its_digits_in_float32() -> None:
    """sqrt(1 - alpha²) would be wrong by tens of per cent here."""
    sigma = NoiseMap(torch.full((1, 1), 15.0)).sigma.item()
    assert sigma == pytest.approx(math.exp(-7.5), rel=1e-5)


@given(st.data(), tokens, st.sampled_from([1, 3]))
def test_corrupt_takes_a_level_a_token_or_a_level_an_element(data: st.DataObject, n: int, e: int) -> None:
    d = 3
    log_snr = torch.stack([data.draw(log_snrs(n)) for _ in range(e)], -1)[:, 0]
    x, eps = data.draw(normals(2, n, d)), data.draw(normals(2, n, d))
    z = corrupt(x, NoiseMap(log_snr), eps)
    for i in range(n):
        for j in range(d):
            level = log_snr[i, min(j, e - 1)].item()
            alpha, sigma = (1 + math.exp(-level)) ** -0.5, (1 + math.exp(level)) ** -0.5
            torch.testing.assert_close(z[:, i, j], alpha * x[:, i, j] + sigma * eps[:, i, j])


def test_to_never_goes_below_float32() -> None:
    noise = NoiseMap(torch.zeros(2, 1, dtype=torch.float64))
    assert noise.to(torch.zeros(1, dtype=torch.bfloat16)).log_snr.dtype == torch.float32
    assert noise.to(torch.zeros(1, dtype=torch.float64)).log_snr.dtype == torch.float64
