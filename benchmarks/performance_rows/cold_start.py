"""Row 16 of the benchmark: seconds to the first result, the whole network compiled or its one block.

Each start is a process of its own with an empty cache:

    python -m performance_rows.cold_start blocks --size S --side 16
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from apd_models._modulation import distinct_levels

from .networks import Network, at, with_levels
from .protocol import Machine, Timings, relative_error
from .report import Line, line

Kind = Literal["blocks", "whole"]


def start(machine: Machine, of: Network, kind: Kind) -> tuple[float, float, float]:
    """Seconds and processor seconds to the first result, and its relative error."""
    model = of.model(machine)
    z = of.normal(machine, machine.generator(0))
    log_snr = at(torch.rand(of.batch, of.tokens, generator=machine.generator(1), device=machine.device))
    levels = distinct_levels(log_snr)
    inputs = z, log_snr, levels.log_snr, levels.index
    run = with_levels(model)
    with torch.no_grad():
        eager = run(*inputs).mean
        if kind == "blocks":
            for block in model.blocks:
                block.forward = machine.compile(block.forward)
        else:
            run = machine.compile(run)
        clock, processor = time.perf_counter(), time.process_time()
        found = run(*inputs).mean
        if machine.gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - clock, time.process_time() - processor, relative_error(found, eager)


def cold_start(machine: Machine, of: Network, starts: int = 2) -> Iterator[Line]:
    timings = Timings({"blocks": [], "whole": []}, {"blocks": [], "whole": []}, {})
    order: list[Kind] = ["blocks", "whole"]
    for turn in range(starts):
        for kind in order if turn % 2 == 0 else reversed(order):
            clock, processor, error = _apart(machine, of, kind)
            timings.seconds[kind].append(clock)
            timings.processor[kind].append(processor)
            timings.errors[kind] = max(error, timings.errors.get(kind, 0.0))
    what = f"{of.name}, first forward pass"
    yield line("16", what, timings, "blocks", "whole", goal=4.0)


def _apart(machine: Machine, of: Network, kind: Kind) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "performance_rows.cold_start", kind, "--device", str(machine.device)]
        sizes = ["--size", of.size, "--side", str(of.side), "--batch", str(of.batch), "--depth", str(of.depth or 0)]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
        folder = Path(__file__).parents[1]
        done = subprocess.run([*command, *sizes], env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a cold start failed: {done.stderr.strip()[-300:]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("blocks", "whole"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", default="S")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--depth", type=int, default=0)
    options = parser.parse_args()
    asked = Network(options.size, options.batch, options.depth or None, options.side)
    print(json.dumps(start(Machine(torch.device(options.device)), asked, options.kind)))
