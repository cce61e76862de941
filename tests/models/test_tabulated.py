"""Modulation computed before the run: the model, and nothing else, at what was said."""

import pytest
import torch
from torch import Tensor

from apd_models import tabulated
from apd_samplers import DDIM, FollowPath, sample
from apd_schedules import NoiseMap, RectifiedFlow, sequential, synchronous
from dit_cases import D, N, inputs, random_model

GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("conditioning", ["token", "separable", "joint"])
@pytest.mark.parametrize("synchronously", [True, False])
def test_is_the_model_along_a_path(conditioning: str, synchronously: bool) -> None:
    model = random_model(conditioning=conditioning, error_head=True, context_dim=5)
    model.kernels = not synchronously
    z, _, label = inputs()
    walk = FollowPath(synchronous(N) if synchronously else sequential(GROUPS), RectifiedFlow(), 6)
    quick = tabulated(model, [walk.at(k, z) for k in range(7)])
    assert quick.synchronous == synchronously
    context = torch.randn(3, 2, 5, dtype=torch.float64)
    found = sample(quick, DDIM(), walk, z, label=label, context=context)
    expected = sample(model, DDIM(), walk, z, label=label, context=context)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-10, atol=1e-10)
    at = walk.at(2, z)
    a, b = quick(z, at, label, context=context).log_var, model(z, at, label, context=context).log_var
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(quick(z, at, context=context).mean, model(z, at, context=context).mean)


def test_the_modulation_is_not_computed_again() -> None:
    model = random_model()
    z, noise, label = inputs()
    quick = tabulated(model, [noise])
    expected = quick(z, noise, label).mean
    for module in (model.level, model.head_modulation, *(block.modulation for block in model.each_block)):
        for parameter in module.parameters():
            parameter.data.fill_(torch.nan)
    assert torch.equal(quick(z, noise, label).mean, expected)


def test_what_was_not_said_is_refused() -> None:
    model = random_model(conditioning="joint")
    z, noise, _ = inputs()
    quick = tabulated(model, [noise], torch.tensor([0, 2]))
    quick(z, noise, torch.tensor([0, 2, 2]))
    other = noise.log_snr.clone()
    other[1, 3] += 1e-9
    for at, label in [(NoiseMap(other), torch.tensor([0, 2, 2])), (noise, torch.tensor([0, 1, 2])), (noise, None)]:
        with pytest.raises(ValueError, match="not in the table: tabulate every map and label"):
            quick(z, at, label)
    with pytest.raises(ValueError, match="give at least one map"):
        tabulated(model, [])
    for labels in ([], [0, 7]):
        with pytest.raises(ValueError, match="labels are one or more of 0 to 3, which is none, got"):
            tabulated(model, [noise], torch.tensor(labels, dtype=torch.long))


def test_a_synchronous_table_refuses_an_asynchronous_map() -> None:
    """Even of levels that it has."""
    model = random_model()
    z = torch.zeros(2, N, D, dtype=torch.float64)
    maps = [NoiseMap(torch.full((N, 1), level, dtype=torch.float64)) for level in (-1.0, 1.0)]
    quick = tabulated(model, maps)
    quick(z, maps[0])
    with pytest.raises(ValueError, match="not in the table"):
        quick(z, NoiseMap(torch.tensor([-1.0, 1, 1, 1, 1, 1], dtype=torch.float64)[:, None]))


def test_one_map_for_all_samples_or_one_for_each() -> None:
    model = random_model()
    z, noise, label = inputs()
    quick = tabulated(model, [NoiseMap(noise.log_snr[0])])
    each = NoiseMap(noise.log_snr[:1].expand(3, N, 1))
    found: list[Tensor] = [quick(z, at, label).mean for at in (NoiseMap(noise.log_snr[0]), each)]
    torch.testing.assert_close(*found)
