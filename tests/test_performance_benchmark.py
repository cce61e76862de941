"""The performance benchmark: its protocol is exact, its peers compute what ours does, and its gates can fail."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import performance
import pytest
import torch
from performance_rows import active, blocks, cold_start, maps, peers, protocol, report, sampling, trained, training
from performance_rows.blocks import Blocks
from performance_rows.networks import Network, at, box, found, with_levels
from performance_rows.protocol import Machine, Side, Timings, WrongResult, compare
from performance_rows.report import Line, NotMeasured, Off
from torch import Generator, Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from apd_models import DiT, Patchify, dit_config, save_pretrained
from apd_models._config import SHAPES
from apd_models._modulation import distinct_levels
from apd_schedules import NoiseMap

AS_IT_IS: Callable[[Any], Any] = lambda run: run
MACHINE = Machine(torch.device("cpu"), AS_IT_IS, patience=0.0, sample=0.0)
TINY = Network("S", 2, 1, side=4)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.clock = self.processor = 0.0

    def perf_counter(self) -> float:
        return self.clock

    def process_time(self) -> float:
        return self.processor

    def work(self, seconds: float) -> None:
        self.clock += seconds
        self.processor += 2 * seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(protocol, "time", one)
    return one


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed here, and nothing compiled."""
    monkeypatch.setattr(protocol.gc, "collect", lambda: 0)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of size S is narrow, and two turns are enough."""
    monkeypatch.setitem(SHAPES, "S", (1, 32, 2))
    monkeypatch.setattr(protocol, "LEAST_PASSES", 2)


def normal(generator: Generator) -> tuple[Tensor]:
    return (torch.randn(3, generator=generator),)


# ------------------------------------------------------------------------------------------------------- the protocol


def test_sides_take_turns_forwards_and_backwards_and_ratios_are_taken_within_a_turn(clock: Clock) -> None:
    """A machine that slows down by a tenth from turn to turn: ratios within a turn do not notice."""
    order: list[str] = []

    def side(name: str, seconds: float) -> Side:
        def run(x: Tensor) -> Tensor:
            order.append(name)
            clock.work(seconds * 1.1 ** ((len(order) - 1) // 2))
            return x

        return Side(name, run)

    sides = [side("a", 1.0), side("b", 3.0)]
    timings = compare(replace(MACHINE, patience=1.0), sides, normal, seconds=0.0)
    taken = order[-2 * protocol.LEAST_PASSES :]
    assert taken[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert timings.ratios("b", "a") == pytest.approx([3.0] * protocol.LEAST_PASSES)
    assert timings.processor_ratios("b", "a") == pytest.approx([3.0] * protocol.LEAST_PASSES)
    assert timings.seconds["a"][1] > timings.seconds["a"][0]


@pytest.mark.parametrize(("seconds", "passes"), [(0.0, 6), (20.0, 10), (21.5, 10), (24.0, 12), (1e6, 40)])
def test_as_many_turns_as_fit_and_an_even_number(clock: Clock, seconds: float, passes: int) -> None:
    sides = [Side("a", lambda x: clock.work(0.5)), Side("b", lambda x: clock.work(1.5))]
    timings = compare(replace(MACHINE, patience=1.0), sides, normal, seconds)
    assert len(timings.seconds["a"]) == len(timings.seconds["b"]) == passes


def test_short_runs_are_repeated_and_inputs_rotate(clock: Clock) -> None:
    seen: list[float] = []

    def run(x: Tensor) -> None:
        seen.append(float(x[0]))
        clock.work(0.03)

    timings = compare(replace(MACHINE, sample=0.2), [Side("a", run)], normal, 0.0)
    assert timings.seconds["a"] == pytest.approx([0.03] * 6)
    assert timings.processor["a"] == pytest.approx([0.06] * 6)
    timed = seen[-6 * 7 :]  # seven of 0.03 s make 0.2 s
    sets = [float(normal(MACHINE.generator(k))[0][0]) for k in range(3)]
    assert timed == [sets[(turn + k) % 3] for turn in range(6) for k in range(7)]


def test_a_wrong_result_is_not_timed() -> None:
    right = lambda x: 2 * x.double()
    errors = compare(MACHINE, [Side("a", lambda x: 2 * x * (1 + 1e-6), right)], normal).errors
    assert errors["a"] == pytest.approx(1e-6, rel=0.2)
    nan = torch.tensor([1.0, 1.0, math.nan])
    for wrong in (lambda x: 2 * x * (1 + 1e-4), lambda x: 2 * x * nan, lambda x: -2 * x):
        with pytest.raises(WrongResult, match=r"relative error .*, tolerated is 1e-05"):
            compare(MACHINE, [Side("a", wrong, right)], normal)
    compare(MACHINE, [Side("a", lambda x: 2 * x * (1 + 1e-4), right, tolerance=1e-3)], normal)


def test_an_output_that_is_not_written_anew_is_found() -> None:
    """Right once, and then the same buffer again: as from a graph that is not replayed."""
    kept: list[Tensor] = []

    def stale(x: Tensor) -> Tensor:
        if not kept:
            kept.append(2 * x)
        return kept[0]

    with pytest.raises(WrongResult, match="relative error inf"):
        compare(MACHINE, [Side("a", stale, lambda x: 2 * x)], normal)
    same = lambda generator: (torch.ones(3),)  # even where the right answer never changes
    kept.clear()
    with pytest.raises(WrongResult, match="relative error inf"):
        compare(MACHINE, [Side("a", stale, lambda x: 2 * x)], same)


def test_checks_are_on_inputs_that_are_not_timed() -> None:
    checked: list[float] = []

    def reference(x: Tensor) -> Tensor:
        checked.append(float(x[0]))
        return x

    compare(MACHINE, [Side("a", lambda x: x, reference)], normal)
    assert not {float(normal(MACHINE.generator(k))[0][0]) for k in range(3)} & set(checked)


def test_compiling_while_timed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(counters["stats"], "unique_graphs", 0)
    calls = 0

    def late(x: Tensor) -> None:
        nonlocal calls
        calls += 1
        counters["stats"]["unique_graphs"] += calls in (1, 6)

    with pytest.raises(RuntimeError, match="compiled while a were timed"):
        compare(MACHINE, [Side("a", late)], normal)

    def always(x: Tensor) -> None:
        counters["stats"]["unique_graphs"] += 1

    with pytest.raises(RuntimeError, match="a is compiled anew again and again"):
        compare(MACHINE, [Side("a", always)], normal)


def test_spread_and_relative_error() -> None:
    assert protocol.spread([float(k) for k in range(11)]) == (5.0, 1.0, 9.0)
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert protocol.relative_error(b, a) == pytest.approx(0.1)
    assert protocol.relative_error([a, None, b], [a, None, a]) == pytest.approx(0.1)
    assert protocol.relative_error([b, a], [a, a]) == pytest.approx(0.1)
    assert protocol.relative_error(a * math.nan, a) == math.inf
    with pytest.raises(ValueError, match="argument 2 is longer"):
        protocol.relative_error([a], [a, a])


def test_memory_counts_each_storage_once_and_what_is_there_not_at_all() -> None:
    weight = nn.Parameter(torch.randn(8, 8))

    def run(x: Tensor) -> Tensor:
        hidden = (x @ weight.T).sigmoid()  # sigmoid keeps its result, 4 × 8 numbers, and the product below a view of it
        return (hidden * hidden.view(4, 8)).sum()

    x = torch.randn(4, 8, requires_grad=True)
    assert protocol.memory(MACHINE, run, (x,), [weight]) == 4 * 8 * 4
    assert protocol.memory(MACHINE, run, (x,), []) == 4 * 8 * 4 + 8 * 8 * 4


# ---------------------------------------------------------------------------------------------------------- the peers


def model(**options: Any) -> DiT:
    config = dit_config("S", Patchify(8, 8, 4, 2), depth=2, width=32, heads=2, **options)
    return peers.drawn_anew(DiT(config), 0).double().eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = Generator().manual_seed(1)
    z = torch.randn(batch, 16, 16, generator=generator, dtype=torch.float64)
    level = torch.rand(batch, 16, generator=generator, dtype=torch.float64)
    return z, at(level), torch.randint(4, (batch,), generator=generator)


def test_the_peers_are_our_model() -> None:
    ours, (z, log_snr, label) = model(classes=3), inputs()
    noise, same = NoiseMap(log_snr[..., None]), NoiseMap(log_snr[:, :1, None].expand(-1, 16, 1))
    per_token, per_sample = peers.Peer(ours, per_token=True), peers.Peer(ours, per_token=False)
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    close(per_token(z, noise, label).mean, ours(z, noise, label).mean)
    close(per_token(z, noise).mean, ours(z, noise).mean)
    close(per_sample(z, same, label).mean, ours(z, same, label).mean)
    levels = found(log_snr)
    close(with_levels(ours)(z, log_snr, levels.log_snr, levels.index, label).mean, ours(z, noise, label).mean)


def test_gradients_of_the_peers_are_ours() -> None:
    ours, (z, log_snr, _) = model(), inputs()
    noise = NoiseMap(log_snr[..., None])
    parameters = list(ours.parameters())
    mine = torch.autograd.grad(ours(z, noise).mean.square().sum(), parameters)
    theirs = torch.autograd.grad(peers.Peer(ours, per_token=True)(z, noise).mean.square().sum(), parameters)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_interpolating_a_table_is_projecting_what_is_interpolated() -> None:
    block = model().each_block[0]
    generator = Generator().manual_seed(2)
    x, features = (torch.randn(*s, 32, generator=generator, dtype=torch.float64) for s in ((3, 16), (5,)))
    index = torch.randint(4, (3, 16), generator=generator)
    weight = torch.rand(3, 16, generator=generator, dtype=torch.float64)
    found = peers.lerp_table(block, x, features, index, weight)
    torch.testing.assert_close(found, peers.lerp_per_token(block, x, features, index, weight), rtol=0, atol=1e-12)
    at_knots = peers.lerp_table(block, x, features, index, torch.zeros_like(weight))
    torch.testing.assert_close(at_knots, peers.table(block, x, features, index), rtol=0, atol=1e-12)


def test_each_side_does_the_work_that_it_stands_for() -> None:
    """Counted: products of a block, and what modulation adds to them per sample, per level and per token."""
    b, n, d, levels = 2, 16, 32, 3
    block, x, features = model().each_block[0].float(), torch.randn(b, n, d), torch.randn(b, n, d)
    index = torch.randint(levels, (b, n))

    def count(run: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    products = 2 * b * n * (12 * d * d + 2 * n * d)
    assert count(lambda: peers.products(block, x)) == products
    assert count(lambda: peers.per_sample_or_token(block, x, features[:, 0])) == products + 2 * b * 6 * d * d
    spare = 3  # rows of a table in evaluation
    table = 2 * (levels + spare) * 6 * d * d
    assert count(lambda: peers.table(block, x, features[0, :levels], index)) == products + table
    assert count(lambda: peers.per_sample_or_token(block, x, features)) == products + 2 * b * n * 6 * d * d


def test_weights_are_drawn_anew_all_of_them() -> None:
    torch.manual_seed(0)
    fresh = DiT(dit_config("S", Patchify(8, 8, 4, 2), depth=1, classes=2, error_head=True))
    before = {name: parameter.clone() for name, parameter in fresh.named_parameters()}
    for name, parameter in peers.drawn_anew(fresh, 0).named_parameters():
        assert (parameter != before[name]).double().mean() > 0.99, name
        assert parameter.ndim == 1 or parameter.std() > 0.02, name
    noise = NoiseMap(torch.zeros(1, 1))
    assert fresh(torch.randn(2, 16, 16), noise).mean.std() < 10


# ------------------------------------------------------------------------------------------------------------ the rows

SMALL = Blocks("S", 3, grid=5, side=4, thorough=True)
ROWS: dict[str, Callable[[], Iterator[Line]]] = {
    "0": lambda: blocks.equal(MACHINE, SMALL),
    "3": lambda: blocks.blocks(MACHINE, SMALL),
    "4": lambda: maps.maps(MACHINE, TINY),
    "5": lambda: training.training(MACHINE, replace(TINY, batch=4)),
    "7": lambda: training.update(MACHINE, TINY),
    "8": lambda: sampling.alone(MACHINE, replace(TINY, batch=1), 2),
    "9": lambda: sampling.guided_batch(MACHINE, TINY, 3),
    "10": lambda: active.inpainting(MACHINE, TINY, 2),
    "11": lambda: active.dual_loop(MACHINE, TINY, 1),
    "12": lambda: active.finished_early(MACHINE, TINY, 3),
    "13": lambda: active.in_blocks(MACHINE, TINY, 4),
    "14": lambda: sampling.contexts(MACHINE, TINY),
}
APPROXIMATE = ("known tokens as at first", "all anew", "ahead", "in turn", ", 4 steps")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("row", ROWS)
def test_rows_pass_their_own_gates(row: str) -> None:
    lines = list(ROWS[row]())
    assert {one.row.rstrip("c") for one in lines} == {row}
    for one in lines:
        exact = row not in ("10", "11", "12") or "one-way" in one.what
        assert one.error is not None
        assert one.error < (1e-4 if exact else 1.0)
        assert one.peer_error is not None
        assert one.peer_error < 1e-4
        assert one.pairs == 2


@pytest.mark.usefixtures("tiny")
def test_against_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    from performance_rows import diffusers_peer

    monkeypatch.setitem(diffusers_peer.SHAPES, "S", (1, 2, 16))
    for one in diffusers_peer.against_diffusers(MACHINE, replace(TINY, batch=1), 3):
        assert isinstance(one, Line)
        assert one.error is not None
        assert one.error < 1e-4
        assert one.peer_error is not None
        assert one.peer_error < 1e-4


def test_how_far_off_a_model_folder_is(tmp_path: Path) -> None:
    """With one-way attention not at all; both ways, the more the rarer all is computed anew."""
    patchify = Patchify(8, 8, 4, 2)
    for one_way in (True, False):
        one = DiT(dit_config("S", patchify, depth=2, width=32, heads=2, classes=2, one_way=one_way))
        with torch.no_grad():
            for parameter in peers.drawn_anew(one, 0).parameters():
                parameter.mul_(2)  # so that tokens attend to some more than to others
        save_pretrained(tmp_path / str(one_way), one, patchify, ("a", "b"), "random")
        found = list(trained.off(MACHINE, tmp_path / str(one_way), images=2, steps=4 if one_way else 8))
        assert len(found) == 15
        if one_way:
            assert max(max(each.output, each.tokens) for each in found) < 1e-4
        else:
            assert all(0 < each.share <= 1 for each in found)
            inpainting = found[:3]
            assert [each.refresh for each in inpainting] == [2, 4, 8]
            assert 1e-4 < inpainting[0].output < inpainting[2].output < 1
            assert inpainting[0].share > inpainting[1].share > inpainting[2].share


def test_cold_starts_compute_the_same() -> None:
    for kind in ("blocks", "whole"):
        seconds, processor, error = cold_start.start(MACHINE, TINY, kind)
        assert seconds > 0
        assert processor > 0
        assert error == 0


def test_what_is_checked_of_an_optimizer_is_two_steps_and_their_average() -> None:
    start = model().float()
    p0 = [each.detach().clone() for each in start.parameters()]
    generator = Generator().manual_seed(3)
    gradients = [torch.randn(each.shape, generator=generator) for each in p0]
    states = []
    plain = copy.deepcopy(start)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=training.RATE, foreach=False, fused=False)
    for factor in (1.0, -0.5):
        for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
            parameter.grad = factor * gradient
        optimizer.step()
        states.append([each.detach().clone() for each in plain.parameters()])
    slow = [0.9999 * (0.9999 * a + 1e-4 * b) + 1e-4 * c for a, b, c in zip(p0, *states, strict=True)]
    for fused, average in ((False, slow), (True, None)):
        found = training.two_updates(start, fused, gradients)
        count = len(p0)
        torch.testing.assert_close(found[:count], states[1], rtol=1e-6, atol=1e-7)
        if average is not None:
            torch.testing.assert_close(found[count:], average, rtol=1e-6, atol=1e-7)


def rolled(found: Any) -> Any:
    return replace(found, index=found.index.roll(1, -1))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("row", ["4", "5", "3"])
def test_rows_refuse_a_model_that_mixes_up_levels(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "distinct_levels", lambda log_snr: rolled(distinct_levels(log_snr)))
    for module in (maps, training):
        monkeypatch.setattr(module, "found", lambda log_snr: rolled(distinct_levels(log_snr)))
    with pytest.raises(WrongResult, match="table"):
        list(ROWS[row]())


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("row", ["3", "5"])
def test_rows_refuse_wrong_gradients(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of the second half does not learn."""
    right = peers.block

    def wrong(module: Any, x: Tensor, part: Callable[[int], Tensor]) -> Tensor:
        held = lambda k: part(k).detach() if x.dtype == torch.float32 and k == 5 else part(k)
        return right(module, x, held)

    monkeypatch.setattr(peers, "block", wrong)
    with pytest.raises(WrongResult, match="per sample"):
        list(ROWS[row]())


