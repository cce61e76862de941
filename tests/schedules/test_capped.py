"""Capped paths: soft masks."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from apd_samplers import FollowPath
from apd_schedules import Posterior, RectifiedFlow, capped, check_monotone, hold_clean, sequential, synchronous
from strategies import masks, paths, tokens

S = torch.linspace(0, 1, 17, dtype=torch.float64)


@st.composite
def soft_masks(draw: st.DrawFn, *shape: int) -> Tensor:
    size = torch.Size(shape).numel()
    level = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0, allow_subnormal=False))
    return torch.tensor(draw(st.lists(level, min_size=size, max_size=size)), dtype=torch.float64).reshape(shape)


@given(st.data(), tokens, st.sampled_from([(), (2,)]), st.sampled_from([1, 3]))
def test_no_token_is_noisier_than_its_level(data: st.DataObject, n: int, batch: tuple[int, ...], e: int) -> None:
    path, levels = data.draw(paths(n)), data.draw(soft_masks(*batch, n, e))
    found = check_monotone(capped(path, levels), 17)(S)
    assert found.shape == (17, *batch, n, e)
    for k, s in enumerate(S):
        on_path = path(s)
        assert torch.equal(found[k], torch.where(on_path < levels, on_path, levels))
        assert torch.equal(capped(path, levels)(s), found[k])
    assert torch.equal(found[-1], levels)
    assert (found[0] == 0).all()


@given(st.data(), tokens)
def test_a_mask_of_zeros_and_ones_is_a_known_region(data: st.DataObject, n: int) -> None:
    path, known = data.draw(paths(n)), data.draw(masks(n))
    assert torch.equal(capped(path, (~known).float())(S), hold_clean(path, known)(S))


def test_kept_tokens_wait_for_the_path_to_come_by() -> None:
    levels = torch.tensor([[1.0], [0.3], [0.0]], dtype=torch.float64)
    found = capped(synchronous(3), levels)(S)
    assert torch.equal(found[:, 0, 0], S)
    assert torch.equal(found[S >= 0.3, 1, 0], torch.full_like(S[S >= 0.3], 0.3))
    assert torch.equal(found[S < 0.3, 1, 0], S[S < 0.3])
    assert (found[:, 2] == 0).all()


def test_a_walk_begins_at_the_mask_and_leaves_out_the_wait() -> None:
    levels, z = torch.tensor([[0.25], [0.1]]), torch.zeros(2, 1)
    walk = FollowPath(capped(synchronous(2), levels), RectifiedFlow(), 20)
    noise, state = walk.init(z)
    torch.testing.assert_close(noise.log_snr, RectifiedFlow()(levels.double()).float())
    steps = 0
    while not walk.finished(noise, state):
        noise, state = walk.next(noise, Posterior(z), state)
        steps += 1
    assert steps == 5
    assert torch.equal(noise.log_snr, RectifiedFlow()(torch.zeros(2, 1)))


@pytest.mark.parametrize(("level", "got"), [(1.5, "1.5"), (-0.5, "-0.5"), (torch.nan, "nan")])
def test_levels_outside_are_refused(level: float, got: str) -> None:
    with pytest.raises(ValueError, match=rf"levels in \[0, 1\], got {got}"):
        capped(sequential(torch.arange(2)), torch.tensor([[0.5], [level]]))
