"""A path runs from noise to clean, never back, in the order it was given."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, strategies as st
from torch import Tensor

from apd_schedules import (
    Path,
    check_monotone,
    concatenate,
    hold_at,
    hold_clean,
    logit_shift,
    piecewise_linear,
    product,
    sequential,
    sliding_window,
    staggered,
    synchronous,
    warp,
)
from strategies import masks, normals, paths, plans, seeds, tokens, turns

S = torch.linspace(1, 0, 65, dtype=torch.float64)
dtypes = st.sampled_from([torch.float32, torch.float64])


def falls_from_noise_to_clean(levels: Tensor) -> None:
    assert (levels[0] == 1).all()
    assert (levels[-1] == 0).all()
    assert (levels.diff(dim=0) <= 0).all()


@given(st.data(), tokens, dtypes)
def test_from_exactly_noise_to_exactly_clean_and_never_back(data: st.DataObject, n: int, dtype: torch.dtype) -> None:
    levels = data.draw(paths(n))(torch.linspace(1, 0, 257, dtype=dtype))
    assert levels.shape == (257, n, 1)
    assert levels.dtype == dtype
    falls_from_noise_to_clean(levels)


@given(st.data(), tokens)
def test_velocities_are_finite_and_add_up_to_the_way(data: st.DataObject, n: int) -> None:
    """Forward mode, as the likelihood takes it: at both ends finite, and its integral is 1 for every token."""
    path = data.draw(paths(n))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.func.jvp(path, (ends,), (torch.ones_like(ends),))[1].isfinite().all()
    # Steep tokens need a fine grid: substitute s = sigmoid, and leave 1e-12 to each side.
    logit = torch.linspace(-28, 28, 20_001, dtype=torch.float64)
    s = logit.sigmoid()
    levels, velocity, *_ = torch.func.jvp(path, (s,), (torch.ones_like(s),))
    assert (velocity >= 0).all()
    whole = torch.trapezoid(velocity * (s * (1 - s))[:, None, None], logit, dim=0)
    torch.testing.assert_close(whole, levels[-1] - levels[0], rtol=0, atol=2e-2)


@given(st.data(), tokens, st.floats(0.05, 1.0))
@example(data=None, n=1, width=1.0)
def test_an_earlier_turn_is_never_noisier(data: st.DataObject | None, n: int, width: float) -> None:
    turn = data.draw(turns(n)) if data else torch.zeros(1, dtype=torch.long)
    for path in (staggered(turn, width), sequential(turn), sliding_window(turn, 1 / width)):
        levels = path(S)[..., 0]
        by_turn = levels[:, turn.argsort()]
        assert (by_turn.diff(dim=-1) >= 0).all()


def test_staggered_of_width_one_is_synchronous() -> None:
    torch.testing.assert_close(staggered(torch.tensor([2, 0, 1]), 1.0)(S), synchronous(3)(S))


def test_sequential_moves_one_turn_at_a_time() -> None:
    path = sequential(torch.tensor([1, 0, 2, 1]))
    s = torch.tensor([5 / 6, 0.5, 1 / 6], dtype=torch.float64)
    expected = torch.tensor([[1, 0.5, 1, 1], [0.5, 0, 1, 0.5], [0, 0, 0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(path(s)[..., 0], expected)


def test_each_token_takes_the_width_it_was_given() -> None:
    levels = staggered(torch.arange(4), 0.3)(torch.linspace(1, 0, 10_001, dtype=torch.float64))[..., 0]
    moving = ((levels > 0) & (levels < 1)).double().mean(0)
    torch.testing.assert_close(moving, torch.full((4,), 0.3, dtype=torch.float64), rtol=0, atol=3e-4)


@given(st.integers(1, 7), st.integers(1, 9))
def test_as_many_turns_as_the_window_holds_move_at_once(turns: int, active: int) -> None:
    path = sliding_window(torch.arange(turns), active)
    # Steps of 1 / (turns - 1 + active): a turn enters with each; between them the window is as full as can be.
    s = 1 - (torch.arange(turns - 1 + active, dtype=torch.float64) + 0.5) / (turns - 1 + active)
    levels = path(s)[..., 0]
    step = torch.arange(turns - 1 + active)[:, None]
    expected = 1 - ((step - torch.arange(turns) + 0.5).double() / active).clamp(0, 1)
    torch.testing.assert_close(levels, expected, rtol=0, atol=1e-12)
    moving = ((levels > 0) & (levels < 1)).sum(1)
    assert moving.max() == min(active, turns)
    torch.testing.assert_close(sliding_window(torch.arange(turns), 1)(S), sequential(torch.arange(turns))(S))


@given(st.data(), tokens, st.floats(-2, 2))
def test_logit_shift_shifts_logits(data: st.DataObject, n: int, scale: float) -> None:
    offset = data.draw(normals(2, n, 3))
    s = S[1:-1]
    levels = logit_shift(offset, scale)(s)
    assert levels.shape == (63, 2, n, 3)
    torch.testing.assert_close(levels.logit(), s.logit()[:, None, None, None] + scale * offset, rtol=1e-9, atol=1e-9)
    velocity = torch.func.jvp(logit_shift(offset, scale), (s,), (torch.ones_like(s),))[1]
    slope = levels * (1 - levels) / (s * (1 - s))[:, None, None, None]
    torch.testing.assert_close(velocity, slope, rtol=1e-9, atol=0)


@given(st.lists(st.floats(-40, 40), min_size=1, max_size=5), dtypes)
def test_logit_shift_never_runs_back_by_a_digit(offsets: list[float], dtype: torch.dtype) -> None:
    path = logit_shift(torch.tensor(offsets, dtype=torch.float64)[:, None])
    s = torch.cat([torch.linspace(0, 1, 4097), torch.logspace(-12, -3, 500), 1 - torch.logspace(-7, -3, 500)])
    falls_from_noise_to_clean(path(s.unique().flip(0).to(dtype)))
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    velocity = torch.func.jvp(path, (ends,), (torch.ones_like(ends),))[1][..., 0]
    by = torch.tensor(offsets, dtype=dtype)
    torch.testing.assert_close(velocity, torch.stack([by.exp(), (-by).exp()]), rtol=1e-5, atol=0)


def test_piecewise_linear_joins_its_rows() -> None:
    rows = torch.tensor([[[1.0], [1.0]], [[0.8], [1.0]], [[0.2], [0.5]], [[0.2], [0.1]], [[0.0], [0.0]]])
    path = piecewise_linear(rows)
    assert torch.equal(path(torch.tensor([1, 0.75, 0.5, 0.25, 0])), rows)
    middle = path(torch.tensor([0.875, 0.625, 0.375, 0.125]))
    torch.testing.assert_close(middle, (rows[1:] + rows[:-1]) / 2)
    s = torch.linspace(0.5, 0.25, 33)
    assert (path(s)[:, 0] == rows[2, 0]).all()  # a token at rest rests to the last digit
    assert path(torch.full((2, 3), 0.4)).shape == (2, 3, 2, 1)


@given(st.data(), tokens, st.sampled_from([1, 3]), dtypes)
def test_plans_fall_from_noise_to_clean_through_their_rows(
    data: st.DataObject, n: int, e: int, dtype: torch.dtype
) -> None:
    rows = data.draw(plans(n, e))
    path = piecewise_linear(rows)
    falls_from_noise_to_clean(path(torch.linspace(1, 0, 1001, dtype=dtype)))
    at_rows = path(torch.linspace(1, 0, len(rows), dtype=torch.float64))
    torch.testing.assert_close(at_rows, rows.double(), rtol=0, atol=1e-14)


@given(st.data(), tokens)
def test_held_tokens_stay_clean_and_others_do_not_notice(data: st.DataObject, n: int) -> None:
    path, known = data.draw(paths(n)), data.draw(masks(n))
    s = torch.linspace(1, 0, 17, dtype=torch.float64)
    held = hold_clean(path, known)(s)
    assert (held[:, known[:, 0]] == 0).all()
    torch.testing.assert_close(held[:, ~known[:, 0]], path(s)[:, ~known[:, 0]], rtol=0, atol=0)


def test_each_sample_may_hold_its_own_tokens_or_elements() -> None:
    known = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    path = hold_clean(synchronous(3), known)
    assert path(torch.tensor(0.5)).shape == (5, 3, 4)
    levels = path(torch.tensor([1.0, 0.25]))
    assert levels.shape == (2, 5, 3, 4)
    assert torch.equal(levels[1], torch.where(known, 0.0, 0.25))
    again = hold_clean(path, known)(torch.tensor([1.0, 0.25]))
    assert torch.equal(again, levels)


@given(st.data(), tokens, st.floats(0, 1))
def test_tokens_are_held_at_any_level(data: st.DataObject, n: int, level: float) -> None:
    path, known = data.draw(paths(n)), data.draw(masks(n))
    held = hold_at(path, known, level)(S)
    assert (held[:, known[:, 0]] == level).all()
    assert torch.equal(held[:, ~known[:, 0]], path(S)[:, ~known[:, 0]])


def test_each_sample_and_element_may_be_held_at_its_own_level() -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.rand(5, 3, 1, generator=generator) < 0.5
    level = torch.rand(5, 1, 4, generator=generator)
    levels = hold_at(synchronous(3), known, level)(torch.tensor([1.0, 0.25]))
    assert levels.shape == (2, 5, 3, 4)
    assert torch.equal(levels[1], torch.where(known, level, 0.25))
    assert torch.equal(
        hold_at(synchronous(3), known[0], level)(torch.tensor(0.25))[1], torch.where(known[0], level[1], 0.25)
    )


@given(st.data(), tokens, dtypes)
def test_one_path_after_another(data: st.DataObject, n: int, dtype: torch.dtype) -> None:
    """First some tokens, then the others: sequential when both parts are synchronous."""
    one, two, first = data.draw(paths(n)), data.draw(paths(n)), data.draw(masks(n))
    path = concatenate([hold_at(one, ~first, 1.0), hold_clean(two, first)], [1, 3])
    levels = path(torch.linspace(1, 0, 257, dtype=dtype))
    assert levels.dtype == dtype
    falls_from_noise_to_clean(levels)
    levels, quarter = (
        path(torch.linspace(1, 0, 257, dtype=torch.float64)),
        torch.linspace(1, 0, 65, dtype=torch.float64),
    )
    close = lambda a, b, of: torch.testing.assert_close(a[:, of[:, 0]], b[:, of[:, 0]], rtol=0, atol=1e-9)
    close(levels[:65], one(quarter), first)
    close(levels[64:], two(torch.linspace(1, 0, 193, dtype=torch.float64)), ~first)


def test_concatenated_regions_are_sequential() -> None:
    turn = torch.tensor([0, 2, 1, 0])
    region = [turn[:, None] == k for k in range(3)]
    flat = synchronous(4)
    wait = [hold_at(hold_clean(flat, turn[:, None] < k), turn[:, None] > k, 1.0) for k in range(3)]
    torch.testing.assert_close(concatenate(wait)(S), sequential(turn)(S), rtol=0, atol=1e-12)
    assert torch.equal(concatenate([flat])(S), flat(S))
    falls_from_noise_to_clean(concatenate(wait, [0.1, 0.2, 0.3])(S))  # of shares whose sum is rounded
    s = torch.tensor(0.9, dtype=torch.float64)
    velocity = torch.func.jvp(concatenate(wait), (s,), (torch.ones_like(s),))[1]
    torch.testing.assert_close(velocity, region[0].double() * 3)


def test_concatenated_paths_are_asked_between_0_and_1_alone() -> None:
    def picky(s: Tensor) -> Tensor:
        assert ((s >= 0) & (s <= 1)).all()
        return synchronous(2)(s)

    first = torch.tensor([[True], [False]])
    falls_from_noise_to_clean(concatenate([hold_at(picky, ~first, 1.0), hold_clean(picky, first)])(S))


def test_concatenated_paths_may_differ_in_batch_axes_and_elements() -> None:
    known = torch.tensor([[[True], [False]], [[False], [True]], [[True], [True]]])
    context = hold_at(synchronous(2), ~known, 1.0)  # a region for each sample
    rest = hold_clean(synchronous(2), known.expand(3, 2, 4))
    levels = concatenate([context, rest])(torch.tensor([1.0, 0.75, 0.25, 0.0]))
    assert levels.shape == (4, 3, 2, 4)
    assert torch.equal(levels[1], torch.where(known, 0.5, 1.0).expand(3, 2, 4))
    assert torch.equal(levels[2], torch.where(known, 0.0, 0.5).expand(3, 2, 4))


@given(st.data(), tokens, st.integers(1, 4), dtypes)
def test_a_product_runs_the_inner_path_in_every_token(data: st.DataObject, n: int, d: int, dtype: torch.dtype) -> None:
    spatial, inner = data.draw(paths(n)), data.draw(paths(d))
    s = torch.linspace(1, 0, 65, dtype=dtype)
    levels = product(spatial, inner)(s)
    assert levels.shape == (65, n, d)
    falls_from_noise_to_clean(levels)
    for i in range(n):
        assert torch.equal(levels[:, i], inner(spatial(s)[:, i, 0])[..., 0])
    batched = product(hold_clean(spatial, torch.zeros(2, n, 1, dtype=torch.bool)), inner)(s)
    assert torch.equal(batched, levels[:, None].expand(65, 2, n, d))


def test_warp_changes_the_speed_alone() -> None:
    path = staggered(torch.arange(3), 0.5)
    s = torch.linspace(0, 1, 11)
    assert torch.equal(warp(path, torch.square)(s), path(s**2))


@given(st.data(), tokens)
def test_ours_pass_the_check_and_come_back(data: st.DataObject, n: int) -> None:
    path = data.draw(paths(n))
    assert check_monotone(path) is path


@given(seeds)
def test_the_check_finds_one_bad_step_of_one_element(seed: int) -> None:
    """And says where: any path of random levels that falls once."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(9, 2, 3, 2, dtype=torch.float64, generator=generator).sort(dim=0).values
    b, i, j, k = (int(torch.randint(size, (), generator=generator)) for size in (2, 3, 2, 8))
    levels[k + 1, b, i, j] = levels[k, b, i, j] - 1e-5 if levels[k, b, i, j] > 1e-5 else -1.0
    path = lambda s: levels
    with pytest.raises(ValueError, match=rf"element {j} of token {i} of sample {b} ") as caught:
        check_monotone(path, points=9)
    assert f"s = {k / 8:g}" in str(caught.value) or f"s = {(k + 1) / 8:g}" in str(caught.value)


