"""Noise of each sample's own: it depends on no other sample, nor on the steps that others take."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Generator

from apd_samplers import DDIM, Churn, Euler, PerSampleNoise, Renoise, inpaint, input_guidance, replacement
from apd_schedules import NoiseMap, Posterior, RectifiedFlow, gaussian_texture, hold_clean, sequential
from long_runs import unchecked

SOLVERS: dict[str, Callable[[PerSampleNoise], Any]] = {
    "ddim": lambda noise: DDIM(1.0, noise),
    "churn": lambda noise: Churn(Euler(), 0.5, noise),
    "renoise": lambda noise: Renoise(DDIM(), noise),
    "both": lambda noise: Renoise(DDIM(0.5, noise), noise),
}


def test_a_stream_a_sample() -> None:
    """In any batch, of any shape."""
    like = torch.empty(2, 3, 4, 5, dtype=torch.float64)
    noise = PerSampleNoise(range(6))
    first, second = noise(like), noise(like)
    assert first.dtype == torch.float64
    for row, seed in enumerate(range(6)):
        seeded = Generator().manual_seed(seed)
        for found in (first, second):
            assert torch.equal(found.flatten(0, 1)[row].float(), torch.randn(4, 5, generator=seeded))
    with pytest.raises(ValueError, match="6 seeds for a batch of 4"):
        noise(torch.empty(4, 4, 5))


def test_streams_rest_where_no_noise_is_needed() -> None:
    noise, alone = PerSampleNoise([7, 8]), PerSampleNoise([8])
    like = torch.empty(2, 4, 5)
    found = noise(like, torch.tensor([True, False]))
    assert found[0].std() > 0.5
    assert (found[1] == 0).all()
    with unchecked():
        assert torch.equal(noise(like)[1], alone(like[:1])[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_sample_does_not_depend_on_steps_in_which_it_rests(name: str) -> None:
    """The second sample rests in the second step, which it would not have alone; up and down, with maps of its own."""
    seeded = Generator().manual_seed(0)
    z = torch.randn(2, 3, 4, generator=seeded, dtype=torch.float64)
    maps = [torch.tensor([[[0.0]], [[0.0]]]), torch.tensor([[[1.0]], [[1.0]]])]
    maps += [torch.tensor([[[2.0]], [[1.0]]]), torch.tensor([[[1.5]], [[0.5]]]), torch.tensor([[[3.0]], [[3.0]]])]
    log_snr = [each.expand(2, 3, 1).double() for each in maps]

    def run(rows: slice, steps: list[int]) -> torch.Tensor:
        solver = SOLVERS[name](PerSampleNoise([5, 6][rows]))
        x, state = z[rows], solver.init(z[rows])
        for k, after in pairwise(steps):
            a, b = NoiseMap(log_snr[k][rows]), NoiseMap(log_snr[after][rows])
            if name in ("renoise", "both") or (b.log_snr >= a.log_snr).all():
                x, state = solver.step(x, Posterior(0.5 * x), a, b, state)
        return x

    with unchecked():
        together = run(slice(0, 2), [0, 1, 2, 3, 4])
        alone = run(slice(1, 2), [0, 1, 3, 4])
    assert torch.equal(together[1:], alone)


def test_other_sources_are_asked_for_all() -> None:
    asked = []

    def source(like: torch.Tensor) -> torch.Tensor:
        asked.append(like.shape)
        return torch.ones_like(like)

    a, b = NoiseMap(torch.zeros(2, 3, 1)), NoiseMap(torch.tensor([1.0, 0.0])[:, None, None].expand(2, 3, 1))
    DDIM(1.0, source).step(torch.zeros(2, 3, 4), Posterior(torch.zeros(2, 3, 4)), a, b, None)
    assert asked == [(2, 3, 4)]


def test_noise_does_not_depend_on_pytorchs_defaults() -> None:
    usual = PerSampleNoise([3])(torch.empty(1, 8, 8))
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = PerSampleNoise([3])(torch.empty(1, 8, 8, dtype=torch.float32, device="cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(found, usual)


@pytest.mark.parametrize("method", ["input guidance", "replacement"])
def test_noise_beside_the_solvers_is_a_samples_own_too(method: str) -> None:
    """Of images with masks of their own, which rest in different steps of a path."""
    model, schedule, path = gaussian_texture((2, 4), 1.5), RectifiedFlow(clean=7.0), sequential(torch.arange(8))
    x = model.sample(2, Generator().manual_seed(0))
    known = torch.zeros(2, 8, 1, dtype=torch.bool)
    known[0, :2] = known[1, 5:] = True

    def run(some: slice) -> torch.Tensor:
        noise, other = PerSampleNoise([1, 2][some]), PerSampleNoise([3, 4][some])
        if method == "replacement":
            way = hold_clean(path, known[some])
            return replacement(
                model, DDIM(), x[some], known[some], path=way, schedule=schedule, steps=16, noise=noise
            ).tokens
        guided = input_guidance(1.0, known[some], 0.5, schedule=schedule, noise=other)(model)
        return inpaint(guided, DDIM(), x[some], known[some], path=path, schedule=schedule, steps=16, noise=noise).tokens

    together = run(slice(2))
    for k in range(2):
        alone = run(slice(k, k + 1))
        each = together[k : k + 1] if method == "replacement" else together[:, k : k + 1]
        torch.testing.assert_close(each, alone, rtol=0, atol=1e-10)
