"""The dual loop: who goes ahead, how far, and when it is decided. What all schedulers have is in ``test_ordered``."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator

from apd_samplers import DDIM, DualLoop, FollowPath, sample
from apd_schedules import NoiseMap, Posterior, RectifiedFlow, synchronous
from scheduler_cases import Fixed, Turning, halves, rows_apart
from strategies import normals, seeds, tokens

SCHEDULE = RectifiedFlow()


@given(st.data(), tokens, st.integers(1, 3), st.integers(1, 4), st.floats(0, 1, exclude_max=True))
def test_levels_and_counts_are_as_documented(data: st.DataObject, n: int, outer: int, inner: int, share: float) -> None:
    which = torch.randint(3, (3, n), generator=Generator().manual_seed(data.draw(seeds)))
    start = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)[which]
    error = data.draw(normals(3, n)).round()  # some are equal
    loop = DualLoop(SCHEDULE, outer, inner, share, Fixed(error), start[..., None])
    z = data.draw(normals(3, n, 2))
    result = sample(halves, DDIM(), loop, z, trace=True)
    assert result.trace is not None

    moves = torch.zeros(3, n, dtype=torch.long)
    done = [torch.zeros(3, n, dtype=torch.float64)]
    ahead = torch.zeros(3, n, dtype=torch.bool)
    for row in range(3):
        unknown = sorted((i for i in range(n) if start[row, i] > 0), key=lambda i: float(error[row, i]))
        ahead[row, unknown[: min(round(share * len(unknown)), len(unknown) - 1)] if unknown else []] = True
    for k in range(outer):
        for substep in range(inner):
            done.append(torch.where(ahead, (k + 1) * inner, k * inner + substep + 1).double() / (outer * inner))
            moves += torch.where(ahead, int(substep == 0), 1)
    if not (start > 0).any():
        done = done[:1]
    expected = SCHEDULE((start * (1 - torch.stack(done))).clamp(min=0))
    torch.testing.assert_close(result.trace.log_snr[..., 0], expected, rtol=0, atol=1e-9)
    assert (result.trace.log_snr.diff(dim=0) >= 0).all()
    assert (result.noise.log_snr == SCHEDULE(torch.zeros((), dtype=torch.float64))).all()
    assert torch.equal(result.tokens[start == 0], z[start == 0])
    assert result.evaluations == len(done) - 1
    assert loop.max_steps == outer * inner
    assert torch.equal(result.token_updates, torch.where(start > 0, moves, 0))


@pytest.mark.parametrize(
    ("n", "share", "ahead"),
    [(1, 0.9, 0), (3, 0.4999999999, 1), (3, 0.5000000001, 2), (4, 0.99, 3), (5, 0.4, 2), (7, 0.5, 4), (100, 0.29, 29)],
)
def test_the_share_is_to_the_nearest_token(n: int, share: float, ahead: int) -> None:
    loop = DualLoop(SCHEDULE, 1, 2, share, Fixed(torch.arange(float(n)).flip(0)))
    assert sample(halves, DDIM(), loop, torch.zeros(n, 1)).token_updates.tolist() == [2] * (n - ahead) + [1] * ahead


def test_who_is_certain_is_decided_at_the_first_evaluation_of_an_outer_step() -> None:
    """Asked at every evaluation; tokens 0, 3 and 1 are least uncertain at those that count."""
    loop = DualLoop(SCHEDULE, 3, 3, share=0.2, uncertainty=Turning())
    result = sample(halves, DDIM(), loop, torch.zeros(2, 5, 1))
    assert result.token_updates.tolist() == [[7, 7, 9, 7, 9]] * 2


def test_the_others_see_the_certain_ones_ahead() -> None:
    seen: list[NoiseMap] = []

    def denoise(z: torch.Tensor, noise: NoiseMap) -> Posterior:
        seen.append(noise)
        return Posterior(0.5 * z, torch.tensor([[2.0, 1.0]]))

    sample(denoise, DDIM(), DualLoop(SCHEDULE, 2, 2, share=0.5), torch.zeros(1, 2, 1, dtype=torch.float64))
    levels = torch.stack([SCHEDULE.level_of(noise.log_snr)[0, :, 0] for noise in seen])
    expected = torch.tensor([[1, 1], [0.75, 0.5], [0.5, 0.5], [0.25, 0]], dtype=torch.float64)
    torch.testing.assert_close(levels, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("outer", "inner", "share"), [(6, 1, 0.5), (3, 2, 0.0), (2, 3, 0.1)])
def test_with_nobody_ahead_or_nothing_within_it_is_synchronous(outer: int, inner: int, share: float) -> None:
    z = torch.randn(2, 4, 1, generator=Generator().manual_seed(0), dtype=torch.float64)
    loop = sample(rows_apart, DDIM(), DualLoop(SCHEDULE, outer, inner, share), z)
    walk = sample(rows_apart, DDIM(), FollowPath(synchronous(4), SCHEDULE, 6), z)
    torch.testing.assert_close(loop.tokens, walk.tokens, rtol=0, atol=1e-12)


def test_where_everything_is_known_nothing_is_asked() -> None:
    z = torch.ones(2, 3, 1)
    result = sample(halves, DDIM(), DualLoop(SCHEDULE, 2, 2, start=torch.zeros(3, 1)), z)
    assert result.evaluations == 0
    assert torch.equal(result.tokens, z)


def test_refusals() -> None:
    for outer, inner in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match="at least one step"):
            DualLoop(SCHEDULE, outer, inner)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"share .* in \[0, 1\)"):
            DualLoop(SCHEDULE, 2, 2, share)
    with pytest.raises(ValueError, match="does not predict its error"):
        sample(halves, DDIM(), DualLoop(SCHEDULE, 2, 2), torch.zeros(1, 3, 1))