def column(*levels: float) -> Tensor:
    return torch.tensor(levels, dtype=torch.float64)[:, None, None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synchronous(0), "at least one token"),
        (lambda: staggered(torch.tensor([0, 2]), 0.5), "none left out"),
        (lambda: staggered(torch.tensor([0, 1]), 0.0), "width"),
        (lambda: staggered(torch.tensor([0, 1]), 1.5), "width"),
        (lambda: sequential(torch.tensor([1, 2])), "none left out"),
        (lambda: sequential(torch.tensor([], dtype=torch.long)), "none left out"),
        (lambda: sliding_window(torch.tensor([1, 2]), 2), "none left out"),
        (lambda: sliding_window(torch.tensor([0, 1]), 0.5), "at least one turn.*active=0.5"),
        (lambda: sliding_window(torch.tensor([0, 1]), math.nan), "at least one turn.*active=nan"),
        (lambda: sliding_window(torch.tensor([0, 1]), math.inf), "finitely many.*active=inf"),
        (lambda: logit_shift(torch.tensor([[1.0], [-30.0]]), 2.0), r"within ±40.*scale=2 and up to ±60"),
        (lambda: logit_shift(torch.tensor([[1.0], [math.nan]])), r"within ±40 and not NaN.*up to ±inf"),
        (lambda: logit_shift(torch.zeros(2, 1), math.inf), "within ±40 and not NaN.*scale=inf"),
        (lambda: piecewise_linear(column(1)), "two rows or more"),
        (lambda: piecewise_linear(torch.zeros(2, 0, 1)), "two rows or more"),
        (lambda: piecewise_linear(column(1, 1.5, 0)), r"in \[0, 1\], but row 1 has token 0 at 1.5"),
        (lambda: piecewise_linear(column(1, math.nan, 0)), r"in \[0, 1\], but row 1 has token 0 at nan"),
        (lambda: piecewise_linear(column(0.5, 0.25, 0)), r"all noise \(1\).* row 0 has token 0 at 0.5"),
        (lambda: piecewise_linear(column(1, 0.25, 0.125)), r"all clean \(0\).* row 2 has token 0 at 0.125"),
        (
            lambda: piecewise_linear(torch.cat([column(1, 0.5, 0.5, 0), column(1, 0.25, 0.5, 0)], 1)),
            "not be above that of the row before, but row 2 has token 1 at 0.5 after 0.25",
        ),
        (
            lambda: piecewise_linear(torch.cat([column(1, 0.5, 0.5, 0), column(1, 0.25, 0.5, 0)], 2)),
            "row 2 has element 1 of token 0 at 0.5 after 0.25",
        ),
        (lambda: hold_at(synchronous(2), torch.ones(2, 1) > 0, 1.5), r"levels in \[0, 1\], got 1.5"),
        (lambda: hold_at(synchronous(2), torch.ones(2, 1) > 0, math.nan), r"levels in \[0, 1\], got nan"),
        (lambda: hold_at(synchronous(2), torch.ones(2, 1) > 0, torch.tensor([0.5, -1.0])), "got -1"),
        (
            lambda: hold_at(synchronous(2), torch.ones(2, 1) > 0, torch.zeros(3, 1)),
            r"against known, \(2, 1\), got.*3, 1",
        ),
        (lambda: concatenate([]), "one path or more"),
        (lambda: concatenate([synchronous(2)], [1.0, 1.0]), "got 1 paths and shares"),
        (lambda: concatenate([synchronous(2)], [0.0]), "share above 0"),
        (lambda: concatenate([synchronous(2)], [math.nan]), "share above 0"),
        (lambda: concatenate([synchronous(2)], [math.inf]), "share above 0"),
        (lambda: concatenate([synchronous(2)] * 2, [1.0, 1e-9]), "millionth"),
        (lambda: concatenate([synchronous(2), synchronous(3)]), r"same tokens.*\(2, 1\), \(3, 1\)"),
        (lambda: concatenate([synchronous(2), synchronous(1)]), "same tokens"),
        (
            lambda: concatenate([synchronous(2), synchronous(2)]),
            "path 1 must begin where path 0 ends, but token 0 ends at 0 and begins at 1",
        ),
        (
            lambda: concatenate([hold_at(synchronous(2), torch.tensor([[False], [True]]), 0.5), synchronous(2)]),
            "token 0 ends at 0 and begins at 1",
        ),
        (lambda: product(product(synchronous(2), synchronous(3)), synchronous(4)), r"spatial path.*\(2, 3\)"),
        (lambda: product(synchronous(2), product(synchronous(2), synchronous(3))), r"element path.*\(2, 3\)"),
        (lambda: product(synchronous(2), hold_clean(synchronous(3), torch.ones(2, 3, 1) > 0)), "no batch axes"),
        (lambda: warp(synchronous(2), lambda s: s + 0.5), "clean end"),
        (lambda: warp(synchronous(2), lambda s: s * 0.5), "noise end"),
        (lambda: warp(synchronous(2), lambda s: s / s), "clean end"),
        (lambda: warp(synchronous(2), lambda s: s + (2 * torch.pi * s).sin()), "run back.* between s = 0.27"),
        (
            lambda: warp(synchronous(2), lambda s: s + 0 / (s - 0.5)),
            "run back, but fn falls, or is NaN, between s = 0.49",
        ),
        (lambda: check_monotone(synchronous(1), 1), "two points or more, got 1"),
        (lambda: check_monotone(lambda s: s[:, None]), "must return"),
        (
            lambda: check_monotone(lambda s: 1 - synchronous(2)(s), 5),
            "token 0 goes from 1 at s = 0 to 0.75 at s = 0.25",
        ),
        (lambda: check_monotone(lambda s: 2 * synchronous(2)(s), 5), "token 0 is at 1.5 at s = 0.75"),
        (lambda: check_monotone(lambda s: synchronous(2)(s) / 0.0, 5), "token 0 is at nan at s = 0"),
    ],
)
def test_impossible_paths_are_refused(make: Callable[[], Path], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_dtype_follows_the_argument() -> None:
    turn: Tensor = torch.tensor([0, 1, 2])
    known = torch.tensor([[True], [False], [False]])
    of = [staggered(turn), hold_at(synchronous(3), known, 0.3), logit_shift(torch.ones(3, 1, dtype=torch.float64))]
    for path in of:
        for dtype in (torch.float32, torch.float64):
            assert path(torch.ones((), dtype=dtype)).dtype == dtype
