"""Gate, residual, LayerNorm and modulation by level: chains of PyTorch operations against operators of their own.

    uv run python benchmarks/modulation_kernels.py

prints a line for each map and width, forward and with the backward pass, and puts all into
docs/results/modulation-kernels.json: how long each way takes over the plain chain run eagerly, within turns of one
process, and what it keeps for the backward pass. The first column is the plain chain against itself. On a GPU the
operators are Triton kernels, x is float32, the branch bfloat16, and the last column is a copy of as many bytes. The
sort of the map is not in it: all blocks of a model share one. Run it with nothing else running.
"""

import argparse
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from performance_rows.protocol import Machine, Side, compare, memory, spread
from torch import Generator, Tensor

from apd_models._fused import gated_norm
from apd_models._modulation import Rows
from apd_models._triton import Runs, runs_of

OUT = Path(__file__).parents[1] / "docs" / "results" / "modulation-kernels.json"
TOKENS = 256
PLAIN, AGAIN = "plain", "plain again (A/A)"
COPY = "copy of the bytes"
NO_GPU = "not measured: no GPU"


@dataclass(frozen=True, slots=True)
class Case:
    """Width, samples, distinct levels, and whether each token has its own or each sample."""

    width: int
    batch: int
    levels: int
    each: str = "token"


CPU = (
    *(Case(384, 4, levels) for levels in (1, 8, 64, 256, 1024)),
    *(Case(384, 4, 4, "sample"), Case(384, 32, 64), Case(768, 4, 64), Case(768, 32, 1024)),
)
GPU = tuple(Case(width, 256, levels) for width in (768, 1152) for levels in (1, 2, 64, 1024))


def draw(case: Case, machine: Machine, generator: Generator) -> tuple[Tensor, ...]:
    """Everything is random, gates too: at its start a model has gates of zero."""
    random = partial(torch.randn, generator=generator, device=machine.device)
    half = torch.bfloat16 if machine.gpu else torch.float32
    shape = (case.batch, TOKENS, case.width)
    x, branch, table = random(shape), random(shape).to(half), random(case.levels, 6, case.width)
    form = shape[:2] if case.each == "token" else (case.batch, 1)
    index = torch.randint(case.levels, form, generator=generator, device=machine.device)
    runs = runs_of(index, case.levels)
    for leaf in (x, branch, table):
        leaf.requires_grad_()
    return x, branch, table, index, runs.order, runs.offsets, random(shape), random(shape).to(half)


def chain(x: Tensor, branch: Tensor, rows: Rows, runs: Runs | None) -> tuple[Tensor, ...]:
    """The result is in the precision of the branch, as the next linear layer has it."""
    new, y = gated_norm(x, branch, rows, 2, 3, 4, runs)
    return new, y.to(branch.dtype)


def plain(x: Tensor, branch: Tensor, table: Tensor, index: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    return chain(x, branch, Rows(table, index), None)


def operators(
    x: Tensor, branch: Tensor, table: Tensor, index: Tensor, order: Tensor, offsets: Tensor, *_: Tensor
) -> tuple[Tensor, ...]:
    return chain(x, branch, Rows(table, index), Runs(order, offsets))


def in_float64(run: Callable[..., Any]) -> Callable[..., Any]:
    def wide(*inputs: Tensor) -> Any:
        return run(*(each.double().detach().requires_grad_() if each.is_floating_point() else each for each in inputs))

    return wide


def with_backward(run: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    def both(*inputs: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(*inputs), inputs[:3], inputs[-2:])

    return both


def copied(share: float) -> Callable[..., Tensor]:
    """Reads and writes as many bytes as ``share`` of x and the branch."""

    def run(x: Tensor, branch: Tensor, *_: Tensor) -> Tensor:
        return torch.empty(int(share * (x.nbytes + branch.nbytes)), dtype=torch.uint8, device=x.device).clone()

    return run


def measure(case: Case, machine: Machine, seconds: float) -> dict[str, Any]:
    """Ratios of times to those of the plain chain, and bytes kept."""
    ways = {
        PLAIN: plain,
        AGAIN: plain,
        "plain, compiled": machine.compile(plain),
        "operators": operators,
        "operators, compiled": machine.compile(operators),
    }
    # Forward: x and the branch are read, the sum and the norm written. Backward: the sum, the branch and two gradients
    # are read, two gradients written; the rest is small.
    record: dict[str, Any] = asdict(case)
    for name, wrap, share in (("forward", torch.no_grad(), 1), ("forward and backward", with_backward, 2.5)):
        sides = [Side(way, wrap(run), in_float64(wrap(plain))) for way, run in ways.items()]
        if machine.gpu:
            sides.append(Side(COPY, copied(share)))
        timings = compare(machine, sides, partial(draw, case, machine), seconds)
        record[name] = {
            "milliseconds of the plain chain": 1000 * spread(timings.seconds[PLAIN])[0],
            "over it": {side.name: spread(timings.ratios(side.name, PLAIN)) for side in sides[1:]},
            "relative errors": timings.errors,
        }
        if not machine.gpu:
            record[name]["over it"]["kernels"] = record[name]["over it"][COPY] = NO_GPU
    inputs = draw(case, machine, machine.generator(0))
    record["kept, in units of x"] = {
        way: memory(machine, run, inputs, ()) / inputs[0].nbytes for way, run in ways.items() if way != AGAIN
    }
    return record


def line(record: dict[str, Any], name: str) -> str:
    def cell(found: str | list[float]) -> str:
        return found if isinstance(found, str) else "{:.2f} ({:.2f} to {:.2f})".format(*found)

    cells = [f"{way} {cell(found)}" for way, found in record[name]["over it"].items()]
    at = f"width {record['width']}, {record['batch']}×{TOKENS} tokens, {record['levels']} levels by {record['each']}"
    return f"{name}, {at}: {record[name]['milliseconds of the plain chain']:.2f} ms; " + "; ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each comparison, compilation not counted")
    parser.add_argument("--cases", type=int, default=len(CPU), help="only so many of the maps")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = Machine(torch.device(options.device), partial(torch.compile, fullgraph=True), sample=0.02)
    name = torch.cuda.get_device_name() if machine.gpu else f"{platform.machine()}, {options.threads} thread(s)"
    found = []
    for case in (GPU if machine.gpu else CPU)[: options.cases]:
        found.append(measure(case, machine, options.seconds))
        for part in ("forward", "forward and backward"):
            print(line(found[-1], part), flush=True)
        print(f"  kept for the backward pass, in units of x: {found[-1]['kept, in units of x']}", flush=True)
    record = {"machine": f"{name}, torch {torch.__version__}", "tokens a sample": TOKENS, "maps": found}
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
