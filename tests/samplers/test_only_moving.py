"""Tokens at rest may be left out: only the guesses asked for are used, and what was asked is what is counted."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import (
    DDIM,
    AtRandom,
    Changing,
    DualLoop,
    FollowPath,
    Guidance,
    Heun,
    InferenceScheduler,
    LookAhead,
    MostCertainFirst,
    PerSampleNoise,
    Renoise,
    Restarts,
    RoundRobin,
    Sampled,
    Solver,
    UncertaintyGuided,
    autoguidance,
    classifier_free,
    compose_guidance,
    inpaint,
    input_guidance,
    on_interval,
    repaint,
    replacement,
    sample,
    sample_steps,
)
from apd_schedules import (
    Denoiser,
    GaussianMixtureDenoiser,
    NoiseMap,
    Path,
    Posterior,
    RectifiedFlow,
    capped,
    hold_clean,
    sequential,
    staggered,
    synchronous,
)
from oracles import covariance
from scheduler_cases import without_numbers
from solver_cases import SOLVERS, Make, randn
from strategies import masks, paths

B, N, D = 3, 6, 2
FLOW = RectifiedFlow()
WRONG = 1e3


def mixture() -> GaussianMixtureDenoiser:
    means = torch.randn(3, N, D, generator=Generator().manual_seed(3), dtype=torch.float64)
    return GaussianMixtureDenoiser(torch.ones(3).double(), means, 0.3 * covariance(N * D, 5).expand(3, -1, -1).clone())


DATA = mixture()
Z = torch.randn(B, N, D, generator=Generator().manual_seed(0), dtype=torch.float64)
KNOWN = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1]]).bool()[..., None]
START = torch.where(KNOWN, 0.0, torch.linspace(0.4, 1.0, N).double()[:, None])
ABSENT = object()


def exact(z: Tensor, noise: NoiseMap, label: Tensor | None = None) -> Posterior:
    found = DATA(z, noise)
    return found if label is None else replace(found, mean=found.mean * (1 + 0.3 * label[:, None, None]))


class OnlyAsked:
    """The exact guess where it is asked for, and a wrong one elsewhere; counts tokens as it goes.

    Without the condition it is asked for the tokens that changed since the last call, as a cache would be; all of them
    if the label did.
    """

    def __init__(self, exact: Denoiser = exact) -> None:
        self.exact, self.asked = exact, list[Tensor | None]()
        self._last: tuple[Tensor, ...] = ()

    def __call__(self, z: Tensor, noise: NoiseMap, *, moving: Any = ABSENT, **cond: Any) -> Posterior:
        label = cond["label"] if cond.get("label") is not None else torch.empty(0)
        now, before = (z, noise.log_snr.expand(*z.shape[:-1], -1), label), self._last
        self._last = now
        needed = torch.ones(z.shape[:-1], dtype=torch.bool)
        if moving is ABSENT:
            if before and before[0].shape == z.shape and torch.equal(label, before[-1]):
                needed = (z != before[0]).any(-1) | (now[1] != before[1]).any(-1)
        else:
            self.asked.append(moving)
            if moving is not None:
                assert moving.dtype == torch.bool
                assert moving.shape == z.shape[:-1]
                needed = moving
        found = self.exact(z, noise, **cond)
        assert found.log_var is not None
        mean, log_var = found.mean.where(needed[..., None], WRONG), found.log_var.where(needed, WRONG)
        return Posterior(mean, log_var, token_evaluations=int(needed.sum(-1).max()))


def per_sample(s: Tensor) -> Tensor:
    """A path of its own for each sample."""
    turns = [torch.arange(N), torch.tensor([1, 0, 1, 0, 1, 0]), torch.arange(N).flip(0)]
    return torch.stack([staggered(turn, 0.4)(s) for turn in turns], -3)


def by_element(s: Tensor) -> Tensor:
    return sequential(torch.tensor([0, 3, 1, 4, 2, 5, 0, 3, 1, 4, 2, 5]))(s).unflatten(-2, (N, D))[..., 0]


WALKS: dict[str, Path] = {
    "synchronous": synchronous(N),
    "staggered": staggered(torch.tensor([2, 0, 1, 1, 3, 0]), 0.5),
    "sequential": sequential(torch.tensor([2, 0, 1, 3, 4, 5])),
    "inpainting": hold_clean(synchronous(N), KNOWN),
    "a path a sample": per_sample,
    "a level an element": by_element,
}
SCHEDULERS: dict[str, InferenceScheduler[Any]] = {
    **{name: FollowPath(path, FLOW, 6) for name, path in WALKS.items()},
    "round robin": RoundRobin(FLOW, 6, 3),
    "round robin, soft": RoundRobin(FLOW, 8, 4, start=START),
    "dual loop": DualLoop(FLOW, 3, 3),
    "dual loop, soft": DualLoop(FLOW, 2, 3, start=START),
    "dual loop by changes": DualLoop(FLOW, 3, 3, uncertainty=Changing()),
    "most certain first": MostCertainFirst(FLOW, 3, 3),
    "most certain first, overlapping": MostCertainFirst(FLOW, 4, 4, overlap=0.6, start=START),
    "most certain first by changes": MostCertainFirst(FLOW, 3, 3, uncertainty=Changing(), start=START),
    "at random": MostCertainFirst(FLOW, 6, 2, uncertainty=AtRandom(randn)),
    "uncertainty": UncertaintyGuided(FLOW, 8),
    "uncertainty, by changes": UncertaintyGuided(FLOW, 8, uncertainty=Changing(), pace="nats", start=START),
    "uncertainty, together": UncertaintyGuided(FLOW, 6, together=True, start=START),
    "uncertainty, lagged": UncertaintyGuided(FLOW, 8, patience=1.0, lagged=True),
    "lagged by changes": UncertaintyGuided(FLOW, 8, Changing(), "nats", 1.0, start=START, lagged=True),
    "lagged at random": UncertaintyGuided(FLOW, 8, AtRandom(randn), patience=1.0, start=START, lagged=True),
    "restarts": Restarts(FollowPath(WALKS["staggered"], FLOW, 4), WALKS["sequential"], FLOW, 4, 2, randn, 0.5),
    "restarts, soft": Restarts(
        FollowPath(capped(synchronous(N), START), FLOW, 3), synchronous(N), FLOW, 3, 2, randn, 0.5, 0.7
    ),
    "restarts of an order": Restarts(MostCertainFirst(FLOW, 3, 3), synchronous(N), FLOW, 3, 2, randn, 1.0),
    "restarts of lagged": Restarts(UncertaintyGuided(FLOW, 5, lagged=True), synchronous(N), FLOW, 2, 1, randn, 0.5),
}
BY_CLOCK = [*WALKS, "round robin", "round robin, soft"]
LAGGED = ["uncertainty, lagged", "lagged by changes", "lagged at random"]


def run(denoise: Denoiser, make: Make, scheduler: InferenceScheduler[Any], **settings: Any) -> Sampled:
    solver = make(denoise, randn)
    if isinstance(scheduler, Restarts):
        solver = Renoise(solver, randn)
    return sample(denoise, solver, scheduler, Z, trace=True, **settings)


def cleaner(trace: NoiseMap | None) -> Tensor:
    """Tokens brought nearer to clean in each step."""
    assert trace is not None
    return (trace.log_snr.diff(dim=0) > 0).any(-1)


def pairs(first: Iterable[str], second: Sequence[str], all_of: Sequence[str]) -> list[Any]:
    """Every pair; each of ``first`` with one of ``second`` in turn, those in ``all_of`` with all, the others slow."""
    return [
        pytest.param(a, b, id=f"{a}-{b}", marks=() if i % len(second) == k or a in all_of else pytest.mark.slow)
        for i, a in enumerate(first)
        for k, b in enumerate(second)
    ]


@pytest.mark.parametrize(
    ("name", "solver"),
    pairs(SCHEDULERS, ["DDPM", "churn+Heun", "DPM++2M", "Adams4"], ["staggered", "round robin", "uncertainty, lagged"]),
)
def test_the_result_is_that_of_all_tokens_bit_for_bit(name: str, solver: str) -> None:
    make = SOLVERS[solver]
    whole, partial = run(exact, make, SCHEDULERS[name]), OnlyAsked()
    result = run(partial, make, SCHEDULERS[name], only_moving=True)
    assert torch.equal(result.tokens, whole.tokens)
    assert torch.equal(result.token_updates, whole.token_updates)
    assert result.evaluations == whole.evaluations
    asked, moved = torch.stack([mask for mask in partial.asked if mask is not None]), cleaner(result.trace)
    assert len(asked) == len(partial.asked) == len(moved)
    assert not (moved & ~asked).any()
    stages = result.evaluations // len(moved)
    most, moves = asked.sum(-1).amax(-1), moved.sum(-1).amax(-1)
    assert result.token_evaluations >= stages * moves.sum()
    if name in BY_CLOCK:
        assert torch.equal(asked, moved)
    if name in LAGGED:  # in the first step they look at all tokens, and later some wait
        assert torch.equal(asked[1:], moved[1:])
        assert result.trace is not None
        assert (~asked & (result.trace.log_snr[:-1, ..., 0] < result.trace.log_snr[-1, ..., 0])).any()
    if stages == 1:
        assert result.token_evaluations == most.sum()
    elif not isinstance(SCHEDULERS[name], Restarts):  # a second stage is of the tokens that moved
        assert result.token_evaluations == most.sum() + moves.sum()


@given(st.data(), st.integers(1, 8))
def test_known_tokens_of_any_path_come_back_and_are_never_asked_for(data: st.DataObject, steps: int) -> None:
    known = torch.stack([data.draw(masks(N)) for _ in range(B)])
    walk, partial = FollowPath(hold_clean(data.draw(paths(N)), known), FLOW, steps), OnlyAsked()
    result = sample(partial, DDIM(), walk, Z, only_moving=True)
    assert torch.equal(result.tokens[known.expand_as(Z)], Z[known.expand_as(Z)])
    assert all(mask is not None and not mask[known[..., 0]].any() for mask in partial.asked)
    assert torch.equal(result.tokens, sample(exact, DDIM(), walk, Z).tokens)


def test_a_walk_that_is_not_laid_out_tells_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apd_samplers._schedulers._follow_path.KEPT", 0)
    result = run(OnlyAsked(), SOLVERS["DPM++2M"], SCHEDULERS["staggered"], only_moving=True)
    assert torch.equal(result.tokens, run(exact, SOLVERS["DPM++2M"], SCHEDULERS["staggered"]).tokens)
    assert result.token_evaluations == cleaner(result.trace).sum(-1).amax(-1).sum()


# What it costs


def cost(scheduler: InferenceScheduler[Any]) -> int:
    return run(OnlyAsked(), SOLVERS["DDIM"], scheduler, only_moving=True).token_evaluations


def test_costs_of_schedulers_in_closed_form() -> None:
    inpainting = FollowPath(hold_clean(synchronous(N), KNOWN[:1]), FLOW, 12)
    assert cost(inpainting) == 12 * 3
    assert cost(SCHEDULERS["inpainting"]) == 6 * 5  # the sample that has most to do
    assert cost(SCHEDULERS["sequential"]) == 6
    assert cost(RoundRobin(FLOW, 12, 3)) == 12 * 2
    assert cost(DualLoop(FLOW, 3, 4, share=0.5)) == 3 * (6 + 3 * 3)  # then the three that are not certain
    assert cost(MostCertainFirst(FLOW, 3, 4)) == (6 + 4 + 2) + 3 * 3 * 2  # all that wait, where a group is chosen
    assert cost(MostCertainFirst(FLOW, 3, 4, uncertainty=AtRandom(randn))) == (6 + 4 + 2) + 3 * 3 * 2
    assert cost(MostCertainFirst(FLOW, 3, 4, uncertainty=Changing())) == 4 * (6 + 4 + 2)  # it follows each guess
    assert cost(DualLoop(FLOW, 3, 4, uncertainty=Changing())) == 3 * 4 * 6
    assert cost(Restarts(FollowPath(synchronous(N), FLOW, 4), synchronous(N), FLOW, 5, 2, randn, 0.5)) == 24 + 30


def test_all_that_is_not_clean_is_asked_for_where_uncertainty_guides() -> None:
    partial = OnlyAsked()
    result = run(partial, SOLVERS["DDPM"], SCHEDULERS["uncertainty, by changes"], only_moving=True)
    assert result.trace is not None
    clean = result.trace.log_snr[-1, 0, 0]
    asked = [mask.tolist() for mask in partial.asked if mask is not None]
    assert asked == (result.trace.log_snr[:-1, ..., 0] < clean).tolist()
    assert (result.trace.log_snr[-2] == clean).any(-2).all()  # of every sample something is clean by then


def test_all_tokens_count_where_the_denoiser_does_not_say() -> None:
    ignores = lambda z, noise, moving: Posterior(DATA(z, noise).mean)
    assert sample(ignores, DDIM(), SCHEDULERS["sequential"], Z, only_moving=True).token_evaluations == 6 * N
    assert sample(exact, Heun(exact), SCHEDULERS["sequential"], Z).token_evaluations == 2 * 6 * N
    thrice = lambda z, noise, label=None: replace(exact(z, noise), evaluations=3)
    assert sample(thrice, DDIM(), SCHEDULERS["sequential"], Z).token_evaluations == 3 * 6 * N
    assert sample(CFG(thrice), DDIM(), SCHEDULERS["sequential"], Z, label=LABEL).token_evaluations == 6 * 6 * N


class Counting(NamedTuple):
    evaluations: int


class Twice:
    """A solver that says how many evaluations it made, but not of how many tokens."""

    def init(self, z: Tensor) -> Counting:
        return Counting(0)

    def step(self, z: Tensor, posterior: Posterior, a: NoiseMap, b: NoiseMap, state: Counting) -> tuple[Tensor, Any]:
        return DDIM().step(z, posterior, a, b, None)[0], Counting(state.evaluations + 2)


def two_of_them(z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
    found = DATA(z, noise)
    return Posterior(found.mean, found.log_var, 1, 2)


def test_a_solvers_own_evaluations_are_of_tokens_too() -> None:
    walk = FollowPath(synchronous(N), FLOW, 5)
    told = list(sample_steps(two_of_them, Twice(), walk, Z))
    assert [now.token_evaluations for now in told] == [k * (2 + 2 * N) for k in range(6)]
    assert sample(two_of_them, Heun(two_of_them), walk, Z).token_evaluations == 5 * 4
    guided = Heun(classifier_free(2.0, {"label": 0.0})(two_of_them), {"label": 1.0})
    assert sample(two_of_them, guided, walk, Z, label=1.0).token_evaluations == 5 * (2 + 4)
    settings: dict[str, Any] = {"schedule": FLOW, "noise": randn, "steps": 6, "jump": 2, "resamples": 2}
    painted = repaint(two_of_them, Z, KNOWN, **settings)
    assert painted.token_evaluations == 2 * painted.evaluations


# Guidance


LABEL, NULL = torch.tensor([1.0, -0.5, 2.0]).double(), torch.zeros(B).double()
REGION = torch.tensor([1, 0, 1, 0, 0, 1]).bool()[:, None]
CFG = classifier_free(2.5, {"label": NULL})
INPUT = input_guidance(1.5, REGION, 0.8, schedule=FLOW, noise=randn)
GUIDANCES: dict[str, tuple[Guidance, int]] = {  # and evaluations a step
    "classifier-free": (CFG, 2),
    "of each token": (classifier_free(lambda noise: 1 + noise.flow_level, {"label": NULL}), 2),
    "without a tensor": (classifier_free(2.5, {"label": None}), 2),
    "input": (INPUT, 2),
    "both": (compose_guidance(CFG, INPUT), 4),
    "look-ahead of guided": (compose_guidance(CFG, LookAhead(FLOW, begin=0.0)), 4),
    "guided look-ahead": (compose_guidance(LookAhead(FLOW), CFG), 4),
    "look-ahead by changes": (LookAhead(FLOW, uncertainty=lambda noise, first: first.mean.abs().sum(-1)), 2),
}


@pytest.mark.parametrize(
    ("name", "scheduler"), pairs(GUIDANCES, ["staggered", "inpainting", "dual loop, soft", "restarts"], ["both"])
)
def test_guidance_asks_for_the_same_tokens_in_every_context(name: str, scheduler: str) -> None:
    guidance, evaluations = GUIDANCES[name]
    whole = run(guidance(exact), SOLVERS["DPM++2M"], SCHEDULERS[scheduler], label=LABEL)
    settings: dict[str, Any] = {"label": LABEL, "only_moving": True}
    result = run(guidance(OnlyAsked()), SOLVERS["DPM++2M"], SCHEDULERS[scheduler], **settings)
    assert torch.equal(result.tokens, whole.tokens)
    assert result.evaluations == whole.evaluations
    if "look" not in name and scheduler in BY_CLOCK:
        assert result.token_evaluations == evaluations * cleaner(result.trace).sum(-1).amax(-1).sum()
    assert result.token_evaluations < whole.token_evaluations or scheduler == "dual loop, soft"


@pytest.mark.parametrize("name", ["classifier-free", "without a tensor", "both"])
def test_second_stages_of_guided_denoisers(name: str) -> None:
    guidance, evaluations = GUIDANCES[name]
    heun = lambda guided, noise: Heun(guided, {"label": LABEL})
    whole = run(guidance(exact), heun, SCHEDULERS["staggered"], label=LABEL)
    result = run(guidance(OnlyAsked()), heun, SCHEDULERS["staggered"], label=LABEL, only_moving=True)
    assert torch.equal(result.tokens, whole.tokens)
    assert result.evaluations == whole.evaluations == 2 * evaluations * len(cleaner(result.trace))


def test_an_interval_and_a_weaker_model_pass_it_on() -> None:
    walk, weak = (
        FollowPath(WALKS["sequential"], FLOW, 12),
        lambda z, noise, label: replace(exact(z, noise), mean=0.5 * z),
    )
    limited = on_interval(CFG, 0.2, 0.7)
    for guide in (lambda denoise, weak: limited(denoise), lambda denoise, weak: autoguidance(weak, 2.0)(denoise)):
        whole = sample(guide(exact, weak), DDIM(), walk, Z, label=LABEL)
        result = sample(guide(OnlyAsked(), OnlyAsked(weak)), DDIM(), walk, Z, label=LABEL, only_moving=True)
        assert torch.equal(result.tokens, whole.tokens)
        assert result.evaluations == whole.evaluations > 12
        assert result.token_evaluations == result.evaluations  # one token moves at a time


def test_tokens_without_batch_axes_share_a_mask() -> None:
    """Contexts are stacked, and a mask of one image serves them all: it broadcasts."""
    seen: list[tuple[torch.Size, torch.Size]] = []

    def denoise(z: Tensor, noise: NoiseMap, *, moving: Tensor) -> Posterior:
        seen.append((z.shape, moving.shape))
        return replace(DATA(z, noise), token_evaluations=int(moving.sum(-1).max()))

    result = sample(INPUT(denoise), DDIM(), SCHEDULERS["sequential"], Z[0], only_moving=True)
    assert set(seen) == {((2, N, D), (N,))}
    assert result.token_evaluations == 2 * 6
    assert torch.equal(result.tokens, sample(INPUT(exact), DDIM(), SCHEDULERS["sequential"], Z[0]).tokens)


def test_one_call_of_many_contexts_costs_as_many() -> None:
    guided = compose_guidance(CFG, INPUT)(functools.partial(two_of_them, label=LABEL))
    found = guided(Z, NoiseMap(torch.zeros(N, 1).double()))
    assert (found.evaluations, found.token_evaluations) == (4, 8)
    plain = CFG(exact)(Z, NoiseMap(torch.zeros(N, 1).double()), label=LABEL)
    assert (plain.evaluations, plain.token_evaluations) == (2, 2 * N)
    ahead = LookAhead(FLOW)(two_of_them)(Z, NoiseMap(torch.zeros(N, 1).double()))
    assert (ahead.evaluations, ahead.token_evaluations) == (2, 4)


# Inpainting

ELEMENTS = (torch.rand(B, N, D, generator=Generator().manual_seed(4)) < 0.5) | KNOWN
SOFT = torch.linspace(0.2, 1.0, N).double()[:, None]
TASKS: dict[str, dict[str, Any]] = {
    "tokens": {"known": KNOWN},
    "soft": {"known": KNOWN, "start": SOFT},
    "tokens known in part": {"known": ELEMENTS},
    "elements": {"known": ELEMENTS, "element_levels": True},
}


@pytest.mark.parametrize("path", ["synchronous", "staggered"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("solver", ["Heun", pytest.param("DPM++2M", marks=pytest.mark.slow)])
def test_inpainting_computes_what_is_unknown(task: str, path: str, solver: str) -> None:
    settings: dict[str, Any] = {"path": WALKS[path], "schedule": FLOW, "steps": 6, "candidates": 2, **TASKS[task]}
    found = []
    for denoise, only_moving in ((exact, False), (OnlyAsked(), True)):
        solve, noise = SOLVERS[solver](denoise, randn), PerSampleNoise(range(2 * B))
        found.append(inpaint(denoise, solve, Z, noise=noise, only_moving=only_moving, **settings))
    whole, result = found
    known = settings["known"].expand_as(Z)
    assert torch.equal(result.tokens, whole.tokens)
    assert torch.equal(result.tokens[:, known], Z[known].expand(2, -1))
    assert result.sampled.evaluations == whole.sampled.evaluations
    assert result.sampled.token_evaluations < whole.sampled.token_evaluations
    if path == "synchronous" and task != "soft":
        unknown = int((~settings["known"].all(-1)).sum(-1).max())
        assert result.sampled.token_evaluations == unknown * result.sampled.evaluations


def test_replacement_takes_it_too() -> None:
    settings: dict[str, Any] = {"path": WALKS["staggered"], "schedule": FLOW, "steps": 6, "noise": randn}
    whole = replacement(exact, DDIM(), Z, KNOWN, **settings)
    result = replacement(OnlyAsked(), DDIM(), Z, KNOWN, **settings, only_moving=True)
    assert torch.equal(result.tokens, whole.tokens)


# Schedulers that cannot tell, masks that do not fit, names that are taken


@dataclass
class Told:
    """One step, in which it says that these tokens move."""

    mask: Tensor | None
    max_steps: int = 1

    def init(self, z: Tensor) -> tuple[NoiseMap, None]:
        return NoiseMap(torch.zeros(N, 1).double()), None

    def next(self, noise: NoiseMap, posterior: Posterior, state: None) -> tuple[NoiseMap, None]:
        return NoiseMap(torch.ones(N, 1).double()), None

    def moving(self, noise: NoiseMap, state: None) -> Tensor | None:
        return self.mask


class Silent:
    """The same, and says nothing."""

    def __init__(self) -> None:
        self.max_steps, self.init, self.next = 1, Told(None).init, Told(None).next


def test_a_scheduler_that_cannot_tell_says_none() -> None:
    schedulers: list[InferenceScheduler[Any]] = [Silent(), Told(None)]
    schedulers += [Restarts(scheduler, synchronous(N), FLOW, 2, 1, randn) for scheduler in (Silent(), Told(None))]
    for scheduler in schedulers:
        for guidance, rows in ((compose_guidance(), 1), (CFG, 2)):
            partial = OnlyAsked()
            result = sample(guidance(partial), Renoise(DDIM(), randn), scheduler, Z, label=LABEL, only_moving=True)
            assert torch.equal(
                result.tokens, sample(guidance(exact), Renoise(DDIM(), randn), scheduler, Z, label=LABEL).tokens
            )
            assert partial.asked[0] is None
            assert all(mask is not None and mask.shape == (rows * B, N) for mask in partial.asked[1:])
            assert len(partial.asked) == scheduler.max_steps


def test_the_condition_is_given_on_request_only() -> None:
    seen: list[dict[str, Any]] = []

    def watch(z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
        seen.append(cond)
        return DATA(z, noise)

    told: list[dict[str, Any]] = [{}, {"only_moving": False}]
    for settings in told:
        sample(watch, DDIM(), SCHEDULERS["round robin"], Z, **settings)
        next(iter(sample_steps(watch, DDIM(), SCHEDULERS["round robin"], Z, **settings)))
    assert seen == [{}] * 12
    sample(watch, DDIM(), Told(torch.arange(N) < 2), Z, only_moving=True)
    assert torch.equal(seen[-1]["moving"], (torch.arange(N) < 2).expand(B, N))


@pytest.mark.parametrize("shape", [(N + 1,), (2, N), (1, 1, 1, N)], ids=str)
def test_masks_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a mask of moving tokens of shape .* does not fit tokens of shape"):
        sample(OnlyAsked(), DDIM(), Told(torch.ones(shape).bool()), Z, only_moving=True)


@pytest.mark.parametrize("only_moving", [True, False])
def test_a_condition_of_that_name_is_refused(only_moving: bool) -> None:
    walk, settings = FollowPath(synchronous(N), FLOW, 2), {"only_moving": only_moving, "moving": None}
    calls: list[Callable[[], object]] = [
        lambda: sample(OnlyAsked(), DDIM(), walk, Z, **settings),
        lambda: next(sample_steps(OnlyAsked(), DDIM(), walk, Z, **settings)),
        lambda: inpaint(
            *(OnlyAsked(), DDIM(), Z, KNOWN),
            **{"path": synchronous(N), "schedule": FLOW, "steps": 2, "noise": randn, **settings},
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="moving is the condition that only_moving=True gives the denoiser"):
            call()


def test_no_number_is_read_to_tell_what_moves() -> None:
    """On tensors without data any look of the host would fail."""
    z, flat = Z.to("meta"), NoiseMap(torch.zeros(B, N, 1, device="meta"))
    for name in ("round robin", "dual loop", "most certain first", "uncertainty", "uncertainty, lagged"):
        scheduler: Any = SCHEDULERS[name]
        state = without_numbers(scheduler.init(Z)[1])
        assert scheduler.moving(flat, state).shape == (B, N)
    for name in WALKS:
        if name not in ("inpainting", "a path a sample"):  # of data on the CPU
            walk: Any = SCHEDULERS[name]
            assert walk.moving(*walk.init(z)).shape == (N,)
    rounds: Any = SCHEDULERS["restarts"]
    noise, state = rounds.init(z)
    assert rounds.moving(noise, state).shape == (N,)
    assert rounds.moving(noise, replace(state, round=1)).shape == (B, N)


def test_solvers_are_asked_nothing_new() -> None:
    """A solver's own evaluation is made without the condition, whether the first is or not."""
    seen: list[bool] = []

    def watch(z: Tensor, noise: NoiseMap, **cond: Any) -> Posterior:
        seen.append("moving" in cond)
        return DATA(z, noise)

    solver: Solver[Any] = Heun(watch)
    sample(watch, solver, FollowPath(synchronous(N), FLOW, 3), Z, only_moving=True)
    assert seen == [True, False] * 3
