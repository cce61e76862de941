"""The error head: what it says, what it is trained by, and that the rest of the network does not feel it."""

import dataclasses
import math

import pytest
import torch
from torch import Generator, Tensor

from apd_models import DiT, DiTConfig, error_nll, with_error_head
from apd_models._conventions import CONVENTIONS
from apd_models._error_head import log_var_of_mean
from apd_schedules import NoiseMap, RectifiedFlow, corrupt

CONFIG = DiTConfig((2, 3), token_dim=4, width=32, depth=2, heads=4, classes=3, data_std=0.8)
N = 6


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def randomised(model: DiT, seed: int = 0) -> DiT:
    """Weights at random, the zero-initialised ones too."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, NoiseMap, Tensor]:
    """Clean tokens, noise, levels, labels."""
    generator = seeded(seed)
    x, eps = torch.randn(2, batch, N, 4, generator=generator)
    noise = NoiseMap(RectifiedFlow()(torch.rand(batch, N, 1, generator=generator)))
    return x, eps, noise, torch.randint(4, (batch,), generator=generator)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("elements", [1, 4])
def test_the_error_of_the_output_becomes_that_of_the_mean(convention: str, elements: int) -> None:
    """Two outputs that differ by a known amount: so do, by its square and the gain's, their means."""
    of = CONVENTIONS[convention]
    generator = seeded()
    z, out = torch.randn(2, 2, N, 4, generator=generator, dtype=torch.float64)
    noise = NoiseMap(6 * torch.randn(2, N, elements, generator=generator, dtype=torch.float64))
    size = torch.rand(2, N, generator=generator, dtype=torch.float64) + 0.5
    off = of.mean(out + size[..., None], z, noise) - of.mean(out, z, noise)
    expected = off.square().mean(-1).log()
    torch.testing.assert_close(log_var_of_mean(2 * size.log(), noise, of), expected, rtol=1e-9, atol=1e-7)


def test_it_starts_at_an_output_error_of_one() -> None:
    """As the trunk starts at no velocity: of the flow, whose error is the level squared."""
    x, eps, noise, label = inputs()
    model = DiT(dataclasses.replace(CONFIG, error_head=True))
    log_var = model(corrupt(x, noise, eps), noise, label=label).log_var
    torch.testing.assert_close(log_var, 2 * noise.flow_level.log()[..., 0])
    assert DiT(CONFIG)(x, noise).log_var is None


def test_the_likelihood_is_best_at_the_mean_squared_error() -> None:
    generator = seeded()
    mean, x = torch.randn(2, 500, 4, 3, generator=generator, dtype=torch.float64)
    squared = (x - mean).square().mean(-1)
    best = squared.mean(0).log().expand(500, 4)
    log_var = best.clone().requires_grad_()
    value = error_nll(log_var, mean, x)
    torch.testing.assert_close(value, (best + squared / best.exp()) / 2, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), log_var)
    torch.testing.assert_close(slope.sum(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)
    worse = [error_nll(best + off, mean, x).mean() for off in (-0.1, 0.1)]
    assert value.mean() < min(worse)


def test_the_likelihood_leaves_the_mean_alone() -> None:
    mean = torch.randn(3, 4, 2, generator=seeded()).requires_grad_()
    log_var = torch.zeros(3, 4, requires_grad=True)
    error_nll(log_var, mean, torch.zeros(3, 4, 2)).sum().backward()
    assert mean.grad is None
    assert log_var.grad is not None


def test_the_likelihood_is_finite_where_variances_leave_the_range_of_float32() -> None:
    x = torch.zeros(4, 3)
    mean = torch.tensor([0.0, 1e-25, 1e-15, 1e15])[:, None].expand(4, 3)
    log_var = torch.tensor([-80.0, -115.0, -69.0, 69.0], requires_grad=True)
    value = error_nll(log_var, mean, x)
    value.sum().backward()
    assert value.isfinite().all()
    assert log_var.grad is not None
    assert log_var.grad.isfinite().all()
    assert value[2:].tolist() == pytest.approx(
        [(-69 + math.exp(-30 * math.log(10) + 69)) / 2, (69 + math.exp(30 * math.log(10) - 69)) / 2], rel=1e-4
    )


@pytest.mark.parametrize(
    "options", [{}, {"conditioning": "separable"}, {"conditioning": "joint"}, {"position": "rope"}]
)
def test_it_has_no_gradient_but_its_own(options: dict[str, str]) -> None:
    """Exactly none in any other weight, nor in what is seen; and all of its own learn."""
    config = dataclasses.replace(CONFIG, error_head=True, **options)  # pyrefly: ignore
    model = randomised(DiT(config))
    x, eps, noise, label = inputs()
    z = corrupt(x, noise, eps).requires_grad_()
    posterior = model(z, noise, label=label)
    assert posterior.log_var is not None
    error_nll(posterior.log_var, posterior.mean, x).sum().backward()
    felt = {name for name, p in model.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert felt == {name for name, _ in model.named_parameters() if name.startswith("error.")}
    assert z.grad is None or not z.grad.any()


def test_it_sees_its_token_and_its_level() -> None:
    model = randomised(DiT(dataclasses.replace(CONFIG, error_head=True))).eval()
    x, eps, noise, label = inputs()
    z = corrupt(x, noise, eps)
    of = lambda z, noise: model(z, noise, label=label).log_var - 2 * noise.flow_level.log()[..., 0]
    before = of(z, noise)
    assert (before[0] != before[1]).all()
    assert (of(z + 0.1, noise) != before).all()
    assert (of(z, NoiseMap(noise.log_snr + 0.1)) != before).all()


def test_adding_it_changes_nothing_else() -> None:
    model = randomised(DiT(CONFIG)).eval()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    other = with_error_head(model, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator plays no part
    assert other.config == dataclasses.replace(CONFIG, error_head=True)
    assert not other.training
    kept = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(kept.pop(name), tensor)
        assert other.get_parameter(name).data_ptr() == tensor.data_ptr()  # shared
    assert all(name.startswith("error.") for name in kept)
    x, eps, noise, label = inputs()
    z = corrupt(x, noise, eps)
    one, two = model(z, noise, label=label), other(z, noise, label=label)
    assert torch.equal(one.mean, two.mean)
    torch.testing.assert_close(two.log_var, 2 * noise.flow_level.log()[..., 0])
    assert other.train().training != model.training


def test_its_first_weights_are_those_of_the_generator() -> None:
    model = DiT(CONFIG)
    one, same, another = (with_error_head(model, seeded(seed)).error for seed in (3, 3, 4))
    assert one is not None
    assert same is not None
    assert another is not None
    assert torch.equal(one.hidden.weight, same.hidden.weight)
    assert not torch.equal(one.hidden.weight, another.hidden.weight)


def test_it_is_added_once() -> None:
    with pytest.raises(ValueError, match="an error head already"):
        with_error_head(DiT(dataclasses.replace(CONFIG, error_head=True)), seeded())
