"""A path runs from noise to clean, never back, in the order it was given."""

import pytest
import torch
from hypothesis import example, given, strategies as st
from torch import Tensor

from apd_schedules import hold_clean, sequential, staggered, synchronous, warp
from strategies import masks, paths, tokens, turns


@given(st.data(), tokens, st.sampled_from([torch.float32, torch.float64]))
def test_from_exactly_noise_to_exactly_clean_and_never_back(data: st.DataObject, n: int, dtype: torch.dtype) -> None:
    levels = data.draw(paths(n))(torch.linspace(1, 0, 257, dtype=dtype))
    assert levels.shape == (257, n, 1)
    assert levels.dtype == dtype
    assert (levels[0] == 1).all()
    assert (levels[-1] == 0).all()
    assert (levels.diff(dim=0) <= 0).all()


@given(st.data(), tokens, st.floats(0.05, 1.0))
@example(data=None, n=1, width=1.0)
def test_an_earlier_turn_is_never_noisier(data: st.DataObject | None, n: int, width: float) -> None:
    turn = data.draw(turns(n)) if data else torch.zeros(1, dtype=torch.long)
    for path in (staggered(turn, width), sequential(turn)):
        levels = path(torch.linspace(1, 0, 65, dtype=torch.float64))[..., 0]
        by_turn = levels[:, turn.argsort()]
        assert (by_turn.diff(dim=-1) >= 0).all()


def test_staggered_of_width_one_is_synchronous() -> None:
    s = torch.linspace(1, 0, 33, dtype=torch.float64)
    torch.testing.assert_close(staggered(torch.tensor([2, 0, 1]), 1.0)(s), synchronous(3)(s))


def test_sequential_moves_one_turn_at_a_time() -> None:
    path = sequential(torch.tensor([1, 0, 2, 1]))
    s = torch.tensor([5 / 6, 0.5, 1 / 6], dtype=torch.float64)
    expected = torch.tensor([[1, 0.5, 1, 1], [0.5, 0, 1, 0.5], [0, 0, 0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(path(s)[..., 0], expected)


def test_each_token_takes_the_width_it_was_given() -> None:
    levels = staggered(torch.arange(4), 0.3)(torch.linspace(1, 0, 10_001, dtype=torch.float64))[..., 0]
    moving = ((levels > 0) & (levels < 1)).double().mean(0)
    torch.testing.assert_close(moving, torch.full((4,), 0.3, dtype=torch.float64), rtol=0, atol=3e-4)


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


def test_warp_changes_the_speed_alone() -> None:
    path = staggered(torch.arange(3), 0.5)
    s = torch.linspace(0, 1, 11)
    assert torch.equal(warp(path, torch.square)(s), path(s**2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synchronous(0), "at least one token"),
        (lambda: staggered(torch.tensor([0, 2]), 0.5), "none left out"),
        (lambda: staggered(torch.tensor([0, 1]), 0.0), "width"),
        (lambda: staggered(torch.tensor([0, 1]), 1.5), "width"),
        (lambda: sequential(torch.tensor([1, 2])), "none left out"),
        (lambda: sequential(torch.tensor([], dtype=torch.long)), "none left out"),
        (lambda: warp(synchronous(2), lambda s: s + 0.5), "clean end"),
        (lambda: warp(synchronous(2), lambda s: s * 0.5), "noise end"),
    ],
)
def test_impossible_paths_are_refused(make: "object", message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # pyrefly: ignore


def test_dtype_follows_the_argument() -> None:
    turn: Tensor = torch.tensor([0, 1, 2])
    for dtype in (torch.float32, torch.float64):
        assert staggered(turn)(torch.ones((), dtype=dtype)).dtype == dtype
