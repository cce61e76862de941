"""Guidance: one call for all branches, honest counts, exact kernels, and what the theory of Gaussians says."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import (
    DDIM,
    Branch,
    FollowPath,
    Guidance,
    Heun,
    PerSampleNoise,
    RenoisedRegion,
    autoguidance,
    classifier_free,
    compose_guidance,
    composite,
    input_guidance,
    modulated,
    on_interval,
    sample,
)
from apd_schedules import (
    Denoiser,
    GaussianDenoiser,
    InvertibleSchedule,
    NoiseMap,
    Posterior,
    RectifiedFlow,
    gaussian_texture,
    hold_clean,
    synchronous,
)
from oracles import Gaussian, covariance, gain
from strategies import log_snrs, masks, normals, schedules

N, D = 4, 2
FLOW = RectifiedFlow()
REGION = torch.tensor([True, False, True, False])[:, None]
MIX = torch.randn(N, N, generator=Generator().manual_seed(1), dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def levels_at(*level: float) -> NoiseMap:
    return NoiseMap(FLOW(torch.tensor(level, dtype=torch.float64)[:, None]))


class Net:
    """Mixes the tokens of a sample by their levels and its label; keeps what it was called with."""

    def __init__(self, bias: float = 0.0, cost: int = 1) -> None:
        self.bias, self.cost = bias, cost
        self.calls: list[tuple[torch.Size, dict[str, Any]]] = []
        self.maps: list[Tensor] = []

    def __call__(self, z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
        self.calls.append((z.shape, cond))
        self.maps.append(noise.log_snr)
        label = cond.get("label", 0.0)
        label = label[..., None, None] if isinstance(label, Tensor) else label
        mean = torch.tanh(MIX.to(z) @ (noise.alpha.to(z) * z) + noise.flow_level.to(z) * (1 + label) + self.bias)
        return Posterior(mean, mean.square().sum(-1), self.cost)


class Counted:
    """A source of the same noise at each call."""

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.calls = noise, 0

    def __call__(self, like: Tensor) -> Tensor:
        self.calls += 1
        assert like.shape == self.noise.shape
        return self.noise


def context(region: Tensor = REGION, level: float = 1.0, noise: Tensor | None = None) -> RenoisedRegion:
    return RenoisedRegion(region, level, FLOW, Counted(randn(3, N, D, seed=9) if noise is None else noise))


def close(a: Tensor, b: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# One evaluation where nothing is compared.

KEEP: dict[str, Guidance] = {
    "classifier-free, 1": classifier_free(1.0, {"label": 0.0}),
    "input, 0": input_guidance(0.0, REGION, schedule=FLOW, noise=torch.zeros_like),
    "auto, 1": autoguidance(Net(1.0), 1.0),
    "composite of one": composite([Branch(1.0)]),
    "composite of equals": composite([Branch(3.0), Branch(-2.0)]),
    "nothing": compose_guidance(),
    "outside": on_interval(classifier_free(3.0, {"label": 0.0}), 0.9, 0.95),
    "all": compose_guidance(
        classifier_free(1.0, {"label": 0.0}), input_guidance(0.0, REGION, schedule=FLOW, noise=torch.zeros_like)
    ),
}


@pytest.mark.parametrize("guidance", KEEP.values(), ids=KEEP.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_guidance_of_nothing_is_the_denoiser_bit_for_bit(guidance: Guidance, dtype: torch.dtype) -> None:
    net, z, noise, label = Net(cost=3), randn(3, N, D).to(dtype), levels_at(0.0, 0.3, 0.6, 1.0), randn(3, seed=2)
    expected = net(z, noise, label=label)
    found = guidance(net)(z, noise, label=label)
    assert torch.equal(found.mean, expected.mean)
    assert found.log_var is not None
    assert expected.log_var is not None
    assert torch.equal(found.log_var, expected.log_var)
    assert found.evaluations == 3
    assert net.calls[1:] == net.calls[:1]
    assert net.calls[1][1]["label"] is label


def test_the_other_end_is_the_other_model_bit_for_bit() -> None:
    z, noise, null = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0), randn(3, seed=3)
    renoise = context()
    for guidance, expected in (
        (classifier_free(0.0, {"label": null}), Net()(z, noise, label=null)),
        (autoguidance(Net(0.5), 0.0), Net(0.5)(z, noise, label=1.0)),
        (composite([Branch(0.0), Branch(1.0, renoise=renoise)]), Net()(*renoise(z, noise), label=1.0)),
    ):
        found = guidance(Net())(z, noise, label=1.0)
        assert torch.equal(found.mean, expected.mean)
        assert found.evaluations == 1


# One call for all branches.


@pytest.mark.parametrize("batch", [(1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("axes", [0, 1, 2, -1], ids=["no axis", "length 1", "whole", "of elements"])
@pytest.mark.parametrize("scale", [-0.5, 0.3, 2.5])
def test_one_call_says_row_by_row_what_two_would(batch: tuple[int, ...], axes: int, scale: float) -> None:
    shape = {0: (N, 1), 1: (*[1] * len(batch), N, 1), 2: (*batch, N, 1), -1: (*batch, N, D)}[axes]
    z, noise = randn(*batch, N, D), NoiseMap(3 * randn(*shape, seed=1))
    label, null, kept = randn(*batch, seed=2), randn(*batch, seed=3), torch.ones(7)
    net = Net(cost=2)
    found = classifier_free(scale, {"label": null})(net)(z, noise, label=label, kept=kept, name="same")
    [(seen, cond)] = net.calls
    assert seen == (2 * batch[0], *batch[1:], N, D)
    assert cond["kept"] is kept
    assert cond["name"] == "same"
    if axes in (0, 1) and (axes == 0 or batch[0] > 1):
        assert net.maps[0] is noise.log_snr  # one map serves all branches, as it serves all samples
    told, free = net(z, noise, label=label), net(z, noise, label=null)
    close(found.mean, free.mean.lerp(told.mean, scale))
    assert found.log_var is not None
    assert told.log_var is not None
    close(found.log_var, told.log_var)
    assert found.evaluations == 4


def test_tokens_without_batch_axes_are_stacked() -> None:
    z, noise, renoise = randn(N, D), levels_at(0.0, 0.3, 0.6, 1.0), context(noise=randn(N, D, seed=5))
    net, kept = Net(), torch.ones(N)  # as long as the tokens, and yet of no batch
    found = composite([Branch(3.0), Branch(-2.0, renoise=renoise)])(net)(z, noise, label=0.5, kept=kept)
    [(seen, cond)] = net.calls
    assert seen == (2, N, D)
    assert cond["kept"] is kept
    plain, blurred = net(z, noise, label=0.5), net(*renoise(z, noise), label=0.5)
    close(found.mean, torch.where(REGION, plain.mean, plain.mean + 2 * (plain.mean - blurred.mean)))
    assert found.log_var is not None
    assert plain.log_var is not None
    close(found.log_var, plain.log_var)
    assert found.evaluations == 2


COLUMN = torch.ones(3, dtype=torch.float64)
FIT: dict[str, tuple[Any, Any, int]] = {  # a condition, the other branch's, and calls for the two
    "equal numbers": (1.5, float("1.5"), 1),
    "equal strings": ("ab", "".join(["a", "b"]), 1),
    "numbers": (1.0, 2.0, 2),
    "strings": ("a", "b", 2),
    "nothing against a tensor": (COLUMN, None, 2),
    "a number against a tensor": (COLUMN, 2.0, 2),
    "of the batch": (COLUMN, 2 * COLUMN, 1),
    "of another dtype": (COLUMN, COLUMN.float(), 2),
    "of another shape": (COLUMN[:, None], COLUMN, 2),
    "not of the batch": (COLUMN[:1], COLUMN[:1].clone(), 2),
    "one object": (REGION, REGION, 1),
    "lists": ([1], [1], 2),
}


@pytest.mark.parametrize(("what", "other", "calls"), FIT.values(), ids=FIT.keys())
def test_a_condition_that_does_not_fit_costs_a_call_of_its_own(what: Any, other: Any, calls: int) -> None:
    z, noise, label, null = randn(3, N, D), levels_at(0.5, 0.2, 0.5, 0.5), randn(3, seed=2), randn(3, seed=3)
    net = Net()
    found = classifier_free(3.0, {"what": other, "label": null})(net)(z, noise, what=what, label=label)
    assert len(net.calls) == calls
    if calls == 2:
        assert [cond["what"] for _, cond in net.calls] == [what, other]
    told, free = Net()(z, noise, label=label).mean, Net()(z, noise, label=null).mean
    close(found.mean, free + 3 * (told - free))
    assert found.evaluations == 2


def test_a_condition_of_one_branch_alone_costs_a_call_of_its_own() -> None:
    net, label = Net(), randn(3, seed=2)
    classifier_free(3.0, {"extra": label})(net)(randn(3, N, D), levels_at(0.5, 0.2, 0.5, 0.5), label=label)
    assert [set(cond) for _, cond in net.calls] == [{"label"}, {"label", "extra"}]


def test_bound_conditions_are_batched_too() -> None:
    z, noise, label, null = randn(3, N, D), levels_at(0.5, 0.2, 0.5, 0.5), randn(3, seed=2), randn(3, seed=3)
    net = Net()
    bound = functools.partial(net, label=label)
    inner = functools.partial(classifier_free(3.0, {"label": null})(net), label=label)
    input_guided = input_guidance(2.0, REGION, schedule=FLOW, noise=torch.zeros_like)
    for denoise, said, branches in ((bound, {}, 2), (bound, {"label": null}, 2), (inner, {}, 4)):
        net.calls.clear()
        found = input_guided(denoise)(z, noise, **said)
        assert [seen for seen, _ in net.calls] == [(branches * 3, N, D)]
        assert found.evaluations == branches
        told = denoise(z, noise, **said).mean, denoise(*context(noise=torch.zeros_like(z))(z, noise), **said).mean
        close(found.mean[:, ~REGION[:, 0]], (3 * told[0] - 2 * told[1])[:, ~REGION[:, 0]])


def test_arguments_bound_by_place_stay_with_their_function() -> None:
    def shifted_by(offset: float, z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
        return Posterior(Net()(z, noise, **cond).mean + offset)

    z, noise = randn(3, N, D), levels_at(0.5, 0.2, 0.5, 0.5)
    guidance = classifier_free(3.0, {"label": 2.0})
    found = guidance(functools.partial(shifted_by, 0.5))(z, noise, label=1.0)
    close(found.mean, guidance(Net())(z, noise, label=1.0).mean + 0.5)


# Composites.


def test_branches_in_the_same_context_are_evaluated_once_and_weight_zero_never() -> None:
    z, noise, null = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0), randn(3, seed=3)
    source = Counted(randn(3, N, D, seed=9))
    renoise = [RenoisedRegion(REGION.clone(), level, RectifiedFlow(), source) for level in (0.9, 0.9, 0.5)]
    net = Net()
    found = composite(
        [
            *(Branch(0.0, {"label": 5.0}), Branch(1.5, {"label": null})),
            *(Branch(2.0, {"label": null}, renoise[0]), Branch(0.5, {"label": null.clone()})),
            *(Branch(-2.5, {"label": null}, renoise[1]), Branch(-0.5, {"label": null}, renoise[2])),
        ]
    )(net)(z, noise)
    assert [seen for seen, _ in net.calls] == [(9, N, D)]
    assert source.calls == 2
    assert found.evaluations == 3
    plain, *blurred = (net(*at, label=null).mean for at in ((z, noise), renoise[1](z, noise), renoise[2](z, noise)))
    moved = REGION & (noise.log_snr > FLOW(torch.tensor(0.9, dtype=torch.float64)))
    close(found.mean, torch.where(moved, plain, 2.0 * plain - 0.5 * blurred[0] - 0.5 * blurred[1]))


SOURCE = Counted(randn(3, N, D, seed=9))
PLAIN = RenoisedRegion(REGION, 0.9, FLOW, SOURCE)
APART: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {  # two contexts, and evaluations for both
    "clones": ({"renoise": PLAIN}, {"renoise": RenoisedRegion(REGION.clone(), 0.9, RectifiedFlow(), SOURCE)}, 1),
    "re-noised or not": ({}, {"renoise": PLAIN}, 2),
    "region": ({"renoise": PLAIN}, {"renoise": RenoisedRegion(~REGION, 0.9, FLOW, SOURCE)}, 2),
    "level": ({"renoise": PLAIN}, {"renoise": RenoisedRegion(REGION, 0.8, FLOW, SOURCE)}, 2),
    "schedule": ({"renoise": PLAIN}, {"renoise": RenoisedRegion(REGION, 0.9, RectifiedFlow(8.0, -8.0), SOURCE)}, 2),
    "source": ({"renoise": PLAIN}, {"renoise": RenoisedRegion(REGION, 0.9, FLOW, Counted(SOURCE.noise))}, 2),
    "model": ({}, {"denoise": Net(1.0)}, 2),
    "names of conditions": ({"cond": {"a": 1.0}}, {"cond": {"b": 1.0}}, 2),
    "conditions": ({"cond": {"a": REGION}}, {"cond": {"a": ~REGION}}, 2),
    "dtypes": ({"cond": {"a": REGION}}, {"cond": {"a": REGION.long()}}, 2),
}


@pytest.mark.parametrize(("a", "b", "evaluations"), APART.values(), ids=APART.keys())
def test_what_makes_two_contexts(a: dict[str, Any], b: dict[str, Any], evaluations: int) -> None:
    net = Net()
    found = composite([Branch(2.0, **a), Branch(-1.0, **b)])(net)(randn(3, N, D), levels_at(0.1, 0.3, 0.6, 0.4))
    assert found.evaluations == evaluations


def test_weights_count_where_all_levels_are_equal_and_the_first_branch_elsewhere() -> None:
    """Two regions re-noised to two levels, and the first branch one of them."""
    z, noise = randn(3, N, D), levels_at(0.2, 0.3, 0.6, 0.4)
    first = context(torch.tensor([True, False, False, False])[:, None], 0.9)
    second = context(torch.tensor([False, False, True, True])[:, None], 0.5)  # the third token is noisier already
    net = Net()
    found = composite([Branch(2.0, renoise=first), Branch(-3.0), Branch(2.0, renoise=second)])(net)(z, noise)
    a, b, c = net(*first(z, noise)), net(z, noise), net(*second(z, noise))
    combined = 2 * a.mean - 3 * b.mean + 2 * c.mean
    close(found.mean, torch.where(torch.tensor([True, False, False, True])[:, None], a.mean, combined))
    assert found.log_var is not None
    assert a.log_var is not None
    close(found.log_var, a.log_var)


@pytest.mark.parametrize(
    "weights", [[], [0.5], [1.0, 1e-5], [float("nan"), 1.0], [float("inf"), -float("inf")]], ids=str
)
def test_weights_sum_to_one(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="finite weights that sum to 1, got"):
        composite([Branch(weight) for weight in weights])


def test_weights_may_be_rounded() -> None:
    composite([Branch(float(torch.tensor(0.1)), {"label": k}) for k in range(10)])
    classifier_free(1e9 + 0.1, {"label": 0.0})


# Nesting.


@pytest.mark.parametrize("source", [lambda: PerSampleNoise([4, 5, 6]), lambda: Counted(randn(3, N, D, seed=9))])
def test_input_guidance_of_classifier_free_is_one_call_of_four(source: Callable[[], Any]) -> None:
    z, noise, label, null = randn(3, N, D), levels_at(0.0, 0.7, 0.1, 0.4), randn(3, seed=2), randn(3, seed=3)
    region = torch.rand(3, N, 1, generator=Generator().manual_seed(0)) < 0.5
    net = Net()
    paper = compose_guidance(
        classifier_free(3.0, {"label": null}), input_guidance(1.5, region, 0.8, schedule=FLOW, noise=source())
    )
    found = paper(net)(z, noise, label=label)
    assert [seen for seen, _ in net.calls] == [(12, N, D)]
    assert found.evaluations == 4
    blurred = RenoisedRegion(region, 0.8, FLOW, source())(z, noise)
    told, free, told_t, free_t = (net(*at, label=what).mean for at in ((z, noise), blurred) for what in (label, null))
    plain, without = free + 3 * (told - free), free_t + 3 * (told_t - free_t)
    close(found.mean, torch.where(region, plain, 2.5 * plain - 1.5 * without))


def test_regions_nest() -> None:
    """Each plan sees the batch as it is, so regions and noise of samples fit at any depth."""
    z, noise = randn(3, N, D), levels_at(0.1, 0.7, 0.1, 0.4)
    inner, outer = (torch.zeros(3, N, 1, dtype=torch.bool) for _ in range(2))
    inner[0, 0], inner[1, 2], outer[:, 3], outer[2, 0] = True, True, True, True
    net = Net()
    nested = compose_guidance(
        input_guidance(2.0, inner, 0.9, schedule=FLOW, noise=Counted(randn(3, N, D, seed=9))),
        input_guidance(1.0, outer, 0.8, schedule=FLOW, noise=Counted(randn(3, N, D, seed=8))),
    )
    found = nested(net)(z, noise)
    assert [seen for seen, _ in net.calls] == [(12, N, D)]
    assert found.evaluations == 4

    def look(z: Tensor, noise: NoiseMap) -> Tensor:
        plain, without = net(z, noise).mean, net(*context(inner, 0.9)(z, noise)).mean
        return torch.where(inner, plain, 3 * plain - 2 * without)

    plain, without = look(z, noise), look(*context(outer, 0.8, randn(3, N, D, seed=8))(z, noise))
    close(found.mean, torch.where(outer, plain, 2 * plain - without))


def test_composition_goes_from_left_to_right() -> None:
    def add(denoise: Denoiser) -> Denoiser:
        return lambda z, noise, **cond: Posterior(denoise(z, noise, **cond).mean + 1)

    def double(denoise: Denoiser) -> Denoiser:
        return lambda z, noise, **cond: Posterior(2 * denoise(z, noise, **cond).mean)

    z, noise, net = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0), Net()
    assert compose_guidance()(net) is net
    assert torch.equal(compose_guidance(add, double)(net)(z, noise).mean, 2 * (net(z, noise).mean + 1))
    left = compose_guidance(compose_guidance(add, double), add)(net)(z, noise).mean
    right = compose_guidance(add, compose_guidance(double, add))(net)(z, noise).mean
    assert torch.equal(left, right)
    assert torch.equal(left, compose_guidance(add, double, add)(net)(z, noise).mean)


def test_autoguidance_asks_each_model_once() -> None:
    z, noise, label, null = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0), randn(3, seed=2), randn(3, seed=3)
    strong, weak = Net(), Net(0.7, cost=2)
    found = autoguidance(weak, 2.5)(strong)(z, noise, label=label)
    a, b = strong(z, noise, label=label), weak(z, noise, label=label)
    close(found.mean, b.mean + 2.5 * (a.mean - b.mean))
    assert found.log_var is not None
    assert a.log_var is not None
    close(found.log_var, a.log_var)
    assert found.evaluations == 3
    strong.calls.clear()
    weak.calls.clear()
    both = compose_guidance(autoguidance(weak, 2.5), classifier_free(2.0, {"label": null}))(strong)
    assert both(z, noise, label=label).evaluations == 6
    assert [seen for seen, _ in strong.calls + weak.calls] == [(6, N, D)] * 2


# Re-noising.


@given(st.data(), schedules, st.floats(0, 1), st.floats(0, 1))
def test_renoising_twice_has_the_law_of_once(
    data: st.DataObject, schedule: InvertibleSchedule, middle: float, end: float
) -> None:
    """Factors multiply and variances add up; from any levels, for any part of the tokens."""
    noise, region = NoiseMap(data.draw(log_snrs(N))), data.draw(masks(N))
    one, nothing = torch.ones(1, N, 1).double(), torch.zeros(1, N, 1).double()

    def law(*steps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Factor of the tokens and variance of what is added, by pushing 1 and each noise through."""
        rows = torch.eye(1 + len(steps)).double()[..., None, None].expand(-1, -1, N, 1)
        z, now = rows[:, 0], noise
        for k, level in enumerate(steps):
            z, now = RenoisedRegion(region, level, schedule, Counted(rows[:, k + 1]))(z, now)
        return z[0], z[1:].square().sum(0), now.log_snr

    twice, once = law(min(middle, end), end), law(end)
    for a, b in zip(twice, once, strict=True):
        close(a, b, 1e-14)
    factor, variance, log_snr = once
    raised = NoiseMap(log_snr)
    close(factor * noise.alpha, raised.alpha)
    close(variance + (factor * noise.sigma).square(), raised.sigma.square())
    level = schedule(torch.tensor(end, dtype=torch.float64))
    assert torch.equal(log_snr, torch.where(region & (noise.log_snr > level), level, noise.log_snr))
    still = log_snr == noise.log_snr
    assert torch.equal(factor[still], one[0][still])
    assert torch.equal(variance[still], nothing[0][still])


