"""Orders of generation: the law they sample, the order taken, levels and counts to the last digit."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from apd_samplers import DDIM, DualLoop, FollowPath, InferenceScheduler, MostCertainFirst, RoundRobin, sample
from apd_schedules import (
    Linear,
    NoiseMap,
    RectifiedFlow,
    checkerboard,
    coarse_to_fine,
    gaussian_texture,
    grouped,
    hilbert,
    one_by_one,
    ranked,
    raster,
    sequential,
    shuffled,
    sliding_window,
    spiral,
)
from oracles import Gaussian, autoregressive_covariance
from scheduler_cases import Fixed, Turning, first_move, halves, rows_apart, without_numbers
from strategies import normals, seeds, tokens

GRID = (2, 3)
N = 6
TEXTURE = gaussian_texture(GRID, length=1.5, grain=0.1)
MILD = Linear(clean=8.0, noise=-8.0)
FAR = Linear(clean=34.0, noise=-34.0)
AT_WILL = Fixed(torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 2.0]))
MASK = torch.tensor([1.0, 0.0, 0.6, 1.0, 1.0, 0.3]).double()[:, None]
Make = Callable[[int], InferenceScheduler[Any]]
TURNS = {
    "raster": raster(GRID),
    "spiral": spiral(GRID),
    "hilbert": hilbert(GRID),
    "checkerboard": checkerboard(GRID),
    "coarse to fine": coarse_to_fine(GRID),
    "shuffled": shuffled(raster(GRID), Generator().manual_seed(0)),
}
SCHEDULERS: dict[str, Make] = {
    **{name: lambda k, t=turn: FollowPath(sequential(t), MILD, (int(t.max()) + 1) * k) for name, turn in TURNS.items()},
    "window": lambda k: FollowPath(sliding_window(spiral(GRID), 3), MILD, 3 * k),
    "most certain first": lambda k: MostCertainFirst(MILD, 3, k),
    "overlap": lambda k: MostCertainFirst(MILD, 5, k, overlap=0.75, uncertainty=AT_WILL),
    "most uncertain first": lambda k: MostCertainFirst(MILD, N, k, uncertainty=AT_WILL, reverse=True),
    "completion": lambda k: MostCertainFirst(MILD, 3, k, uncertainty=AT_WILL, start=MASK),
    "round robin": lambda k: RoundRobin(MILD, 4 * k, 4),
    "round robin of a board": lambda k: RoundRobin(MILD, 2 * k, checkerboard(GRID), start=MASK),
    "dual loop": lambda k: DualLoop(MILD, k, 3, uncertainty=AT_WILL),
    "dual loop completion": lambda k: DualLoop(MILD, k, 2, uncertainty=AT_WILL, start=MASK),
}


def law(noise: NoiseMap) -> Tensor:
    """The exact covariance of the tokens at a map that all samples share."""
    alpha, sigma = (factor.reshape(-1, N)[0] for factor in (noise.alpha, noise.sigma))
    return alpha[:, None] * TEXTURE.cov * alpha + torch.diag(sigma.square())


def off(scheduler: InferenceScheduler[Any]) -> Tensor:
    """What the final covariance is off by, from the exact law at the first map.

    The denoiser is linear, so a run is a matrix: the rows of a root of the covariance are pushed through.
    """
    first, _ = scheduler.init(torch.zeros(N, N, 1, dtype=torch.float64))
    result = sample(TEXTURE, DDIM(), scheduler, torch.linalg.cholesky(law(first)).mT[..., None].contiguous())
    return result.tokens[..., 0].mT @ result.tokens[..., 0] - law(result.noise)


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_every_order_samples_the_data_at_first_order(make: Make) -> None:
    coarse, fine = off(make(16)), off(make(32))
    assert fine.abs().max() < 0.15
    assert (coarse.abs().max() / fine.abs().max()).log2() == pytest.approx(1, abs=0.15)
    assert (2 * fine - coarse).abs().max() < 0.02  # the first order gone, every entry is right


def test_a_chain_is_followed_outward_from_what_is_known() -> None:
    """Token 0 is known: tokens further on are ever less certain. And the reverse begins at the other end."""
    chain = Gaussian(6, seed=0)
    chain.exact = type(chain.exact)(autoregressive_covariance(6, 0.7))
    start = torch.tensor([0.0, 1, 1, 1, 1, 1])[:, None]
    z = torch.zeros(1, 6, 1, dtype=torch.float64)
    for groups, reverse, expected in (
        (5, False, [10, 0, 2, 4, 6, 8]),
        (3, False, [6, 0, 0, 2, 2, 4]),
        (2, True, [4, 2, 2, 0, 0, 0]),
    ):
        order = MostCertainFirst(FAR, groups, 2, start=start, reverse=reverse)
        trace = sample(chain, DDIM(), order, z, trace=True).trace
        assert trace is not None
        assert first_move(trace)[0].tolist() == expected


@pytest.mark.parametrize("seed", [1, 3, 5, 6])
@pytest.mark.parametrize("size", [1, 2])
def test_the_order_is_greedy_in_the_conditional_variance(seed: int, size: int) -> None:
    n, oracle = 8, Gaussian(8, seed)
    variance = lambda done, i: float(
        oracle.cov[i, i] - oracle.cov[i, done] @ torch.linalg.solve(oracle.cov[done][:, done], oracle.cov[done, i])
    )
    done, expected = [3], torch.full((n,), n // size)
    while left := [i for i in range(n) if i not in done]:
        chosen = sorted(left, key=lambda i: variance(done, i))[:size]
        expected[chosen] = (len(done) - 1) // size
        done += chosen
    blind = sorted(range(n), key=lambda i: variance([3], i) if i != 3 else 0)
    assert (expected[blind].diff() < 0).any()  # what is learned on the way matters
    start = torch.ones(n, 1)
    start[3] = 0
    order = MostCertainFirst(FAR, -(-(n - 1) // size), 1, start=start)
    z = torch.randn(2, n, 1, generator=Generator().manual_seed(seed), dtype=torch.float64)
    trace = sample(oracle, DDIM(), order, z, trace=True).trace
    assert trace is not None
    found = first_move(trace)
    found[:, 3] = n // size
    assert (found == expected).all(), (found, expected)


def test_uncertainty_is_asked_once_at_every_map() -> None:
    trace = sample(
        halves, DDIM(), MostCertainFirst(MILD, 5, 2, uncertainty=Turning()), torch.zeros(5, 1), trace=True
    ).trace
    assert trace is not None
    assert first_move(trace).tolist() == [0, 6, 2, 8, 4]  # tokens 0, 2, 4, 6 % 5, 8 % 5


@given(
    st.data(),
    tokens,
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9]),
    st.booleans(),
)
def test_levels_and_counts_are_as_documented(
    data: st.DataObject, n: int, groups: int, length: int, overlap: float, reverse: bool
) -> None:
    start = data.draw(levels(3, n))
    error = data.draw(normals(3, n)).round()  # some are equal
    order = MostCertainFirst(RectifiedFlow(), groups, length, overlap, Fixed(error), start[..., None], reverse)
    z = data.draw(normals(3, n, 2))
    result = sample(halves, DDIM(), order, z, trace=True)
    assert result.trace is not None

    begins = torch.full((3, n), 10**6)
    steps = 0
    for row in range(3):
        unknown = start[row] > 0
        if unknown.any():
            key = -error[row] if reverse else error[row]
            turn = grouped(one_by_one(ranked(key[unknown])), groups)
            begins[row, unknown] = torch.tensor([round(g * length * (1 - overlap)) for g in turn.tolist()])
            steps = max(steps, int(begins[row, unknown].max()) + length)
    done = (torch.arange(steps + 1)[:, None, None] - begins).clamp(0, length).double() / length
    expected = RectifiedFlow()(start * (1 - done))
    torch.testing.assert_close(result.trace.log_snr[..., 0], expected, rtol=0, atol=1e-9)
    check_run(result, z, start, steps, torch.where(start > 0, length, 0))
    assert order.max_steps == round((groups - 1) * length * (1 - overlap)) + length >= steps


@pytest.mark.parametrize(
    ("unknown", "overlap", "steps"),
    [((), 0.0, 0), ((0, 0), 0.0, 0), ((1, 0), 0.0, 4), ((2, 3), 0.0, 12), ((2, 3), 0.5, 8), ((6, 0), 0.5, 10)],
)
def test_a_batch_ends_with_the_image_that_has_most_to_do(unknown: tuple[int, ...], overlap: float, steps: int) -> None:
    """Of at most four groups of four steps, in which six tokens would take 16."""
    start = (torch.arange(6.0) < torch.tensor(unknown)[:, None]).float()[..., None]
    z = torch.zeros(len(unknown), 6, 1)
    result = sample(rows_apart, DDIM(), MostCertainFirst(RectifiedFlow(), 4, 4, overlap, start=start), z)
    assert result.evaluations == steps
    assert result.token_updates.sum(-1).tolist() == [4 * number for number in unknown]


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.3, 0.7, 0.8, 0.95])
def test_the_next_group_begins_when_the_ramp_is_at_the_overlap(overlap: float) -> None:
    order = MostCertainFirst(RectifiedFlow(), 3, 20, overlap, Fixed(torch.arange(3.0)))
    trace = sample(halves, DDIM(), order, torch.zeros(3, 1, dtype=torch.float64), trace=True).trace
    assert trace is not None
    level = RectifiedFlow().level_of(trace.log_snr[..., 0])
    at = first_move(trace)
    assert level[at[1], 0].item() == pytest.approx(overlap, abs=1e-9)
    assert level[at[2], 1].item() == pytest.approx(overlap, abs=1e-9)


@given(st.data(), tokens, st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_round_robin_is_as_documented(data: st.DataObject, n: int, groups: int, rounds: int, interleaved: bool) -> None:
    start = data.draw(levels(3, n))
    group = torch.arange(n) % groups
    if not interleaved:
        group = torch.tensor(data.draw(st.lists(st.integers(-2, 3), min_size=n, max_size=n)))
        groups = len(group.unique())
    order = RoundRobin(RectifiedFlow(), rounds * groups, groups if interleaved else group, start[..., None])
    z = data.draw(normals(3, n, 2))
    result = sample(halves, DDIM(), order, z, trace=True)
    assert result.trace is not None

    level, expected = start.clone(), [start]
    for turn in range(rounds):
        for g in sorted({int(group[i]) for i in range(n) if (start[:, i] > 0).any()}):
            level = torch.where(group == g, start * (1 - (turn + 1) / rounds), level)
            expected.append(level)
    torch.testing.assert_close(result.trace.log_snr[..., 0], RectifiedFlow()(torch.stack(expected)), rtol=0, atol=1e-9)
    check_run(result, z, start, len(expected) - 1, torch.where(start > 0, rounds, 0))
    assert order.max_steps == rounds * groups


@pytest.mark.parametrize(("known", "steps"), [([], 6), ([1], 6), ([1, 4], 4), ([0, 1, 3, 4], 2), (range(6), 0)])
def test_known_groups_take_no_turn(known: Sequence[int], steps: int) -> None:
    start = torch.ones(6, 1)
    start[[*known]] = 0
    result = sample(halves, DDIM(), RoundRobin(RectifiedFlow(), 6, 3, start), torch.zeros(2, 6, 1))
    assert result.evaluations == steps
    assert torch.equal(result.token_updates, 2 * start[:, 0].long().expand(2, 6))


@st.composite
def levels(draw: st.DrawFn, *shape: int) -> Tensor:
    """Known, half known and unknown tokens."""
    which = torch.randint(3, shape, generator=Generator().manual_seed(draw(seeds)))
    return torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)[which]


def check_run(result: Any, z: Tensor, start: Tensor, steps: int, updates: Tensor) -> None:
    """Known tokens untouched, monotone levels, an exact end, and the counts."""
    assert torch.equal(result.tokens[start == 0], z[start == 0])
    assert (result.trace.log_snr.diff(dim=0) >= 0).all()
    assert (result.noise.log_snr == RectifiedFlow()(torch.zeros((), dtype=torch.float64))).all()
    assert (result.evaluations, result.token_evaluations) == (steps, steps * z.shape[-2])
    assert torch.equal(result.token_updates, updates)


ROWS: dict[str, Callable[[Tensor], InferenceScheduler[Any]]] = {
    "ordered": lambda start: MostCertainFirst(MILD, 4, 3, 0.5, start=start),
    "round robin": lambda start: RoundRobin(MILD, 12, 4, start),
    "dual loop": lambda start: DualLoop(MILD, 4, 3, start=start),
}


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS.keys())
def test_a_sample_does_not_depend_on_its_company(make: Callable[[Tensor], InferenceScheduler[Any]]) -> None:
    """Alone it goes through the same maps but for those in which only others move, to the same tokens."""
    z = torch.randn(4, 7, 1, generator=Generator().manual_seed(0), dtype=torch.float64)
    start = torch.ones(4, 7, 1, dtype=torch.float64)
    start[1, 2:], start[2, ::2], start[3] = 0, 0, 0
    together = sample(rows_apart, DDIM(), make(start), z, trace=True)
    assert together.trace is not None
    orders = set()
    for row in range(4):
        alone = sample(rows_apart, DDIM(), make(start[row : row + 1]), z[row : row + 1], trace=True)
        assert alone.trace is not None
        assert alone.evaluations <= together.evaluations
        maps = together.trace.log_snr[:, row].unique_consecutive(dim=0)
        assert torch.equal(maps, alone.trace.log_snr[:, 0].unique_consecutive(dim=0))
        assert torch.equal(together.token_updates[row], alone.token_updates[0])
        torch.testing.assert_close(together.tokens[row], alone.tokens[0], rtol=0, atol=1e-12)
        orders.add(tuple(first_move(alone.trace)[0].tolist()))
    assert len(orders) > 1


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS.keys())
def test_a_step_reads_no_number_and_stays_on_its_device(make: Callable[[Tensor], InferenceScheduler[Any]]) -> None:
    """The host need not wait for a device: all steps go through where there are no numbers."""
    z = torch.randn(2, 5, 3, generator=Generator().manual_seed(0))
    scheduler: Any = make(torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0])[:, None])
    noise, state = scheduler.init(z)
    z, noise, state = z.to("meta"), NoiseMap(noise.log_snr.to("meta")), without_numbers(state)
    while not scheduler.finished(noise, state):
        noise, state = scheduler.next(noise, rows_apart(z, noise), state)
    assert (noise.log_snr.device.type, noise.log_snr.dtype) == ("meta", torch.float32)


def test_one_group_is_synchronous_generation() -> None:
    z = torch.randn(2, 4, 1, generator=Generator().manual_seed(0), dtype=torch.float64)
    alone = sample(rows_apart, DDIM(), MostCertainFirst(RectifiedFlow(), 1, 6), z).tokens
    walk = sample(
        rows_apart, DDIM(), FollowPath(lambda s: s[..., None, None].expand(*s.shape, 4, 1), RectifiedFlow(), 6), z
    )
    torch.testing.assert_close(alone, walk.tokens, rtol=0, atol=1e-12)


def test_refusals() -> None:
    schedule, z = RectifiedFlow(), torch.zeros(1, 4, 1)
    for groups, length in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match="at least one group and one step a group"):
            MostCertainFirst(schedule, groups, length)
    for overlap in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"in \[0, 1\)"):
            MostCertainFirst(schedule, 2, 2, overlap)
    for steps, groups in ((4, 0), (0, 2), (5, 2), (3, torch.tensor([0, 1, 1, 0]))):
        with pytest.raises(ValueError, match="multiple"):
            RoundRobin(schedule, steps, groups)
    with pytest.raises(ValueError, match="groups are of 3 tokens, z has 4"):
        RoundRobin(schedule, 4, torch.tensor([0, 1, 0])).init(z)
    for make in ROWS.values():
        with pytest.raises(ValueError, match="levels in"):
            make(torch.full((4, 1), 1.5)).init(z)
    with pytest.raises(ValueError, match="does not predict its error"):
        sample(halves, DDIM(), MostCertainFirst(schedule, 2, 2), z)
