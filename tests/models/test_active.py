"""Leaving out tokens: exact with one-way attention, and otherwise what it says it is."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from apd_models import ActiveTokens, DiT
from apd_models._packing import pack, put, put_, take
from apd_samplers import DDIM, FollowPath, Heun, classifier_free, inpaint, sample
from apd_schedules import NoiseMap, Path, RectifiedFlow, flow_from_x, sequential, staggered, synchronous
from dit_cases import D, N, inputs, random_model
from long_runs import unchecked
from strategies import seeds

GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
PATHS: dict[str, Path] = {
    "synchronous": synchronous(N),
    "sequential": sequential(GROUPS),
    "staggered": staggered(GROUPS, 0.5),
}


def test_packing() -> None:
    chosen = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    packed = pack(chosen)
    assert packed is not None
    assert packed.real.tolist() == [[True, True], [True, False], [False, False]]
    x = torch.arange(24.0).reshape(3, 4, 2)
    taken = take(x, packed)
    assert torch.equal(taken[0], x[0, [1, 3]])
    new = put(x, packed, taken + 100)
    assert torch.equal(new, torch.where(chosen[..., None], x + 100, x))
    put_(x, packed, taken + 100)
    assert torch.equal(new, x)
    assert pack(torch.zeros(2, 3, dtype=torch.bool)) is None


def test_the_first_call_is_the_model() -> None:
    model = random_model()
    z, noise, label = inputs()
    found = ActiveTokens(model)(z, noise, label)
    torch.testing.assert_close(found.mean, model(z, noise, label).mean, rtol=1e-12, atol=1e-12)
    assert found.token_evaluations == N


OPTIONS: list[dict[str, Any]] = [
    {},
    {"position": "rope"},
    {"conditioning": "joint", "error_head": True},
    {"conditioning": "separable"},
    {"context_dim": 5},
    {"context_dim": 5, "position": "rope"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", PATHS)
def test_one_way_is_exact_along_paths(name: str, options: dict[str, Any]) -> None:
    model = random_model(one_way=True, **options)
    z, _, label = inputs()
    context: dict[str, Any] = {"context": torch.randn(3, 2, 5).double()} if "context_dim" in options else {}
    walk = FollowPath(PATHS[name], RectifiedFlow(), 12)
    whole = sample(model, DDIM(), walk, z, label=label, **context)
    some = sample(ActiveTokens(model), DDIM(), walk, z, only_moving=True, label=label, **context)
    torch.testing.assert_close(some.tokens, whole.tokens, rtol=1e-9, atol=1e-9)
    if name != "synchronous":
        assert some.token_evaluations < 0.7 * whole.token_evaluations


CALL_BY_CALL: list[dict[str, Any]] = [
    {},
    {"position": "rope", "context_dim": 5},
    {"conditioning": "separable", "element_levels": True},
    {"conditioning": "joint", "embedders": "per_block", "convention": "diffusers"},
]


@settings(max_examples=40)
@given(seeds, st.integers(1, 3), st.sampled_from(CALL_BY_CALL))
def test_one_way_is_exact_call_by_call(seed: int, batch: int, options: dict[str, Any]) -> None:
    """Any tokens and labels change, to any of a few levels, and any are wanted: what is wanted is the whole answer."""
    generator = torch.Generator().manual_seed(seed)
    model = random_model(one_way=True, error_head=True, **options)
    elements = D if "element_levels" in options else 1
    context: dict[str, Any] = {"context": torch.randn(batch, 2, 5).double()} if "context_dim" in options else {}
    active = ActiveTokens(model)
    z, _, label = inputs(batch, seed)
    some = lambda: torch.rand(batch, N, elements, generator=generator).mul(4).floor() / 3  # 0 and 1 among them
    levels = some()
    active(z, NoiseMap(RectifiedFlow()(levels.double())), label, **context)
    for _ in range(4):
        changes = torch.rand(batch, N, 1, generator=generator) < 0.3
        z = torch.where(changes, torch.randn(z.shape, generator=generator, dtype=torch.float64), z)
        again = torch.rand(batch, N, 1, generator=generator) < 0.3
        levels = torch.where(again, some(), levels)
        label = torch.where(torch.rand(batch, generator=generator) < 0.2, (label + 1) % 4, label)
        wanted = torch.rand(batch, N, generator=generator) < 0.4
        at = NoiseMap(RectifiedFlow()(levels.double()))
        found, whole = active(z, at, label, moving=wanted, **context), model(z, at, label, **context)
        torch.testing.assert_close(found.mean[wanted], whole.mean[wanted], rtol=1e-9, atol=1e-9)
        assert found.log_var is not None
        assert whole.log_var is not None
        torch.testing.assert_close(found.log_var[wanted], whole.log_var[wanted], rtol=1e-9, atol=1e-9)


def test_one_way_computes_no_more_than_it_must() -> None:
    """A clean token changes: all noisier ones are reached, but only the wanted one and what it sees is computed."""
    model = random_model(one_way=True)
    active = ActiveTokens(model)
    z, _, label = inputs(1)
    levels = torch.tensor([0.0, 0.0, 0.3, 0.5, 0.5, 1.0], dtype=torch.float64)[None, :, None]
    at = NoiseMap(RectifiedFlow()(levels))
    active(z, at, label)

    def cost(changed: list[int], wanted: list[int]) -> int | None:
        nonlocal z
        z = z.clone()
        z[0, changed] += 1
        moving = torch.zeros(1, N, dtype=torch.bool)
        moving[0, wanted] = True
        return active(z, at, label, moving=moving).token_evaluations

    assert cost([], [5]) == 0  # nothing changed: the last guess holds
    assert cost([5], []) == 0
    assert cost([5], [5]) == 1
    assert cost([0], [2]) == 2  # 0 and 2
    assert cost([], [5]) == 3  # 3 and 4 were reached and not computed
    assert cost([3], [3]) == 2  # 4 sees 3 and is seen by it
    assert cost([1], [1]) == 1


def test_one_way_lets_tokens_wait_that_nobody_sees() -> None:
    """From the first call on: what has not begun costs nothing, and what is at its first step does not see the rest."""
    model = random_model(one_way=True, error_head=True)
    z, _, label = inputs(1)
    levels = torch.tensor([0.0, 0.3, 0.3, 1.0, 1.0, 1.0], dtype=torch.float64)[None, :, None]
    at, moving = NoiseMap(RectifiedFlow()(levels)), torch.arange(N)[None] == 1
    found, whole = ActiveTokens(model)(z, at, label, moving=moving), model(z, at, label)
    assert found.token_evaluations == 3  # itself, its equal, and the clean one
    torch.testing.assert_close(found.mean[moving], whole.mean[moving], rtol=1e-10, atol=1e-10)
    assert found.mean.isfinite().all()
    first = torch.arange(N)[None] == 4
    begins = ActiveTokens(model)(z, at, label, moving=first)
    assert begins.token_evaluations == 4  # itself and what is cleaner
    torch.testing.assert_close(begins.mean[first], whole.mean[first], rtol=1e-10, atol=1e-10)
    half, noise = model.float(), NoiseMap(at.log_snr.float())
    with torch.autocast("cpu", torch.bfloat16):
        active = ActiveTokens(half)
        some, all_of_it = active(z.float(), noise, label, moving=moving), half(z.float(), noise, label)
    torch.testing.assert_close(some.mean[moving], all_of_it.mean[moving], rtol=0.1, atol=0.1)


def test_one_way_remembers_across_labels_and_contexts() -> None:
    model = random_model(one_way=True, context_dim=5)
    active = ActiveTokens(model)
    z, noise, label = inputs()
    context = torch.randn(3, 2, 5, dtype=torch.float64)
    active(z, noise, label, context=context)
    everything = torch.ones(3, N, dtype=torch.bool)
    for told, said in [(label.flip(0), context), (label, context + 1), (label, context)]:
        found = active(z, noise, told, context=said, moving=everything)
        torch.testing.assert_close(found.mean, model(z, noise, told, context=said).mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_bidirectional_is_exact_where_the_others_did_not_change_their_keys(position: str) -> None:
    """One block: keys and values of tokens at rest depend on themselves alone, so nothing is lost."""
    model = random_model(depth=1, position=position)
    active = ActiveTokens(model, refresh=None)
    z, noise, label = inputs()
    active(z, noise, label)
    moved = z.clone()
    moved[:, 1:3] += 1
    found = active(moved, noise, label)
    assert found.token_evaluations == 2
    whole = model(moved, noise, label).mean
    torch.testing.assert_close(found.mean[:, 1:3], whole[:, 1:3], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found.mean[:, 3:], whole[:, 3:], rtol=1e-4)  # the last guess, as it was


def test_bidirectional_keeps_stale_keys_until_the_refresh() -> None:
    model = random_model()
    active = ActiveTokens(model, refresh=3)
    z, noise, label = inputs()
    moving = torch.zeros(3, N, dtype=torch.bool)
    moving[:, 0] = True
    costs = []
    for _ in range(7):
        z = z.clone()
        z[:, 0] += 0.3
        found = active(z, noise, label, moving=moving)
        exact = torch.allclose(found.mean[:, 0], model(z, noise, label).mean[:, 0], rtol=1e-9)
        costs.append((found.token_evaluations, exact))
    assert costs == [(6, True), (1, False), (1, False), (6, True), (1, False), (1, False), (6, True)]


def test_the_error_is_measured_at_refreshes() -> None:
    model = random_model()
    checked, plain = ActiveTokens(model, refresh=2, check=True), ActiveTokens(model, refresh=2)
    z, noise, label = inputs()
    moving = torch.zeros(3, N, dtype=torch.bool)
    moving[:, 0] = True
    for k in range(5):
        z = z.clone()
        z[:, 0] += 0.3
        a, b = checked(z, noise, label, moving=moving), plain(z, noise, label, moving=moving)
        assert torch.equal(a.mean, b.mean), k
    assert len(checked.errors) == 2
    assert plain.errors == []
    checked(z, noise, label)  # nothing has changed, and nothing is wanted: no error to state
    assert len(checked.errors) == 2


def test_the_error_is_that_of_the_velocity_of_what_was_wanted() -> None:
    model = random_model()
    checked, never = ActiveTokens(model, refresh=1, check=True), ActiveTokens(model, refresh=None)
    z, noise, label = inputs()
    moving = torch.zeros(3, N, dtype=torch.bool)
    moving[:, 0], moving[1, 3] = True, True
    for each in (checked, never):
        each(z, noise, label)
    z = z + moving[..., None] * 0.3
    velocity = lambda mean: flow_from_x(mean, z, noise)[moving]
    checked(z, noise, label, moving=moving)
    right, off = velocity(model(z, noise, label).mean), velocity(never(z, noise, label, moving=moving).mean)
    assert checked.errors == [pytest.approx(((off - right).norm() / right.norm()).item(), rel=1e-9)]


@pytest.mark.parametrize("name", ["z", "log_snr", "label", "context", "answer"])
def test_what_is_given_or_taken_may_be_changed_in_place(name: str) -> None:
    model = random_model(one_way=True, context_dim=5)
    active = ActiveTokens(model)
    z, noise, label = inputs()
    given = {"z": z, "log_snr": noise.log_snr, "label": label, "context": torch.randn(3, 2, 5).double()}
    everything = torch.ones(3, N, dtype=torch.bool)
    call = lambda: active(
        given["z"], NoiseMap(given["log_snr"]), given["label"], context=given["context"], moving=everything
    )
    given["answer"] = call().mean
    given[name].add_(1) if name != "label" else given[name].copy_(given[name].flip(0))
    whole = model(given["z"], NoiseMap(given["log_snr"]), given["label"], context=given["context"])
    torch.testing.assert_close(call().mean, whole.mean, rtol=1e-9, atol=1e-9)


def test_keys_and_values_are_kept_alone() -> None:
    """Not as views of the product that made queries, keys and values."""
    model = random_model(qk_norm=False)
    active = ActiveTokens(model)
    active(*inputs())
    seen = active._seen
    assert seen is not None
    for each in (*seen.keys, *seen.values):
        assert each.untyped_storage().nbytes() == each.numel() * each.element_size()


def test_starts_anew_where_precision_or_weights_differ() -> None:
    model = random_model().float()
    active = ActiveTokens(model)
    z, noise, label = inputs()
    z, noise = z.float(), NoiseMap(noise.log_snr.float())
    with torch.autocast("cpu", torch.bfloat16):
        active(z, noise, label)
    assert active(z, noise, label).token_evaluations == N
    with torch.inference_mode():
        assert active(z, noise, label).token_evaluations == N
    assert active(z + 1, noise, label).token_evaluations == N
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert active(z + 1, noise, label).token_evaluations == N


def test_an_empty_batch_stays_empty() -> None:
    active = ActiveTokens(random_model())
    z, noise, label = inputs()
    for _ in range(2):
        assert active(z[:0], NoiseMap(noise.log_snr[:0]), label[:0]).mean.shape == (0, N, D)


def test_a_sample_does_not_depend_on_what_others_compute() -> None:
    """Rows are filled up where samples have fewer tokens to compute; what fills them changes nothing."""
    model = random_model()
    z, noise, label = inputs(2)
    few = torch.tensor([[True] + [False] * 5, [True] * 4 + [False] * 2])
    together, alone = ActiveTokens(model, refresh=None), ActiveTokens(model, refresh=None)
    first = lambda x: x[:1]
    for _ in range(3):
        a = together(z, noise, label, moving=few)
        b = alone(first(z), NoiseMap(first(noise.log_snr)), first(label), moving=first(few))
        torch.testing.assert_close(first(a.mean), b.mean, rtol=1e-10, atol=1e-10)
        z = z + few[..., None] * 0.5


def test_starts_anew_where_shapes_differ_and_when_told() -> None:
    model = random_model()
    active = ActiveTokens(model)
    z, noise, label = inputs()
    active(z, noise, label)
    assert active(z, noise, label).token_evaluations == 0
    two = active(z[:2], NoiseMap(noise.log_snr[:2]), label[:2])
    assert two.token_evaluations == N
    assert active(z[:2], NoiseMap(noise.log_snr[:2]), label[:2]).token_evaluations == 0
    active.reset()
    assert active(z[:2], NoiseMap(noise.log_snr[:2]), label[:2]).token_evaluations == N


def test_a_failed_call_leaves_nothing_half_done() -> None:
    model = random_model()
    active = ActiveTokens(model)
    z, noise, label = inputs()
    active(z, noise, label)
    with pytest.raises(ValueError, match="labels are 0 to 3"):
        active(z + 1, noise, torch.full((3,), 99))
    assert active(z, noise, label).token_evaluations == 0  # refused before anything was done
    active.model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        active(z + 1, noise, label)
    active.model.blocks[1]._forward_pre_hooks.clear()
    assert active(z, noise, label).token_evaluations == N


def test_refresh_is_a_number_of_calls() -> None:
    with pytest.raises(ValueError, match="at least 1, or None for never, got 0"):
        ActiveTokens(random_model(), refresh=0)


# in use


def test_inpainting_computes_the_hole() -> None:
    """Known tokens are computed once; with one-way attention the completion is that of the whole model."""
    model = random_model(one_way=True)
    x = torch.randn(2, N, D, dtype=torch.float64)
    known = (torch.arange(N) < 4)[None, :, None].expand(2, N, 1)
    eps = torch.randn(2, N, D, dtype=torch.float64)

    def run(denoise: DiT | ActiveTokens, only_moving: bool) -> Any:
        label = torch.tensor([0, 2])
        return inpaint(
            denoise,
            DDIM(),
            x,
            known,
            path=synchronous(N),
            schedule=RectifiedFlow(),
            steps=10,
            noise=lambda like: eps,
            only_moving=only_moving,
            label=label,
        )

    whole, some = run(model, False), run(ActiveTokens(model), True)
    torch.testing.assert_close(some.tokens, whole.tokens, rtol=1e-9, atol=1e-9)
    assert torch.equal(some.tokens[0][known.expand(2, N, D)], x[known.expand(2, N, D)])
    assert some.sampled.token_evaluations == N + 9 * 2
    assert whole.sampled.token_evaluations == N * 10


@pytest.mark.parametrize("one_way", [True, False])
def test_under_guidance_and_two_stage_solvers(one_way: bool) -> None:
    """Both branches and both stages go through one memory; every refresh of 1 is the model itself."""
    model = random_model(one_way=one_way)
    z, _, label = inputs()
    null = {"label": torch.full((3,), 3)}
    walk = FollowPath(PATHS["sequential"], RectifiedFlow(), 9)
    active = ActiveTokens(model, refresh=1)
    found: list[Tensor] = []
    for denoise, only in ((model, False), (active, True)):
        guided = classifier_free(2.0, null)(denoise)
        solver = Heun(guided, {"label": label})
        found.append(sample(guided, solver, walk, z, only_moving=only, label=label).tokens)
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("one_way", [False, True])
def test_other_weights_in_the_place_of_the_old_are_noticed(one_way: bool) -> None:
    """Loaded by assignment, as model folders are, none of them counts a change in place."""
    model, other = random_model(one_way=one_way), random_model(seed=1, one_way=one_way)
    model.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()}, assign=True)
    z, noise, label = inputs()
    (active := ActiveTokens(model))(z, noise, label)
    model.load_state_dict({name: weight.clone() for name, weight in other.state_dict().items()}, assign=True)
    assert torch.equal(active(z, noise, label).mean, model(z, noise, label).mean)
    assert active(z, noise, label).token_evaluations == 0
    model.head.weight.data = torch.zeros_like(model.head.weight)
    assert torch.equal(active(z, noise, label).mean, model(z, noise, label).mean)


def test_what_moves_is_said_in_booleans() -> None:
    active = ActiveTokens(random_model())
    with unchecked(), pytest.raises(ValueError, match=r"whether it moves, in booleans, got torch.int64"):
        active(*inputs(), moving=torch.ones(N, dtype=torch.int64))