def test_renoised_data_have_the_law_of_their_new_levels() -> None:
    cov, noise = covariance(N, 3), levels_at(0.0, 0.3, 0.6, 1.0)
    units = torch.eye(3 * N).double().unflatten(1, (3, N))[..., None]  # the data, their noise, and the new noise
    x = torch.linalg.cholesky(cov) @ units[:, 0]
    z, raised = RenoisedRegion(REGION, 0.8, FLOW, Counted(units[:, 2]))(
        noise.alpha * x + noise.sigma * units[:, 1], noise
    )
    alpha = raised.alpha[:, 0]
    rows = z[..., 0]
    close(rows.T @ rows, alpha[:, None] * cov * alpha + torch.diag(raised.sigma[:, 0].square()))


@given(st.data(), schedules, st.sampled_from([torch.float32, torch.float64]))
def test_a_token_that_a_path_brought_to_the_level_is_at_it(
    data: st.DataObject, schedule: InvertibleSchedule, dtype: torch.dtype
) -> None:
    """Equal to the bit, though path and region reach the level by different calls of the schedule."""
    steps = data.draw(st.integers(1, 20))
    step = data.draw(st.integers(0, steps))
    z = data.draw(normals(2, N, D)).to(dtype)
    noise = FollowPath(synchronous(N), schedule, steps).at(step, z)
    found, raised = RenoisedRegion(torch.ones(N, 1).bool(), 1 - step / steps, schedule, lambda like: like + 1)(z, noise)
    assert torch.equal(raised.log_snr, noise.log_snr)
    assert torch.equal(found, z)


