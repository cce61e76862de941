"""DDIM: its published form, its order, and what it leaves alone."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from apd_samplers import DDIM, FollowPath, PerSampleNoise, sample
from apd_schedules import (
    Linear,
    NoiseMap,
    Posterior,
    RectifiedFlow,
    corrupt,
    eps_from_x,
    sequential,
    staggered,
    synchronous,
)
from long_runs import unchecked
from oracles import Gaussian
from solver_cases import together
from strategies import log_snrs, masks, normals, tokens

N = 3
PATHS = {
    "synchronous": synchronous(N),
    "staggered": staggered(torch.tensor([2, 0, 1]), 0.5),
    "sequential": sequential(torch.tensor([0, 1, 2])),
}


@given(st.data(), tokens, st.floats(0, 1))
def test_a_step_is_equation_12(data: st.DataObject, n: int, eta: float) -> None:
    a = NoiseMap(data.draw(log_snrs(n)).clamp(-10, 10))
    b = NoiseMap(a.log_snr + data.draw(log_snrs(n)).abs() / 4)
    z, x, fresh = (data.draw(normals(2, n, 2)) for _ in range(3))
    moved, _ = DDIM(eta, lambda like: fresh).step(z, Posterior(x), a, b, None)
    c = 1 - (a.log_snr - b.log_snr).exp()
    eps = eps_from_x(x, z, a)
    expected = b.alpha * x + b.sigma * ((1 - eta**2 * c).sqrt() * eps + eta * c.sqrt() * fresh)
    torch.testing.assert_close(moved, expected, rtol=1e-7, atol=1e-7)


@given(st.data(), tokens, st.floats(0, 1), st.sampled_from([torch.float32, torch.float64]))
def test_unmoved_tokens_are_bit_equal(data: st.DataObject, n: int, eta: float, dtype: torch.dtype) -> None:
    log_snr, unmoved = data.draw(log_snrs(n)).to(dtype), data.draw(masks(n))
    a, b = NoiseMap(log_snr), NoiseMap(torch.where(unmoved, log_snr, log_snr + 1))
    z, x = data.draw(normals(2, n, 3)).to(dtype), data.draw(normals(2, n, 3)).to(dtype)
    moved, _ = DDIM(eta, PerSampleNoise([1, 2])).step(z, Posterior(100 * x), a, b, None)
    assert torch.equal(moved[:, unmoved[:, 0]], z[:, unmoved[:, 0]])


def test_float32_steps_stay_within_rounding_of_float64() -> None:
    """At every level of a fine walk, where a naive difference of alphas loses its digits."""
    walk = RectifiedFlow()(torch.linspace(1, 0, 501, dtype=torch.float64))[:, None, None, None]
    z, x = torch.randn(2, 1, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a, b in pairwise(walk):
        exact, _ = DDIM().step(z, Posterior(x), NoiseMap(a), NoiseMap(b), None)
        single, _ = DDIM().step(z.float(), Posterior(x.float()), NoiseMap(a.float()), NoiseMap(b.float()), None)
        # what the exact step makes of log-SNRs rounded to float32, plus a few roundings of the result
        rounded, _ = DDIM().step(z, Posterior(x), NoiseMap(a.float().double()), NoiseMap(b.float().double()), None)
        assert (single.double() - rounded).abs().max() < 2e-6
        assert (rounded - exact).abs().max() < 2e-4


def orders(errors: list[Tensor]) -> Tensor:
    """Of each path, from the errors of a run and of one of twice the steps."""
    coarse, fine = errors
    return (coarse / fine).log2()


def test_first_order_on_every_path() -> None:
    """With a linear denoiser the sampler is a matrix: push the identity through and compare covariances."""
    oracle, errors = Gaussian(N, seed=1), []
    eye = torch.eye(N, dtype=torch.float64).expand(len(PATHS), N, N)
    for steps in (480, 960):
        with unchecked():
            walk = FollowPath(together(PATHS.values()), Linear(noise=-16.0, clean=16.0), steps)
            pushed = sample(oracle, DDIM(), walk, eye[..., None]).tokens[..., 0]
        errors.append((pushed.mT @ pushed - oracle.cov).abs().amax((1, 2)))
    assert ((orders(errors) - 1).abs() < 0.1).all(), dict(zip(PATHS, orders(errors).tolist(), strict=True))
    assert (errors[-1] < 0.05).all()


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_stochastic_steps_have_the_data_covariance_in_the_limit(eta: float) -> None:
    """Mean and noise of every step are linear, so the covariance is propagated exactly, and its error halves."""
    oracle, errors = Gaussian(N, seed=2), []
    eye = torch.eye(N, dtype=torch.float64).expand(len(PATHS), N, N)
    rows, units = (torch.cat(pair, 1)[..., None] for pair in ((eye, 0 * eye), (0 * eye, eye)))
    solver = DDIM(eta, lambda like: units)
    for steps in (400, 800):
        cov = eye
        with unchecked():
            walk = FollowPath(together(PATHS.values()), Linear(noise=-16.0, clean=16.0), steps)
            for a, b in pairwise(walk.at(k, rows) for k in range(steps + 1)):
                moved, _ = solver.step(rows, oracle(rows, a), a, b, None)
                mean, noise = moved[..., 0].split(N, 1)
                cov = mean.mT @ cov @ mean + noise.mT @ noise
        errors.append((cov - oracle.cov).abs().amax((1, 2)))
    assert ((orders(errors) - 1).abs() < 0.15).all(), dict(zip(PATHS, orders(errors).tolist(), strict=True))


def test_a_perfect_guess_moves_along_the_corruption() -> None:
    """Given the true x, a deterministic step carries alpha_a x + sigma_a eps to alpha_b x + sigma_b eps."""
    x, eps = torch.randn(2, 1, N, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = NoiseMap(torch.tensor([[-3.0], [0.0], [2.0]], dtype=torch.float64))
    b = NoiseMap(torch.tensor([[1.0], [0.0], [9.0]], dtype=torch.float64))
    moved, _ = DDIM().step(corrupt(x, a, eps), Posterior(x), a, b, None)
    torch.testing.assert_close(moved, corrupt(x, b, eps))


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="eta"):
        DDIM(eta, torch.randn_like)


def test_noise_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match="pass a source"):
        DDIM(eta=0.5)


def test_tokens_keep_their_dtype() -> None:
    z: Tensor = torch.zeros(1, N, 1)
    result = sample(lambda z, noise: Posterior(z), DDIM(), FollowPath(synchronous(N), RectifiedFlow(), 2), z)
    assert result.tokens.dtype == torch.float32
