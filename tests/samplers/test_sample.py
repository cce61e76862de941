"""The loop: order of calls, honest counts, inpainting by path, guidance, noise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from apd_samplers import (
    DDIM,
    Adams,
    Churn,
    DPMSolverPP2M,
    Euler,
    FollowPath,
    Heun,
    InferenceScheduler,
    PerSampleNoise,
    Progress,
    Sampled,
    Solver,
    classifier_free,
    sample,
    sample_steps,
)
from apd_samplers._checks import FiniteCheck
from apd_schedules import Linear, NoiseMap, Posterior, RectifiedFlow, hold_clean, sequential, staggered, synchronous
from long_runs import unchecked
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
    with unchecked():
        walk = FollowPath(hold_clean(synchronous(3), known), schedule, 2000)
        result = sample(oracle, DDIM(), walk, z).tokens[:, 1:, 0]
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


def halve(z: Tensor, noise: NoiseMap) -> Posterior:
    return Posterior(0.5 * z)


def test_progress_is_told_before_the_first_step_and_after_each() -> None:
    z = torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(0))
    walk = FollowPath(sequential(torch.arange(3)), RectifiedFlow(), 6)
    told = list(sample_steps(halve, Heun(halve), walk, z))
    assert [now.step for now in told] == list(range(7))
    assert [now.evaluations for now in told] == list(range(0, 13, 2))
    assert told[0].posterior is None
    assert torch.equal(told[0].tokens, z)
    assert [now.token_updates[0].tolist() for now in told[::2]] == [[0, 0, 0], [2, 0, 0], [2, 2, 0], [2, 2, 2]]
    last = sample(halve, Heun(halve), walk, z)
    assert torch.equal(last.tokens, told[-1].tokens)
    assert (last.evaluations, last.token_evaluations) == (12, 36)
    assert torch.equal(last.token_updates, told[-1].token_updates)


def test_a_loop_may_stop_when_it_likes() -> None:
    grad = torch.is_grad_enabled()
    for now in sample_steps(halve, DDIM(), FollowPath(synchronous(2), RectifiedFlow(), 50), torch.ones(1, 2, 1)):
        assert torch.is_grad_enabled() == grad  # the loop's own code is not under no_grad
        assert not now.tokens.requires_grad
        if now.step == 3:
            break
    assert torch.is_grad_enabled() == grad


def test_the_trace_is_the_maps_passed_through() -> None:
    z = torch.ones(2, 3, 1)
    walk = FollowPath(sequential(torch.arange(3)), RectifiedFlow(), 6)
    result = sample(halve, DDIM(), walk, z, trace=True)
    assert result.trace is not None
    assert torch.equal(result.trace.log_snr, torch.stack([walk.at(k, z).log_snr.expand(2, 3, 1) for k in range(7)]))
    assert sample(halve, DDIM(), walk, z).trace is None


def test_steps_in_which_nothing_moves_are_left_out() -> None:
    """Half of a raster order is known: half of the evaluations, the same tokens to the bit."""
    known = torch.tensor([[True], [True], [False], [False]])
    z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walk = FollowPath(hold_clean(sequential(torch.arange(4)), known), RectifiedFlow(), 20)
    asked: list[Tensor] = []

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        asked.append(noise.log_snr)
        return Posterior(z.tanh() + z.mean(-2, keepdim=True))

    result = sample(denoise, DDIM(), walk, z)
    assert result.evaluations == len(asked) == 10
    every = z
    for k in range(20):
        a, b = walk.at(k, z), walk.at(k + 1, z)
        every, _ = DDIM().step(every, denoise(every, a), a, b, None)
    assert torch.equal(result.tokens, every)
    nothing = sample(denoise, DDIM(), FollowPath(hold_clean(synchronous(4), ~known | known), RectifiedFlow(), 9), z)
    assert nothing.evaluations == 0
    assert torch.equal(nothing.tokens, z)


def test_a_path_that_goes_back_is_refused_before_anything_is_computed() -> None:
    bent = lambda s: torch.stack([s, (s - 0.3).abs() / 0.7], -1)[..., None]
    with pytest.raises(ValueError, match=r"must not fall where s grows, but token 1 goes from"):
        FollowPath(bent, RectifiedFlow(), 10)
    with pytest.raises(ValueError, match=r"in \[0, 1\], but token 0 is at 1\.2"):
        FollowPath(lambda s: 2 * s[..., None, None], RectifiedFlow(), 10)


@contextmanager
def nan_at(step: int, token: int) -> Iterator[Callable[[Tensor, NoiseMap], Posterior]]:
    calls = 0

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        nonlocal calls
        calls += 1
        mean = 0.5 * z
        if calls == step:
            mean[1, token] = torch.nan
        return Posterior(mean)

    yield denoise


@pytest.mark.parametrize(("step", "token"), [(1, 0), (4, 2)])
def test_a_mean_that_is_not_finite_is_named(step: int, token: int) -> None:
    z, walk = torch.ones(2, 3, 2), FollowPath(synchronous(3), RectifiedFlow(), 5)
    seen: list[int] = []
    level = "0.9999" if step == 1 else "0.4"
    message = f"first in step {step}, token {token} of sample 1, which was at flow level {level} "
    with nan_at(step, token) as denoise, pytest.raises(FloatingPointError, match=message):
        sample(denoise, DDIM(), walk, z, on_step=lambda now: seen.append(now.step))
    assert seen == list(range(1, step))  # at once


def test_where_the_host_does_not_wait_the_first_fault_is_told_at_the_end() -> None:
    check = FiniteCheck(torch.device("cpu"), at_once=False)
    noise = NoiseMap(torch.zeros(3, 1))
    for step, bad in ((1, None), (2, (0, 2)), (3, (1, 0))):
        mean = torch.zeros(2, 3, 1)
        if bad is not None:
            mean[bad] = torch.inf
        check.look(step, Posterior(mean), noise)
    with pytest.raises(FloatingPointError, match=r"step 2, token 2 of sample 0, which was at flow level 0\.5"):
        check.close()
    sound = FiniteCheck(torch.device("cpu"), at_once=False)
    sound.look(1, Posterior(torch.zeros(2, 3, 1)), noise)
    sound.close()


class Fixed:
    """Goes to one map, whatever its shape."""

    max_steps = 1

    def __init__(self, first: Tensor, then: Tensor) -> None:
        self.maps = NoiseMap(first), NoiseMap(then)

    def init(self, z: Tensor) -> tuple[NoiseMap, None]:
        return self.maps[0], None

    def next(self, noise: NoiseMap, posterior: Posterior, state: None) -> tuple[NoiseMap, None]:
        return self.maps[1], None


@pytest.mark.parametrize("shape", [(4, 1), (3, 5), (7, 3, 1), (1, 2, 3, 1)])
def test_maps_that_do_not_fit_the_tokens_are_refused(shape: tuple[int, ...]) -> None:
    z, good, bad = torch.zeros(2, 3, 2), torch.zeros(3, 1), torch.zeros(shape)
    for scheduler in (Fixed(bad, good), Fixed(good, bad)):
        with pytest.raises(ValueError, match="does not fit tokens of shape"):
            sample(halve, DDIM(), scheduler, z)
    with pytest.raises(ValueError, match="does not fit tokens of shape"):
        sample(halve, DDIM(), FollowPath(synchronous(4), RectifiedFlow(), 3), z)


def test_posteriors_that_do_not_fit_the_tokens_are_refused() -> None:
    z, walk = torch.zeros(2, 3, 2), FollowPath(synchronous(3), RectifiedFlow(), 3)
    with pytest.raises(ValueError, match=r"a mean of shape \(2, 3, 1\) for tokens of shape \(2, 3, 2\)"):
        sample(lambda z, noise: Posterior(z[..., :1]), DDIM(), walk, z)

    def short(z: Tensor, noise: NoiseMap) -> Posterior:
        found = Posterior(z)
        object.__setattr__(found, "log_var", z[:, :1, 0])  # past the type checks that tests run under
        return found

    with pytest.raises(ValueError, match=r"log_var of shape \(2, 1\), one number a token is \(2, 3\)"):
        sample(short, DDIM(), walk, z)


class NoReading(TorchDispatchMode):
    """Refuses every operation in which the host would wait for a number of the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique_dim", "_unique2"}, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "solver",
    [
        DDIM(),
        DDIM(1.0, torch.randn_like),
        Euler(),
        Heun(halve),
        DPMSolverPP2M(),
        Adams(4),
        Churn(DDIM(), 0.3, torch.randn_like),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_no_step_waits_for_the_device(solver: Solver[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device other than the CPU: nothing is read back until the last step has been made."""
    monkeypatch.setattr("apd_samplers._sample.FiniteCheck", lambda device: FiniteCheck(device, at_once=False))
    z, walk = torch.randn(2, 4, 3), FollowPath(staggered(torch.arange(4), 0.5), RectifiedFlow(), 8)
    steps = sample_steps(classifier_free(2.0, {})(halve), solver, walk, z)
    last: Progress | None = None
    with NoReading():
        for _ in range(9):
            last = next(steps)
    assert last is not None
    assert last.step == 8
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
        bool(z.sum() > 0)


def test_what_is_sampled_can_be_drawn(tmp_path: Any) -> None:
    walk: InferenceScheduler[Any] = FollowPath(staggered(torch.arange(6), 0.5), RectifiedFlow(), 8)
    result: Sampled = sample(halve, DDIM(), walk, torch.ones(2, 6, 1), trace=True)
    result.plot(tmp_path / "trace.png", grid=(2, 3))
    assert (tmp_path / "trace.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no sample 2: the batch has 2"):
        result.plot(sample=2)
    with pytest.raises(ValueError, match="does not hold the 6 tokens"):
        result.plot(grid=(2, 2))
    with pytest.raises(ValueError, match="trace=True"):
        sample(halve, DDIM(), walk, torch.ones(2, 6, 1)).plot()


@pytest.mark.parametrize("kept", [0, 2**24])
def test_a_walk_is_laid_out_before_it_starts_unless_it_is_large(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no step copies a path's numbers from the host; a large one is computed map by map, with the same result."""
    monkeypatch.setattr("apd_samplers._schedulers._follow_path.KEPT", kept)
    asked: list[float] = []

    def path(s: Tensor) -> Tensor:
        asked.append(float(s.flatten()[0]))
        return synchronous(3)(s)

    walk, z = FollowPath(path, RectifiedFlow(), 5), torch.ones(2, 3, 1)
    counts = []
    for now in sample_steps(halve, DDIM(), walk, z):
        counts.append(len(asked))
        torch.testing.assert_close(now.noise.flow_level, torch.full((3, 1), 1 - now.step / 5), rtol=0, atol=2e-4)
    assert (len(set(counts)) == 1) == (kept > 0)


def test_no_gradient_is_kept() -> None:
    weight = torch.ones((), requires_grad=True)
    denoise = lambda z, noise: Posterior(weight * z)
    walk = FollowPath(synchronous(2), RectifiedFlow(), 3)
    for now in sample_steps(denoise, DDIM(), walk, torch.ones(1, 2, 1)):
        assert not now.tokens.requires_grad


def test_faults_of_a_device_are_told_before_the_last_result_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apd_samplers._sample.FiniteCheck", lambda device: FiniteCheck(device, at_once=False))
    z, walk, seen = torch.ones(2, 3, 2), FollowPath(sequential(torch.arange(3)), RectifiedFlow(), 6), []
    watch = lambda now: seen.append(now.step)
    with nan_at(3, 1) as denoise, pytest.raises(FloatingPointError, match=r"step 3, token 1 .* level 0\.9999"):
        sample(denoise, DDIM(), walk, z, on_step=watch)
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_error_that_is_no_number_is_named(value: float) -> None:
    z, walk = torch.ones(2, 3, 2), FollowPath(synchronous(3), RectifiedFlow(), 5)
    with pytest.raises(FloatingPointError, match="mean or log_var is not finite: first in step 1, token 2 of sample 1"):
        sample(lambda z, n: Posterior(z, torch.tensor([[0, 0, 0], [-torch.inf, 0, value]])), DDIM(), walk, z)


def test_a_token_moves_if_one_of_its_elements_does() -> None:
    first = torch.zeros(3, 2)
    then = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    assert sample(halve, DDIM(), Fixed(first, then), torch.ones(1, 3, 2)).token_updates.tolist() == [[1, 0, 1]]


def test_half_precision_is_what_the_model_sees_and_what_comes_back() -> None:
    """In between tokens are carried in float32: steps smaller than half precision can tell are not lost."""
    seen: list[torch.dtype] = []

    def denoise(z: Tensor, noise: NoiseMap) -> Posterior:
        seen.append(z.dtype)
        return Posterior(torch.zeros_like(z))

    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    walk = FollowPath(synchronous(3), RectifiedFlow(), 400)
    result = sample(denoise, DDIM(), walk, z)
    assert set(seen) == {torch.bfloat16}
    assert result.tokens.dtype == torch.bfloat16
    exact = sample(lambda z, noise: Posterior(torch.zeros_like(z)), DDIM(), walk, z.float()).tokens
    torch.testing.assert_close(result.tokens.float(), exact, rtol=2**-7, atol=0)


@pytest.mark.parametrize("shape", [(4, 2), (2, 3, 4, 2)])
def test_noise_of_any_batch_axes(shape: tuple[int, ...]) -> None:
    count = 1 if len(shape) == 2 else 6
    drawn = PerSampleNoise(range(count))(torch.empty(shape, dtype=torch.float64))
    flat = PerSampleNoise(range(count))(torch.empty(count, 4, 2))
    assert torch.equal(drawn, flat.reshape(shape).double())  # drawn in float32 whatever is asked for