def test_region_of_elements() -> None:
    z, noise = randn(3, N, D), NoiseMap(randn(N, D, seed=1) + 5)
    region = torch.tensor([[True, False], [False, False], [False, True], [True, True]])
    net = Net()
    found = input_guidance(1.0, region, schedule=FLOW, noise=Counted(randn(3, N, D, seed=9)))(net)(z, noise)
    blurred, raised = context(region)(z, noise)
    assert torch.equal(raised.log_snr == noise.log_snr, ~region)
    assert torch.equal(blurred[:, ~region], z[:, ~region])
    plain = net(z, noise).mean
    close(found.mean, torch.where(region, plain, 2 * plain - net(blurred, raised).mean))


def test_precision_is_that_of_the_tokens() -> None:
    z, noise = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0)
    for dtype in (torch.bfloat16, torch.float32):
        blurred, raised = context()(z.to(dtype), noise)
        assert blurred.dtype == dtype
        assert raised.log_snr.dtype == torch.float64
        guided = classifier_free(lambda noise: noise.flow_level, {"label": 1.0})(Net())(z.to(dtype), noise)
        assert guided.mean.dtype == dtype


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_levels_lie_between_clean_and_noise(level: float) -> None:
    with pytest.raises(ValueError, match=r"a level lies in \[0, 1\]"):
        input_guidance(1.0, REGION, level, schedule=FLOW, noise=torch.zeros_like)


