"""The power-function average, against its definition."""

import pytest
import torch
from torch import nn

from apd_train import Ema
from apd_train._ema import power_of_width


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.25])
def test_the_power_has_the_asked_for_width(sigma_rel: float) -> None:
    """Standard deviation of the density (g + 1) t^g on [0, 1], by quadrature."""
    power = power_of_width(sigma_rel)
    t = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    density = (power + 1) * t**power / len(t)
    mean = (density * t).sum()
    assert (density * (t - mean) ** 2).sum().sqrt().item() == pytest.approx(sigma_rel, rel=1e-4)


def test_the_average_weighs_steps_by_the_power_function() -> None:
    """Weight of step k after n steps: the product form of the update; close to the integral of the density."""
    n, sigma_rel = 400, 0.1
    power = power_of_width(sigma_rel)
    model = nn.Linear(n, 1, bias=False)
    ema = Ema(model, sigma_rel)
    for k in range(n):
        with torch.no_grad():
            model.weight.zero_()
            model.weight[0, k] = 1.0
        ema.update(model)
    weights = ema.model.weight[0].double()
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    edges = (torch.arange(n + 1, dtype=torch.float64) / n) ** (power + 1)
    torch.testing.assert_close(weights.cumsum(0)[n // 2 :], edges[n // 2 + 1 :], rtol=0.02, atol=2e-3)


def test_the_first_update_forgets_the_initial_weights() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model)
    with torch.no_grad():
        model.weight.fill_(3.0)
    ema.update(model)
    assert torch.equal(ema.model.weight, model.weight)
    assert str(ema) == "ema(sigma_rel=0.05) at step 1"


def test_the_average_is_a_copy_that_does_not_learn() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model)
    with torch.no_grad():
        model.weight.add_(1)
    assert not torch.equal(ema.model.weight, model.weight)
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert model.weight.requires_grad
    assert not ema.model.training


@pytest.mark.parametrize("sigma_rel", [0.0, 0.3, -1.0])
def test_impossible_widths_are_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel"):
        power_of_width(sigma_rel)
