"""What a noise level per token costs: our transformer, what others do and the limit, measured in one run.

    uv run python benchmarks/performance.py

prints a line for each comparison, puts the tables into docs/performance.md and everything into
docs/results/performance.json. How it is measured is said in docs/performance.md. Run it with nothing else running; on
two cores it takes about 40 minutes. With ``--quick`` (3 minutes) or ``--rows`` it only prints; ``--rows 10,13
--update`` puts these rows in the place of those on record, if machine and versions are the same.
"""

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # before torch: as in the apps

import torch
from performance_rows.active import dual_loop, finished_early, in_blocks, inpainting
from performance_rows.blocks import Blocks, blocks, equal
from performance_rows.cold_start import cold_start
from performance_rows.diffusers_peer import against_diffusers
from performance_rows.maps import maps
from performance_rows.networks import Network
from performance_rows.protocol import Machine
from performance_rows.report import (
    Entry,
    NotMeasured,
    as_json,
    as_markdown,
    as_text,
    from_json,
    put_between,
)
from performance_rows.sampling import alone, contexts, guided_batch
from performance_rows.trained import off
from performance_rows.training import training, update

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the benchmark at one size."""

    name: str
    measure: Callable[..., Iterator[Entry]]
    size: Blocks | Network
    steps: int | None = None

    def __call__(self, machine: Machine) -> Iterator[Entry]:
        """Entries as they come; what does not fit the device is said to be missing."""
        more = () if self.steps is None else (self.steps,)
        try:
            yield from self.measure(machine, self.size, *more)
        except torch.OutOfMemoryError:
            yield NotMeasured(self.name, self.size.name, "out of memory")


def on_cpu() -> list[Row]:
    """At sizes that two cores take: as many tokens as make a table of levels small beside them, and few blocks."""
    return [
        Row("0", equal, Blocks("S", 32, grid=256, seconds=30)),
        Row("3", blocks, Blocks("S", 128, seconds=90)),
        Row("3", blocks, Blocks("S", 32, grid=256, seconds=20, thorough=True)),
        Row("3", blocks, Blocks("B", 16, grid=128, seconds=40)),
        Row("4", maps, Network("S", 4, 4, seconds=10)),
        Row("5", training, Network("S", 16, 6, seconds=120)),
        Row("7", update, Network("S", 1, 4, seconds=15)),
        Row("8", alone, Network("S", 1), 6),
        Row("8", against_diffusers, Network("S", 1, seconds=20), 6),
        Row("9", guided_batch, Network("S", 4, 4), 4),
        Row("9", against_diffusers, Network("S", 4, 4, seconds=20), 4),
        Row("10", inpainting, Network("S", 1, seconds=15), 8),
        Row("10", inpainting, Network("S", 8, 3), 8),
        Row("11", dual_loop, Network("S", 1, seconds=15), 2),
        Row("11", dual_loop, Network("S", 8, 3, seconds=15), 2),
        Row("12", finished_early, Network("S", 4, 3), 16),
        Row("13", in_blocks, Network("S", 1, seconds=15), 8),
        Row("13", in_blocks, Network("S", 8, 3), 8),
        Row("14", contexts, Network("S", 1, seconds=15)),
        Row("14", contexts, Network("S", 8, 3, seconds=15)),
        Row("16", cold_start, Network("S", 1)),
    ]


def quickly() -> list[Row]:
    """Rows of most kinds, small: to see that it runs."""
    one, two = (Network("S", batch, 2, side=8, seconds=2) for batch in (1, 2))
    few = Blocks("S", 8, grid=64, seconds=4)
    return [
        *(Row("0", equal, few), Row("3", blocks, few), Row("5", training, two), Row("7", update, two)),
        *(Row("8", against_diffusers, one, 2), Row("10", inpainting, two, 4), Row("13", in_blocks, two, 4)),
        Row("14", contexts, one),
    ]


def on_gpu() -> list[Row]:
    """At the sizes that are trained, in bfloat16."""

    def xl(batch: int, seconds: float = 10.0) -> Network:
        return Network("XL", batch, seconds=seconds)

    return [
        Row("0", equal, Blocks("XL", 128, seconds=10)),
        *(Row("3", blocks, Blocks(size, 256, seconds=15, thorough=size == "B")) for size in ("S", "B", "XL")),
        Row("4", maps, Network("B", 64, seconds=5)),
        Row("5", training, Network("B", 256, seconds=30)),
        Row("5", training, xl(64, 60)),
        Row("7", update, xl(1)),
        *(Row("8", alone, xl(1, 30), 50), Row("8", against_diffusers, xl(1, 30), 50)),
        *(Row("9", guided_batch, xl(64, 30), 10), Row("9", against_diffusers, xl(64, 30), 10)),
        *(Row("10", inpainting, xl(batch), 16) for batch in (1, 8, 64)),
        *(Row("11", dual_loop, xl(batch), 4) for batch in (1, 64)),
        Row("12", finished_early, xl(64), 16),
        *(Row("13", in_blocks, xl(batch), 16) for batch in (1, 8)),
        *(Row("14", contexts, xl(batch)) for batch in (1, 64)),
        Row("16", cold_start, xl(1)),
    ]


WANTS_A_GPU = [
    NotMeasured("3", "S, B and XL, B = 256, bfloat16"),
    NotMeasured("5", "B, B = 256, and XL, B = 64, bfloat16, with the share of the matrix products' speed"),
    NotMeasured("7", "XL, 669 million parameters"),
    NotMeasured("8", "XL, B = 1, 50 steps, as CUDA graphs"),
    NotMeasured("9", "XL, B = 64"),
    *(NotMeasured(row, "XL, B = 1 and 64, bfloat16") for row in ("10", "11", "12", "13", "14")),
    NotMeasured("16", "XL"),
]


def machine_of(options: argparse.Namespace) -> Machine:
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # instead of going on in eager code
    compile = functools.partial(torch.compile, fullgraph=True)
    return Machine(
        torch.device(options.device), compile, options.patience, 0.02 if options.quick else 0.2, options.seed
    )


def described(machine: Machine) -> dict[str, Any]:
    """What the numbers depend on."""
    installed = {"torch", "triton", "diffusers", "numpy", "apd-models", "apd-samplers"}
    found = {each.metadata["Name"] for each in importlib.metadata.distributions()}
    return {
        "device": device_name(machine),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16 (autocast)" if machine.gpu else "float32",
        "seed": machine.seed,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in sorted(installed & found)},
        "environment": {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS") if name in os.environ},
    }


def device_name(machine: Machine) -> str:
    if machine.gpu:
        return torch.cuda.get_device_name(machine.device)
    info = Path("/proc/cpuinfo")
    names = [row.split(":")[1].strip() for row in info.read_text().splitlines() if row.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; writes nothing")
    parser.add_argument("--rows", default="", help="only these, such as 3,5; writes nothing unless --update")
    parser.add_argument("--update", action="store_true", help="with --rows: put them in the place of those on record")
    parser.add_argument("--trained", type=Path, help="a model folder: how far off leaving out tokens is on it")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the time of every comparison")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.update and (options.quick or options.trained or not options.rows):
        parser.error("--update goes with --rows, and without --quick and --trained")
    machine = machine_of(options)
    plan = quickly() if options.quick else on_gpu() if machine.gpu else on_cpu()
    results, document = DOCS / "results" / "performance.json", DOCS / "performance.md"
    kept = on_record(machine, results) if options.update else None
    began, chosen = time.perf_counter(), set(filter(None, options.rows.split(",")))
    wanted = lambda row: not chosen or row in chosen
    runs: list[Callable[[Machine], Iterator[Entry]]] = [row for row in plan if wanted(row.name)]
    if options.trained:
        runs.append(lambda machine: off(machine, options.trained))
    entries: list[Entry] = []
    for one in itertools.chain.from_iterable(run(machine) for run in runs):
        entries.append(one)
        print(f"{time.perf_counter() - began:6.0f} s  {as_text(one)}", flush=True)
    if not machine.gpu:
        entries += [one for one in WANTS_A_GPU if wanted(one.row)]
    seconds = round(time.perf_counter() - began)
    if kept is not None:
        write(machine.device.type, with_rows(kept, entries, seconds), results, document)
        return
    if options.quick or chosen:
        print(as_markdown(entries))
        return
    write(
        machine.device.type, {**described(machine), "seconds": seconds, "entries": as_json(entries)}, results, document
    )


def on_record(machine: Machine, results: Path) -> dict[str, Any]:
    """The record of this kind of device.

    Raises:
        SystemExit: what it was measured with is not what there is now.
    """
    record = json.loads(results.read_text())[machine.device.type]
    other = [name for name, now in described(machine).items() if record[name] != now]
    if other:
        raise SystemExit(f"the record has another {other[0]}, {record[other[0]]}: measure all rows")
    return record


def with_rows(record: dict[str, Any], entries: list[Entry], seconds: int) -> dict[str, Any]:
    """The record with these in the place of its entries of the same rows; its time grows by theirs."""
    new = as_json(entries)
    rows = {one["row"] for one in new}
    kept = [one for one in record["entries"] if one["row"] not in rows]
    return {**record, "seconds": record["seconds"] + seconds, "entries": [*kept, *new]}


def write(device: str, record: dict[str, Any], results: Path, document: Path) -> None:
    """Keeps one record for each kind of device, and shows all of them."""
    whole = {**(json.loads(results.read_text()) if results.exists() else {}), device: record}
    results.write_text(json.dumps(whole, indent=1) + "\n")
    put_between(document, shown(whole))


def shown(whole: dict[str, Any]) -> str:
    """Every record's tables."""
    parts = []
    for each in whole.values():
        versions = ", ".join(f"{name} {version}" for name, version in each["versions"].items())
        minutes = f"{each['seconds'] / 60:.0f} minutes"
        parts.append(
            f"### {each['device']}\n\n{each['precision']}, {each['threads']} threads, {minutes}; {versions}.\n"
        )
        parts.append(as_markdown(from_json(each["entries"])))
    return "\n".join(parts)


if __name__ == "__main__":
    main()
