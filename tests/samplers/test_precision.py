"""What the model sees is of the caller's precision, nothing keeps a graph, and no number that is none passes unseen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from apd_samplers import (
    DDIM,
    FollowPath,
    Heun,
    LookAhead,
    PerSampleNoise,
    RoundRobin,
    inpaint,
    inpaint_with,
    repaint,
    replacement,
    sample,
)
from apd_schedules import LearnedSchedule, NoiseMap, Posterior, RectifiedFlow, synchronous
from long_runs import unchecked

N = 4
FLOW = RectifiedFlow()
X = torch.randn(2, N, 3, generator=torch.Generator().manual_seed(0))
KNOWN = torch.tensor([[True], [False], [True], [False]])
CUT = KNOWN & torch.tensor([True, False, True])
WALK = FollowPath(synchronous(N), FLOW, 6)


def noise() -> PerSampleNoise:
    return PerSampleNoise(range(2))


def own_noise(like: Tensor) -> Tensor:
    return noise()(like)


def plain(z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
    return Posterior(0.5 * z, torch.zeros(z.shape[:-1]))


Way = Callable[[Any, Tensor], Tensor]
WAYS: dict[str, Way] = {
    "heun": lambda model, x: sample(model, Heun(model), WALK, x).tokens,
    "look ahead": lambda model, x: sample(LookAhead(FLOW)(model), DDIM(), WALK, x).tokens,
    "inpaint": lambda model, x: (
        inpaint(*(model, DDIM(), x, KNOWN), path=synchronous(N), schedule=FLOW, steps=6, noise=noise()).tokens
    ),
    "inpaint, soft": lambda model, x: (
        inpaint(
            *(model, DDIM(), x, KNOWN),
            start=torch.full((N, 1), 0.5),
            **{"path": synchronous(N), "schedule": FLOW, "steps": 6, "noise": noise()},
        ).tokens
    ),
    "inpaint, cut": lambda model, x: (
        inpaint(*(model, DDIM(), x, CUT), path=synchronous(N), schedule=FLOW, steps=6, noise=noise()).tokens
    ),
    "inpaint with": lambda model, x: (
        inpaint_with(*(model, DDIM(), x, KNOWN), scheduler=lambda levels: WALK, noise=noise()).tokens
    ),
    "replacement": lambda model, x: (
        replacement(*(model, DDIM(), x, KNOWN), path=synchronous(N), schedule=FLOW, steps=6, noise=own_noise).tokens
    ),
    "repaint": lambda model, x: (
        repaint(*(model, x, KNOWN), schedule=FLOW, noise=own_noise, steps=6, jump=2, resamples=2).tokens
    ),
}
BY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@BY_WAY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_model_sees_the_callers_precision(way: Way, dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def model(z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
        seen.append(z.dtype)
        return plain(z, noise)

    found = way(model, X.to(dtype))
    assert found.dtype == dtype
    assert set(seen) == {dtype}
    torch.testing.assert_close(found.float(), way(plain, X.float()), rtol=0.1, atol=0.05, check_dtype=False)


def test_a_schedule_that_is_learned_leaves_no_graph_behind() -> None:
    schedule = LearnedSchedule(generator=torch.Generator().manual_seed(0))
    assert schedule(torch.tensor(0.5)).requires_grad
    settings: dict[str, Any] = {"path": synchronous(N), "schedule": schedule, "steps": 3}
    walk = FollowPath(synchronous(N), schedule, 3)
    result = sample(plain, DDIM(), walk, X, trace=True)
    assert not result.noise.log_snr.requires_grad
    assert result.trace is not None
    assert not result.trace.log_snr.requires_grad
    for known in (KNOWN, CUT, torch.ones_like(KNOWN)):
        assert not inpaint(plain, DDIM(), X, known, noise=noise(), **settings).tokens.requires_grad
        assert not replacement(plain, DDIM(), X, known, noise=own_noise, **settings).tokens.requires_grad


@pytest.mark.parametrize("other", [torch.tensor([1, 3]), torch.tensor([1]), 1, None], ids=["other", "shape", "1", "no"])
def test_a_solver_with_another_condition_is_refused(other: Any) -> None:
    label = torch.tensor([1, 2]) if isinstance(other, Tensor) else 2
    sample(plain, Heun(plain, {"label": label}), WALK, X, label=label)
    with pytest.raises(ValueError, match="another label than sample's: say the same to both"):
        sample(plain, Heun(plain, {"label": other}), WALK, X, label=label)


def test_a_second_guess_that_is_no_number_is_found_where_it_counts() -> None:
    """In the last step nobody looks at it but the solver, which leaves it out where the step is too long for it."""

    def breaks(model_calls: int) -> Any:
        calls = 0

        def model(z: Tensor, noise: NoiseMap) -> Posterior:
            nonlocal calls
            calls += 1
            return Posterior(z * (torch.nan if calls == model_calls else 0.5))

        return model

    model = breaks(12)  # the last of six steps of two
    assert sample(model, Heun(model), WALK, X).tokens.isfinite().all()
    model = breaks(12)
    with pytest.raises(FloatingPointError, match="in step 6"):
        sample(model, Heun(model, limit=float("inf")), WALK, X)


@pytest.mark.parametrize("tokens", [1, 64])
def test_a_path_of_other_tokens_is_refused(tokens: int) -> None:
    settings: dict[str, Any] = {"path": synchronous(tokens), "schedule": FLOW, "steps": 3, "noise": own_noise}
    with pytest.raises(ValueError, match="must broadcast against them and have their number of tokens"):
        inpaint(plain, DDIM(), X, KNOWN, **settings)
    with pytest.raises(ValueError, match="must broadcast against them and have their number of tokens"):
        replacement(plain, DDIM(), X, KNOWN, **settings)


def test_tokens_without_an_axis_are_refused() -> None:
    with unchecked(), pytest.raises(ValueError, match=r"tokens have the shape \(\*batch, n, d\), got \(4,\)"):
        sample(plain, DDIM(), WALK, torch.zeros(N))
    with unchecked(), pytest.raises(ValueError, match=r"start has levels of shape \(4,\), tokens of shape"):
        sample(plain, DDIM(), RoundRobin(FLOW, 4, 2, start=torch.ones(N)), X)