@pytest.mark.parametrize("shape", [(N + 1, 1), (1, 1), (2, N, 1), (N, 3), (1, 1, N, 1)], ids=str)
def test_what_does_not_fit_the_tokens_is_refused(shape: tuple[int, ...]) -> None:
    z, noise = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0)
    with pytest.raises(ValueError, match=r"a region of shape .* does not fit tokens of shape"):
        input_guidance(1.0, torch.ones(shape).bool(), schedule=FLOW, noise=torch.zeros_like)(Net())(z, noise)
    with pytest.raises(ValueError, match=r"a strength of shape .* does not fit tokens of shape"):
        classifier_free(lambda noise: torch.ones(shape), {"label": 0.0})(Net())(z, noise)
    with pytest.raises(ValueError, match=r"a noise map of shape .* does not fit tokens of shape"):
        classifier_free(2.0, {"label": 0.0})(Net())(z, NoiseMap(torch.ones(shape)))


def test_elements_of_a_map_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a noise map of elements"):
        context(torch.ones(N, D).bool())(randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0))


# Strengths and intervals of levels.


def rising(noise: NoiseMap) -> Tensor:
    return 1 + 3 * noise.flow_level


def test_scale_may_depend_on_each_tokens_level() -> None:
    z, noise, null = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0), randn(3, seed=3)
    told, free, weak = Net()(z, noise, label=0.5).mean, Net()(z, noise, label=null).mean, Net(1.0)
    blurred = Net()(*context()(z, noise), label=0.5).mean
    passed = torch.where(REGION & (noise.flow_level < 0.9), told, blurred)
    for guidance, origin, step in (
        (classifier_free(rising, {"label": null}), free, told - free),
        (autoguidance(weak, rising), weak(z, noise, label=0.5).mean, told - weak(z, noise, label=0.5).mean),
        (input_guidance(rising, REGION, schedule=FLOW, noise=context().noise), told, told - passed),
    ):
        found = guidance(Net())(z, noise, label=0.5)
        close(found.mean, origin + rising(noise) * step)
        assert found.evaluations == 2