def test_maps_have_the_levels_that_they_are_named_for() -> None:
    of = Network("S", 3, side=8)
    count = {
        name: len(distinct_levels(draw(of, MACHINE, MACHINE.generator(0))).log_snr) for name, draw in maps.MAPS.items()
    }
    assert list(count.values()) == [1, 2, 2, 3, 3 * 64]
    assert (box(8, 3, torch.device("cpu")).float().mean(1) == 0.75).all()
    assert torch.equal(active._rings(8).unique(return_counts=True)[1], torch.tensor([28, 20, 12, 4]))


# ---------------------------------------------------------------------------------------------------------- the report

TIMINGS = Timings(
    {"us": [1.0, 2.0, 1.0], "them": [1.5, 3.0, 1.2], "limit": [0.5, 1.0, 0.5]},
    {"us": [2.0, 4.0, 2.0], "them": [2.0, 4.0, 2.0], "limit": [1.0, 1.0, 1.0]},
    {"us": 1e-6},
)
ENTRIES = [
    report.line("0", "equal", replace(TIMINGS), "us", "us"),
    report.line("3", "work", TIMINGS, "us", "them", goal=1.4, limit="limit", memory=0.5, note="Said once."),
    NotMeasured("3", "larger work"),
    NotMeasured("9", "other work"),
    Off("generation", 4, 0.5, 0.012, 0.034),
]


