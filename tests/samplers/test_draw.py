"""Weights and the loss, against the squared error of the prediction that they stand for."""

import pytest
import torch
from torch import Generator

import apd_samplers as smp
from apd_samplers import Draw, Weighting, loss, weighted
from apd_schedules import Linear, NoiseMap, Posterior, RectifiedFlow, corrupt, eps_from_x, flow_from_x, v_from_x
from long_runs import unchecked
from oracles import Gaussian

N = 4
KINDS = {
    "x": (smp.x_weighting, lambda x, z, noise: x),
    "eps": (smp.eps_weighting, eps_from_x),
    "v": (smp.v_weighting, v_from_x),
    "flow": (smp.flow_weighting, flow_from_x),
}


@pytest.mark.parametrize(("weighting", "predict"), KINDS.values(), ids=KINDS.keys())
def test_each_weighting_is_the_plain_error_of_its_prediction(weighting: Weighting, predict: "object") -> None:
    generator = Generator().manual_seed(0)
    x, eps = torch.randn(2, 5, N, 1, generator=generator, dtype=torch.float64)
    noise = NoiseMap(torch.linspace(-6, 6, 5 * N, dtype=torch.float64).reshape(5, N, 1))
    z = corrupt(x, noise, eps)
    oracle = Gaussian(N, seed=1)
    guess = oracle(z, noise).mean
    plain = (predict(x, z, noise) - predict(guess, z, noise)).square().sum((-2, -1))  # pyrefly: ignore
    got = loss(oracle, x, Draw(noise, weighting(noise)), eps)
    torch.testing.assert_close(got, plain, rtol=1e-9, atol=0)


def test_clean_tokens_weigh_nothing_and_noisy_ones_something() -> None:
    levels = smp.clean_context((3, 3))
    draw = weighted(levels, RectifiedFlow())(64, Generator().manual_seed(0))
    raw = levels(64, Generator().manual_seed(0))
    assert torch.equal(draw.weight == 0, raw == 0)
    torch.testing.assert_close(draw.noise.log_snr, RectifiedFlow()(raw))
    assert torch.isfinite(draw.weight).all()


def test_default_weighting_of_a_perfect_guess_of_zero_velocity() -> None:
    """A network that always predicts flow 0 has loss E|eps - x|², that is 2 for unit normal data, at every level."""

    def still(z: torch.Tensor, noise: NoiseMap) -> Posterior:
        return Posterior(z / (noise.alpha + noise.sigma))

    generator = Generator().manual_seed(0)
    x, eps = torch.randn(2, 4096, N, 3, generator=generator)
    draw = weighted(smp.independent(N), Linear())(4096, generator)
    values = loss(still, x, draw, eps) / (N * 3)
    assert abs(values.mean().item() - 2) < 5 * values.std().item() / 64


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_negative_weights_are_refused(value: float) -> None:
    bad = weighted(smp.shared(N), RectifiedFlow(), lambda noise: torch.where(noise.log_snr > 2, value, 1.0))
    with pytest.raises(ValueError, match="must be finite and not negative"):
        bad(64, Generator().manual_seed(0))


def test_what_is_not_of_the_tokens_is_refused() -> None:
    """None of it is broadcast."""
    x, eps = torch.randn(2, 3, N, 2)
    draw = weighted(smp.shared(N), RectifiedFlow())(3, Generator().manual_seed(0))
    denoise = lambda z, noise: Posterior(z)
    of = lambda rows, tokens: Draw(NoiseMap(draw.noise.log_snr[rows, tokens]), draw.weight[rows, tokens])
    one, every = slice(1), slice(None)
    for wrong, noise in ((of(one, every), eps), (of(every, one), eps), (draw, eps[:1]), (draw, eps[..., :1])):
        with (
            unchecked(),
            pytest.raises(ValueError, match=r"tokens of shape \(3, 4, 2\) take noise of that shape and a"),
        ):
            loss(denoise, x, wrong, noise)
    with unchecked(), pytest.raises(ValueError, match=r"returned a mean of shape \(3, 4, 1\) for tokens of shape"):
        loss(lambda z, noise: Posterior(z[..., :1]), x, draw, eps)


def test_a_draw_goes_to_the_device_of_the_data() -> None:
    draw = weighted(smp.shared(N), RectifiedFlow())(3)
    for like in (torch.device("meta"), torch.empty(0, device="meta")):
        there = draw.to(like)
        assert there.noise.log_snr.is_meta
        assert there.weight.is_meta