def test_modulation_goes_from_the_denoiser_to_the_guided_one() -> None:
    z, noise, net = randn(3, N, D), levels_at(0.0, 0.3, 0.6, 1.0), Net()
    guidance = classifier_free(4.0, {"label": 2.0})
    plain, told = net(z, noise, label=1.0), guidance(net)(z, noise, label=1.0)
    per_token = torch.tensor([[0.0], [1.0], [0.5], [0.0]], dtype=torch.float64)
    found = modulated(guidance, lambda noise: per_token)(net)(z, noise, label=1.0)
    assert torch.equal(found.mean[:, [0, 3]], plain.mean[:, [0, 3]])
    close(found.mean, plain.mean + per_token * (told.mean - plain.mean))
    assert found.evaluations == 2


def test_interval_is_of_each_token_and_pays_for_what_it_asks() -> None:
    net, null, label = Net(), randn(3, seed=3), randn(3, seed=2)
    guidance = classifier_free(3.0, {"label": null})
    limited, z, edge = on_interval(guidance, 0.25, 0.5)(net), randn(3, N, D), FLOW(torch.tensor(0.5).double())

    def at(*level: float) -> NoiseMap:
        flow = torch.tensor(level, dtype=torch.float64)[:, None]
        return NoiseMap(2 * ((1 - flow) / flow).log())

    for noise, inside, branches in (
        (at(0.1, 0.2, 0.6, 0.9), [0, 0, 0, 0], 1),
        (at(0.3, 0.4, 0.45, 0.49), [1, 1, 1, 1], 2),
        (at(0.1, 0.3, 0.9, 0.49), [0, 1, 0, 1], 2),
        (NoiseMap(torch.stack([edge, edge, edge - 1e-9, edge + 1e-9])[:, None]), [1, 1, 0, 1], 2),
        (at(0.25 - 1e-9, 0.1, 0.1, 0.25 + 1e-9), [0, 0, 0, 1], 2),
    ):
        net.calls.clear()
        found = limited(z, noise, label=label)
        assert [seen for seen, _ in net.calls] == [(3 * branches, N, D)]
        assert found.evaluations == branches
        plain, told = net(z, noise, label=label), guidance(net)(z, noise, label=label)
        close(found.mean, torch.where(torch.tensor(inside).bool()[:, None], told.mean, plain.mean))
        assert (told.mean - plain.mean).abs().min() > 1e-3
        assert found.log_var is not None
        assert plain.log_var is not None
        close(found.log_var, plain.log_var)