def test_a_line_says_how_much_faster_ours_is() -> None:
    one = ENTRIES[1]
    assert isinstance(one, Line)
    assert one.speed_up == pytest.approx((1.5, 1.26, 1.5))
    assert (one.milliseconds, one.processor, one.limit, one.pairs) == (1000.0, 1.0, 0.5, 3)
    assert (one.error, one.peer_error) == (1e-6, None)


@pytest.mark.parametrize(
    ("middle", "goal", "told"),
    [
        (1.04, None, "no difference"),
        (1.06, None, "faster"),
        (0.94, None, "slower"),
        (0.96, 0.95, "no difference; aim 0.95 met"),
        (1.3, 1.4, "faster; aim 1.40 missed"),
    ],
)
def test_no_claim_inside_what_two_equal_things_show(middle: float, goal: float | None, told: str) -> None:
    one = Line("3", "", "", "", 1.0, (middle, 0.5, 2.0), 1.0, 6, goal=goal)
    assert report.verdict(one, (1.0, 0.95, 1.05)) == told


def test_what_is_not_measured_has_no_number(tmp_path: Path) -> None:
    table = report.as_markdown(ENTRIES)
    assert "larger work: not measured: no GPU." in table
    assert table.count("Said once.") == 1
    (other,) = [part for part in table.split("**9.")[1:]]
    assert "|" not in other.split("**What")[0]
    assert len({row.count("|") for row in table.split("**3.")[1].split("**9.")[0].splitlines() if "|" in row}) == 1


