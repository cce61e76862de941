"""The loop: order of calls, honest counts, inpainting by path, guidance, noise."""

from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from apd_samplers import DDIM, FollowPath, PerSampleNoise, classifier_free, sample
from apd_schedules import Linear, NoiseMap, Posterior, RectifiedFlow, hold_clean, sequential, synchronous
from oracles import Gaussian
from strategies import masks, normals, paths, tokens


@given(st.data(), tokens, st.integers(1, 5))
def test_known_tokens_come_back_bit_equal_and_are_seen_clean(data: st.DataObject, n: int, steps: int) -> None:
    known, z, path = data.draw(masks(n)), data.draw(normals(2, n, 2)), data.draw(paths(n))
    clean = RectifiedFlow()(torch.zeros((), dtype=torch.float64))

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        assert (noise.log_snr[known] == clean).all()
        return Posterior(0.5 * z)

    result = sample(denoise, DDIM(), FollowPath(hold_clean(path, known), RectifiedFlow(), steps), z)
    assert torch.equal(result.tokens[:, known[:, 0]], z[:, known[:, 0]])
    assert (result.noise.log_snr == clean).all()


def test_inpainting_samples_the_conditional_law() -> None:
    """Jointly Gaussian tokens: given the known ones, the generated ones have the conditional mean and covariance."""
    oracle = Gaussian(3, seed=4)
    known = torch.tensor([[True], [False], [False]])
    z = torch.cat([torch.full((4, 1, 1), 1.7, dtype=torch.float64), torch.zeros(4, 2, 1, dtype=torch.float64)], 1)
    z[1, 1], z[2, 2] = 1.0, 1.0  # affine in the noise: push the origin and two unit vectors through
    schedule = Linear(noise=-16.0, clean=16.0)
    result = sample(oracle, DDIM(), FollowPath(hold_clean(synchronous(3), known), schedule, 2000), z).tokens[:, 1:, 0]
    mean, root = result[0], result[1:3] - result[0]
    gain = oracle.cov[1:, :1] / oracle.cov[0, 0]
    torch.testing.assert_close(mean, 1.7 * gain[:, 0], rtol=0, atol=0.01)
    torch.testing.assert_close(root.T @ root, oracle.cov[1:, 1:] - gain @ oracle.cov[:1, 1:], rtol=0, atol=0.01)


def test_counts_and_callbacks() -> None:
    seen: list[int] = []
    z = torch.zeros(2, 5, 1)
    walk = FollowPath(sequential(torch.arange(5)), RectifiedFlow(), 7)
    result = sample(lambda z, noise: Posterior(z), DDIM(), walk, z, on_step=lambda now: seen.append(now.step))
    assert (result.evaluations, result.token_evaluations) == (7, 35)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    guided = classifier_free(2.0, {"label": None})(lambda z, noise, label: Posterior(z))
    result = sample(guided, DDIM(), walk, z, label=1)
    assert (result.evaluations, result.token_evaluations) == (14, 70)


class Told:
    """Predicts its label, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
        self.calls.append(cond)
        return Posterior(torch.full_like(z, cond["label"]))


@pytest.mark.parametrize(("scale", "expected", "calls"), [(1.0, 3.0, 1), (0.0, 7.0, 1), (2.0, -1.0, 2), (0.5, 5.0, 2)])
def test_guidance_goes_from_null_through_label(scale: float, expected: float, calls: int) -> None:
    told = Told()
    z, noise = torch.zeros(1, 2, 1), NoiseMap(torch.zeros(2, 1))
    posterior = classifier_free(scale, {"label": 7.0})(told)(z, noise, label=3.0, other="kept")
    assert (posterior.mean == expected).all()
    assert posterior.evaluations == len(told.calls) == calls
    assert all(cond["other"] == "kept" for cond in told.calls)


def test_nested_guidance_counts_all_its_calls() -> None:
    twice = classifier_free(2.0, {"label": 0.0})
    z, noise = torch.zeros(1, 2, 1), NoiseMap(torch.zeros(2, 1))
    assert twice(twice(Told()))(z, noise, label=1.0).evaluations == 4


def test_noise_of_a_sample_does_not_depend_on_its_company() -> None:
    like = torch.empty(3, 4, 2)
    together, alone = PerSampleNoise([5, 6, 7]), PerSampleNoise([6])
    for _ in range(2):
        assert torch.equal(together(like)[1], alone(like[:1])[0])
    source = PerSampleNoise([5, 6, 7])
    assert not torch.equal(source(like), source(like))
    with pytest.raises(ValueError, match="3 seeds for a batch of 2"):
        source(like[:2])


def test_a_path_takes_at_least_one_step() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        FollowPath(synchronous(2), RectifiedFlow(), 0)