def test_a_guidance_that_does_not_ask_the_denoiser_itself() -> None:
    """Inside, nothing else is asked; where both are, ``log_var`` is the denoiser's own."""
    net, z, instead = Net(), randn(3, N, D), classifier_free(0.0, {"label": 2.0})
    halfway = levels_at(0.5, 0.5, 0.5, 0.5)
    for low, high in ((0.5, 0.7), (0.3, 0.5)):
        inside = on_interval(instead, low, high)(net)(z, halfway, label=1.0)
        assert torch.equal(inside.mean, net(z, halfway, label=2.0).mean)
        assert inside.evaluations == 1
    noise = levels_at(0.1, 0.4, 0.4, 0.9)
    plain = net(z, noise, label=1.0)
    for guidance in (on_interval(instead, 0.3, 0.5), modulated(instead, lambda noise: noise.flow_level)):
        both = guidance(net)(z, noise, label=1.0)
        assert both.log_var is not None
        assert plain.log_var is not None
        close(both.log_var, plain.log_var)
        assert both.evaluations == 2


def test_an_interval_over_guided_denoisers_asks_nothing_twice() -> None:
    z, noise, null, label = randn(3, N, D), levels_at(0.1, 0.7, 0.1, 0.4), randn(3, seed=3), randn(3, seed=2)
    source, net = Counted(randn(3, N, D, seed=9)), Net()
    limited = on_interval(input_guidance(1.0, REGION, schedule=FLOW, noise=source), 0.3, 0.5)
    found = compose_guidance(classifier_free(3.0, {"label": null}), limited)(net)(z, noise, label=label)
    assert [seen for seen, _ in net.calls] == [(12, N, D)]
    assert found.evaluations == 4
    assert source.calls == 1


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_intervals_have_two_ends_in_order(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        on_interval(compose_guidance(), low, high)


# What theory says.


@pytest.mark.parametrize("scale", [-1.0, -0.5, 0.0, 1.0, 3.0])
def test_a_context_known_exactly_is_counted_one_plus_scale_times(scale: float) -> None:
    """``x̄ = x̂(no context) + (1 + scale) (x̂(context) - x̂(no context))``, both from the covariance alone."""
    texture, extreme = gaussian_texture((3, 4), length=1.5), RectifiedFlow(clean=40.0, noise=-40.0)
    known = (torch.arange(12) % 4 < 2)[:, None]
    level = torch.where(known[:, 0], 0.0, torch.linspace(0.3, 0.9, 12).double())[:, None]
    noise = NoiseMap(extreme(level))
    x, eps = texture.sample(1, Generator().manual_seed(0))[0], randn(12, 1)
    z = noise.alpha * x + noise.sigma * eps
    hidden, unknown = NoiseMap(noise.log_snr[~known[:, 0]]), z[~known[:, 0]]
    block = texture.cov[~known[:, 0]][:, ~known[:, 0]]
    with_context = texture.conditional(x, known)(unknown, hidden).mean
    without = GaussianDenoiser(block)(unknown, hidden).mean
    guided = input_guidance(scale, known, schedule=extreme, noise=Counted(randn(12, 1, seed=5)))(texture)(z, noise)
    close(guided.mean[~known[:, 0]], without + (1 + scale) * (with_context - without), 1e-6)
    assert (with_context - without).norm() > 0.5


def test_law_of_guidance_by_a_blurred_context() -> None:
    """Over the new noise: ``E x̄ = (1 + w) K_s z - w K_t r z`` and ``Cov x̄ = w² K_t S² K_tᵀ``, the region apart."""
    oracle, scale, level = Gaussian(N, seed=4), 1.7, 0.6
    noise, z, keep = levels_at(0.0, 0.4, 0.2, 0.9), randn(N, 1), ~REGION[:, 0]
    units = torch.cat([torch.zeros(1, N), torch.eye(N)]).double()[..., None]  # affine in the noise: push it through
    rows = input_guidance(scale, REGION, level, schedule=FLOW, noise=Counted(units))(oracle)(
        z.expand(N + 1, N, 1), noise
    ).mean[..., 0]
    at_level = FLOW(torch.tensor(level, dtype=torch.float64))
    raised = NoiseMap(torch.where(REGION, at_level, noise.log_snr))
    sharp, blurred = (gain(oracle.cov)(at) for at in (noise, raised))
    ratio = raised.alpha / noise.alpha
    added = (raised.sigma.square() - (ratio * noise.sigma).square())[:, 0]
    close(rows[0, keep], ((1 + scale) * sharp @ z - scale * blurred @ (ratio * z))[keep, 0])
    close(rows[0, ~keep], (sharp @ z)[~keep, 0])
    spread = rows[1:] - rows[0]
    close((spread.T @ spread)[keep][:, keep], scale**2 * ((blurred * added) @ blurred.mT)[keep][:, keep])
    close(spread[:, ~keep], torch.zeros_like(spread[:, ~keep]))


def test_sampling_with_guidance_counts_and_leaves_the_context_alone() -> None:
    z, label, null = randn(2, N, D), randn(2, seed=2), randn(2, seed=3)
    walk = FollowPath(hold_clean(synchronous(N), REGION), FLOW, 6)
    source, net = Counted(randn(2, N, D, seed=9)), Net()
    paper = compose_guidance(
        classifier_free(2.0, {"label": null}), input_guidance(1.0, REGION, schedule=FLOW, noise=source)
    )
    result = sample(paper(net), DDIM(), walk, z, label=label)
    assert (result.evaluations, result.token_evaluations) == (24, 24 * N)
    assert [seen for seen, _ in net.calls] == [(8, N, D)] * 6
    assert source.calls == 6
    assert torch.equal(result.tokens[:, REGION[:, 0]], z[:, REGION[:, 0]])
    twice = sample(paper(net), Heun(paper(net), {"label": label}), walk, z, label=label)
    assert twice.evaluations == 48
    limited = sample(on_interval(classifier_free(2.0, {"label": null}), 0.3, 0.6)(net), DDIM(), walk, z, label=label)
    assert 6 < limited.evaluations < 12


def test_no_number_is_looked_at() -> None:
    """On tensors without data any look of the host would fail."""
    z, label, null = (torch.empty(2, *shape, device="meta") for shape in ((N, D), (), ()))
    noise = NoiseMap(torch.empty(N, 1, device="meta"))
    guidance = compose_guidance(
        classifier_free(lambda noise: noise.flow_level, {"label": null}),
        input_guidance(1.0, REGION.to("meta"), schedule=FLOW, noise=torch.zeros_like),
        composite([Branch(2.0), Branch(-1.0, renoise=RenoisedRegion(REGION.to("meta"), 0.5, FLOW, torch.zeros_like))]),
    )

    def net(z: Tensor, noise: NoiseMap, label: Tensor) -> Posterior:
        return Posterior(z * noise.alpha + label[:, None, None])

    found = guidance(net)(z, noise, label=label)
    assert found.mean.device.type == "meta"
    assert found.evaluations == 8


def test_guidance_prints_as_it_is_written() -> None:
    text = repr(on_interval(classifier_free(2.0, {"label": 10}), 0.2, 0.8))
    assert text == "on_interval(guidance=classifier_free(scale=2.0, null={'label': 10}), low=0.2, high=0.8)"


def test_regions_of_one_source_are_one_context() -> None:
    """Also of noise that is a sample's own."""
    noise, asked = PerSampleNoise([1, 2]), Net()
    branches = [Branch(0.5, renoise=RenoisedRegion(REGION, 1.0, FLOW, noise)) for _ in range(2)]
    found = composite(branches)(asked)(randn(2, N, D), levels_at(0.1, 0.2, 0.3, 0.4))
    assert found.evaluations == 1