def test_records_come_back_from_the_file(tmp_path: Path) -> None:
    assert report.from_json(json.loads(json.dumps(report.as_json(ENTRIES)))) == ENTRIES


def test_a_run_replaces_its_own_record_and_keeps_that_of_another_device(tmp_path: Path) -> None:
    results, document = tmp_path / "performance.json", tmp_path / "performance.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    record = {**performance.described(MACHINE), "seconds": 60, "entries": report.as_json(ENTRIES)}
    performance.write("cpu", {**record, "device": "A"}, results, document)
    performance.write("cuda", {**record, "device": "G"}, results, document)
    performance.write("cpu", {**record, "device": "C"}, results, document)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert [part.splitlines()[0] for part in text.split("### ")[1:]] == ["C", "G"]
    assert "old" not in text
    document.write_text("no markers")
    with pytest.raises(ValueError, match=r"needs .* once each, in this order"):
        performance.write("cpu", record, results, document)


def test_rows_measured_anew_take_the_place_of_those_on_record(tmp_path: Path) -> None:
    results = tmp_path / "performance.json"
    record = {**performance.described(MACHINE), "seconds": 60, "entries": report.as_json(ENTRIES)}
    results.write_text(json.dumps({"cpu": record}))
    before = performance.on_record(MACHINE, results)
    first = replace(next(one for one in ENTRIES if isinstance(one, Line)), ours="anew")
    after = performance.with_rows(before, [first], 5)
    found = report.from_json(after["entries"])
    assert after["seconds"] == 65
    assert [one for one in found if one.row == first.row] == [first]
    assert [one for one in found if one.row != first.row] == [one for one in ENTRIES if one.row != first.row]
    results.write_text(json.dumps({"cpu": {**record, "threads": 99}}))
    with pytest.raises(SystemExit, match="another threads, 99: measure all rows"):
        performance.on_record(MACHINE, results)


def test_every_row_is_planned_on_both_devices_and_named() -> None:
    rows = {"0", "3", "4", "5", *map(str, range(7, 15)), "16"}
    assert {row.name for row in performance.on_cpu()} == {row.name for row in performance.on_gpu()} == rows
    assert {one.row for one in performance.WANTS_A_GPU} < rows
    assert rows < set(report.TITLES)


def test_what_does_not_fit_is_said() -> None:
    def too_large(machine: Machine, size: Network) -> Iterator[Line]:
        raise torch.OutOfMemoryError("no")
        yield

    (one,) = performance.Row("5", too_large, TINY)(MACHINE)
    assert one == NotMeasured("5", TINY.name, "out of memory")


def test_the_page_shows_the_record() -> None:
    docs = Path(__file__).parents[1] / "docs"
    text = (docs / "performance.md").read_text(encoding="utf-8")
    shown = text.split(report.BEGIN)[1].split(report.END)[0].strip()
    results = docs / "results" / "performance.json"
    assert shown == (performance.shown(json.loads(results.read_text())).strip() if results.exists() else "")
