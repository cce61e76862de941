"""How two pieces of code are compared: checked first, then timed in turns.

Every side is first held against a reference on inputs that it has not seen, with its earlier output overwritten by NaN,
so that a stale buffer cannot pass. Then all sides run in turns within one process, forwards and backwards (A B B A), on
input sets that rotate. Ratios are taken within a turn, where the machine was in one state, and their median is
reported with the 10th and 90th percentile.
"""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch._dynamo.utils import counters

Inputs = tuple[Any, ...]
Draw = Callable[[Generator], Inputs]
SETS = 3
LEAST_PASSES, MOST_PASSES = 6, 40


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it runs, and how much time a comparison may take.

    Args:
        compile: :func:`torch.compile`, or the identity in tests.
        patience: factor on the seconds of every comparison.
        sample: seconds that one timing lasts at least.
        seed: of inputs and weights.
    """

    device: torch.device
    compile: Callable[..., Any] = torch.compile
    patience: float = 1.0
    sample: float = 0.2
    seed: int = 0

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 on the GPU, float32 on the CPU."""
        # Without its cache of weights, which a CUDA graph would outlive.
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if self.gpu else contextlib.nullcontext()

    def tolerance(self, single: float) -> float:
        """Of a relative error: what is given for float32, or that of bfloat16 through a network."""
        return max(0.1, single) if self.gpu else single

    def generator(self, seed: int) -> Generator:
        return Generator(self.device).manual_seed(1000 * self.seed + seed)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared.

    Args:
        run: timed, and given an input set.
        reference: what ``check`` should give, from the same inputs, in float64 or float32. Without it, a side is a
            limit: some of the work, whose result means nothing.
        check: what is held against the reference, if it is not ``run`` itself.
        tolerance: relative error in float32 up to which it passes.
    """

    name: str
    run: Callable[..., Any]
    reference: Callable[..., Any] | None = None
    check: Callable[..., Any] | None = None
    tolerance: float = 1e-5


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of each side in each turn, on the clock and of the processor, and the errors found before."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def ratios(self, above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(self.seconds[above], self.seconds[below], strict=True)]

    def processor_ratios(self, above: str, below: str) -> list[float]:
        return [a / b for a, b in zip(self.processor[above], self.processor[below], strict=True)]


class WrongResult(RuntimeError):
    """A side does not compute what it should; it is not timed."""


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    middle, low, high = np.quantile(values, [0.5, 0.1, 0.9])
    return float(middle), float(low), float(high)


def relative_error(found: Any, wanted: Any) -> float:
    """The largest, over the tensors of a result, of ``|found - wanted| / |wanted|`` in the Euclidean norm."""
    pairs = list(zip(tensors_of(found), tensors_of(wanted), strict=True))
    worst = 0.0
    for a, b in pairs:
        a, b = a.detach().double(), b.detach().double()
        error = float((a - b).norm() / b.norm())
        worst = math.inf if math.isnan(error) else max(worst, error)
    return worst


def tensors_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [each for each in result if each is not None]


def compare(machine: Machine, sides: Sequence[Side], draw: Draw, seconds: float = 30.0) -> Timings:
    """Checks all sides, then times them in turns for about ``seconds``.

    Raises:
        WrongResult: a side is further from its reference than its tolerance.
        RuntimeError: something was compiled while it was timed.
    """
    torch.compiler.reset()  # what was compiled for one comparison must not crowd out another
    sets = [draw(machine.generator(seed)) for seed in range(SETS)]
    fresh = draw(machine.generator(SETS))
    timings = Timings()
    longest = {}
    with machine.precision():
        for side in sides:
            _warm_up(side, sets)
            timings.errors.update(_checked(machine, side, sets[0], fresh))
            longest[side.name] = _once(machine, side, sets[0])[0]
            timings.seconds[side.name], timings.processor[side.name] = [], []
        repeats = {name: max(1, math.ceil(machine.sample / took)) for name, took in longest.items()}
        whole = sum(repeats[name] * took for name, took in longest.items())
        passes = min(MOST_PASSES, max(LEAST_PASSES, 2 * round(seconds * machine.patience / whole / 2)))
        compiled = _compiled()
        gc.collect()
        gc.disable()
        try:
            for turn in range(passes):
                for side in sides if turn % 2 == 0 else reversed(sides):
                    clock, processor = _timed(machine, side, sets, turn, repeats[side.name])
                    timings.seconds[side.name].append(clock)
                    timings.processor[side.name].append(processor)
        finally:
            gc.enable()
    if _compiled() != compiled:
        raise RuntimeError(f"something was compiled while {', '.join(side.name for side in sides)} were timed")
    return timings


def _warm_up(side: Side, sets: Sequence[Inputs]) -> None:
    """Until two runs in a row compile nothing."""
    quiet = 0
    for k in range(12):
        before = _compiled()
        side.run(*sets[k % len(sets)])
        quiet = quiet + 1 if _compiled() == before else 0
        if quiet == 2:
            return
    raise RuntimeError(f"{side.name} is compiled anew again and again")


def _compiled() -> int:
    return counters["stats"]["unique_graphs"]


def _checked(machine: Machine, side: Side, seen: Inputs, fresh: Inputs) -> dict[str, float]:
    if side.reference is None:
        return {}
    check = side.check or side.run
    for stale in tensors_of(check(*seen)):
        stale.detach().fill_(math.nan)
    found = check(*fresh)
    with torch.autocast(machine.device.type, enabled=False):
        error = relative_error(found, side.reference(*fresh))
    tolerance = machine.tolerance(side.tolerance)
    if not error <= tolerance:
        raise WrongResult(f"{side.name}: relative error {error:.1e}, tolerated is {tolerance:.0e}")
    return {side.name: error}


def _once(machine: Machine, side: Side, inputs: Inputs) -> tuple[float, float]:
    return _timed(machine, side, [inputs], 0, 1)


def _timed(machine: Machine, side: Side, sets: Sequence[Inputs], first: int, repeats: int) -> tuple[float, float]:
    """Seconds of one run, by the clock (on a GPU by its events) and of the processor, all threads."""
    processor = time.process_time()
    if machine.gpu:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for k in range(repeats):
            side.run(*sets[(first + k) % len(sets)])
        end.record()
        torch.cuda.synchronize()
        clock = start.elapsed_time(end) / 1000
    else:
        begin = time.perf_counter()
        for k in range(repeats):
            side.run(*sets[(first + k) % len(sets)])
        clock = time.perf_counter() - begin
    return clock / repeats, (time.process_time() - processor) / repeats


def memory(machine: Machine, run: Callable[..., Any], inputs: Inputs, there: Iterable[Tensor]) -> int:
    """Bytes that a step needs beside its inputs: on a GPU the peak, on a CPU what is kept for the backward pass.

    What is kept is counted by storage, so that views of one tensor count once.

    Args:
        there: tensors that are there anyway, such as parameters.
    """
    if machine.gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with machine.precision():
            run(*inputs)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    kept: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage is freed and its address used again
    known = {each.untyped_storage().data_ptr() for each in (*inputs, *there) if isinstance(each, Tensor)}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(*inputs)
    return sum(kept.values())


def graphed(run: Callable[..., Tensor], inputs: Inputs) -> Callable[..., Tensor]:
    """``run`` as a CUDA graph: each call copies its inputs into place and replays."""
    static = tuple(each.clone() for each in inputs)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run(*static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(*static)

    def replay(*fresh: Tensor) -> Tensor:
        for place, each in zip(static, fresh, strict=True):
            place.copy_(each)
        graph.replay()
        return out

    return replay
