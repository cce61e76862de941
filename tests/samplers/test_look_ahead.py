"""Look-ahead: the second evaluation's map and tokens, which guess is whose, and what it leaves alone."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import DDIM, FollowPath, LookAhead, classifier_free, sample
from apd_schedules import NoiseMap, Posterior, RectifiedFlow, corrupt, flow_from_x, hold_clean, synchronous
from oracles import Gaussian
from scheduler_cases import halves, rows_apart
from strategies import log_snrs, normals, tokens

N = 5
ORACLE = Gaussian(N, seed=2)


def at(*flow_times: float) -> NoiseMap:
    return NoiseMap(2 * torch.tensor(flow_times, dtype=torch.float64).logit()[:, None])


class Told:
    """Says the truth of the tokens it is sure of, and the oracle's guess of the others; keeps what it was asked."""

    def __init__(self, x: Tensor, sure: Tensor) -> None:
        self.x, self.sure = x, sure
        self.asked: list[tuple[Tensor, NoiseMap]] = []

    def __call__(self, z: Tensor, noise: NoiseMap) -> Posterior:
        self.asked.append((z, noise))
        mean = torch.where(self.sure[..., None], self.x, ORACLE(z, noise).mean)
        return Posterior(mean, torch.where(self.sure, -9.0, -1.0).double())


FLOW = RectifiedFlow()


def test_uncertain_tokens_are_guessed_given_the_certain_ones_ahead() -> None:
    """The certain ones are right, so that their step ahead is along the true line; the rest is the oracle's formula."""
    x, eps = torch.randn(2, 3, N, 1, generator=Generator().manual_seed(0), dtype=torch.float64)
    sure = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 1], [0, 1, 1, 0, 0]]).bool()
    noise = at(0.2, 0.5, 0.5, 0.8, 0.3)
    ahead = at(0.28, 0.7, 0.7, 1 - 1e-4, 0.42).log_snr
    seen = NoiseMap(torch.where(sure[..., None], ahead, noise.log_snr))
    denoise = Told(x, sure)
    posterior = LookAhead(FLOW, share=0.4)(denoise)(corrupt(x, noise, eps), noise)
    expected = ORACLE(corrupt(x, seen, eps), seen).mean
    torch.testing.assert_close(posterior.mean, torch.where(sure[..., None], x, expected), rtol=0, atol=1e-10)
    torch.testing.assert_close(denoise.asked[1][1].log_snr, seen.log_snr, rtol=0, atol=1e-10)
    assert posterior.evaluations == len(denoise.asked) == 2


@given(st.data(), tokens, st.floats(1.01, 3.0), st.floats(0, 1), st.floats(0, 0.9))
def test_the_step_ahead_is_the_published_one(
    data: st.DataObject, n: int, reach: float, share: float, begin: float
) -> None:
    """``x + (min(reach tau, 1) - tau) v`` in the flow's coordinates, of the least uncertain tokens under way."""
    z, mean = data.draw(normals(n, 2)), data.draw(normals(n, 2))
    noise, log_var = NoiseMap(data.draw(log_snrs(n)).clamp(-18, 19)), data.draw(normals(n))
    asked: list[tuple[Tensor, NoiseMap]] = []

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        asked.append((z, noise))
        return Posterior(mean if len(asked) == 1 else mean + 1, log_var)

    posterior = LookAhead(FLOW, share, reach, begin)(denoise)(z, noise)
    clean = RectifiedFlow().clean
    tau = 1 - noise.flow_level[:, 0]
    under_way = [i for i in range(n) if tau[i] > begin and noise.log_snr[i] < clean - 1e-3]
    certain = sorted(under_way, key=lambda i: float(log_var[i]))[: round(share * len(under_way))]
    expected = noise.log_snr.clone()
    expected[certain] = (2 * (reach * tau[certain]).clamp(max=1 - 1e-4).logit())[:, None]
    torch.testing.assert_close(asked[1][1].log_snr, expected, rtol=0, atol=1e-6)

    flow = lambda z, noise: z / (noise.alpha + noise.sigma)
    fall = noise.flow_level - asked[1][1].flow_level
    moved = flow(z, noise) - fall * flow_from_x(mean, z, noise)
    torch.testing.assert_close(flow(*asked[1]), moved, rtol=0, atol=1e-9)
    others = [i for i in range(n) if i not in certain]
    assert torch.equal(asked[1][0][others], z[others])
    assert torch.equal(posterior.mean[certain], mean[certain])
    assert torch.equal(posterior.mean[others], mean[others] + 1)
    assert posterior.log_var is log_var


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_plain_guess_where_nobody_is_ahead(dtype: torch.dtype) -> None:
    z = torch.randn(2, 4, 2, generator=Generator().manual_seed(0)).to(dtype)
    clean = RectifiedFlow()(torch.zeros(())).to(dtype)
    half, early = at(0.5, 0.6, 0.2, 0.1).to(z), at(0.049, 0.01, 1e-4, 0.03).to(z)
    for guide, noise in (
        (LookAhead(FLOW, share=0.0), half),
        (LookAhead(FLOW, share=1.0), half),
        (LookAhead(FLOW), early),
        (LookAhead(FLOW, begin=0.7), half),
        (LookAhead(FLOW), NoiseMap(clean.expand(4, 1))),
        (LookAhead(RectifiedFlow(clean=-9.0, noise=-10.0)), half),
    ):
        plain, guided = rows_apart(z, noise), guide(rows_apart)(z, noise)
        assert torch.equal(plain.mean, guided.mean)
        assert plain.log_var is not None
        assert guided.log_var is not None
        assert torch.equal(plain.log_var, guided.log_var)
        assert guided.evaluations == 2


@pytest.mark.parametrize("reach", [5.0, math.inf])
def test_far_ahead_is_clean_and_no_further(reach: float) -> None:
    x = torch.zeros(1, N, 1, dtype=torch.float64)
    denoise = Told(x, torch.tensor([[1, 1, 0, 0, 0]]).bool())
    LookAhead(RectifiedFlow(clean=6.0), reach=reach)(denoise)(x, at(0.3, 0.5, 0.5, 0.5, 0.5))
    assert denoise.asked[1][1].log_snr[0, :, 0].tolist() == [6, 6, 0, 0, 0]


def test_levels_of_elements_go_ahead_each_by_itself() -> None:
    noise = NoiseMap(2 * torch.tensor([[0.04, 0.5], [0.3, 1 - 1e-4]], dtype=torch.float64).logit())
    asked: list[NoiseMap] = []

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        asked.append(noise)
        return Posterior(z, torch.zeros(1, 2))

    LookAhead(FLOW, share=1.0)(denoise)(torch.zeros(1, 2, 2, dtype=torch.float64), noise)
    expected = torch.tensor([[[0.04, 0.7], [0.42, 1 - 1e-4]]], dtype=torch.float64)
    torch.testing.assert_close(1 - asked[1].flow_level, expected, rtol=0, atol=1e-12)


def test_known_tokens_take_no_place_among_the_certain() -> None:
    """Two of the four unknown ones go ahead, though the known ones are surer than any."""
    known = torch.tensor([[True], [False], [True], [False], [False], [False]])
    ahead: list[int] = []

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        ahead.append(int((noise.log_snr[..., 0] > noise.log_snr.amin((-2, -1), keepdim=True)[..., 0]).sum()))
        return Posterior(0.5 * z, torch.where(known[:, 0], -30.0, torch.arange(6.0)).expand(1, 6))

    z = torch.zeros(1, 6, 1)
    walk = FollowPath(hold_clean(synchronous(6), known), RectifiedFlow(), 8)
    result = sample(LookAhead(FLOW, share=0.5)(denoise), DDIM(), walk, z)
    assert (result.evaluations, result.token_evaluations) == (16, 96)
    assert ahead[:2] == [2, 2]  # pure noise is not under way
    assert ahead[2:] == [2, 4] * 7


def test_conditions_counts_and_other_uncertainties() -> None:
    labels: list[float] = []

    def denoise(z: Tensor, noise: NoiseMap, *, label: float) -> Posterior:
        labels.append(label)
        return Posterior(z + label)

    by_level = LookAhead(
        FLOW, uncertainty=lambda noise, posterior: noise.flow_level[..., 0].expand(posterior.mean.shape[:-1])
    )
    z = torch.zeros(2, 3, 1, dtype=torch.float64)
    guided = by_level(classifier_free(2.0, {"label": 0.0})(denoise))
    assert guided(z, at(0.5, 0.2, 0.3), label=1.0).evaluations == 4
    assert sorted(labels) == [0.0, 0.0, 1.0, 1.0]
    mean = by_level(denoise)(z, at(0.5, 0.2, 0.3), label=1.0).mean
    assert (mean[:, 0] == 1).all()  # the first guess of the token that is cleanest
    twice = by_level(LookAhead(FLOW, uncertainty=by_level.uncertainty)(denoise))
    assert twice(z, at(0.5, 0.2, 0.3), label=1.0).evaluations == 4


def test_it_reads_no_number_and_stays_on_its_device() -> None:
    """The host need not wait for a device: it goes through where there are no numbers."""
    z = torch.zeros(2, 4, 1, device="meta")
    assert LookAhead(FLOW)(rows_apart)(z, at(0.5, 0.6, 0.01, 0.1).to(z)).mean.device.type == "meta"


def test_refusals() -> None:
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"share .* in \[0, 1\]"):
            LookAhead(FLOW, share)
    for reach in (1.0, 0.5, math.nan):
        with pytest.raises(ValueError, match="by more than 1"):
            LookAhead(FLOW, reach=reach)
    for begin in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="flow time"):
            LookAhead(FLOW, begin=begin)
    with pytest.raises(ValueError, match=r"does not predict its error.*LookAhead\(uncertainty"):
        LookAhead(FLOW)(halves)(torch.zeros(1, 2, 1), at(0.5, 0.5))
