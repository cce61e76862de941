"""What the generation loop adds to the network's own time, at DiT-S size on the CPU.

Fifty steps of ``sample`` against the same fifty forward calls on their own, at the same tokens and maps, in interleaved
pairs of one process. An A/A row (forward calls against forward calls) tells how far two equal things are apart here.
Run it with nothing else running:

    uv run python benchmarks/sampling_loop.py

prints the table and puts it into docs/results/sampling-loop.json.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from apd_models import DiT, DiTConfig
from apd_samplers import DDIM, Changing, DPMSolverPP2M, FollowPath, Progress, UncertaintyGuided, sample
from apd_schedules import NoiseMap, RectifiedFlow, raster, staggered, synchronous

STEPS = 50
OUT = Path(__file__).parents[1] / "docs" / "results" / "sampling-loop.json"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs for each row")
    parser.add_argument("--batch", type=int, default=1, help="images generated together")
    parser.add_argument("--side", type=int, default=8, help="tokens a side: 8 is DiT-S/4 of 32×32 latents, 16 DiT-S/2")
    options = parser.parse_args()
    torch.manual_seed(0)
    grid = (options.side, options.side)
    tokens = options.side**2
    model = DiT(DiTConfig(grid=grid, token_dim=16)).eval()
    z = torch.randn(options.batch, tokens, 16)
    schedule = RectifiedFlow()
    walks: dict[str, tuple[Any, Any]] = {
        "synchronous, DDIM": (DDIM(), FollowPath(synchronous(tokens), schedule, STEPS)),
        "staggered, DPM-Solver++(2M)": (
            DPMSolverPP2M(),
            FollowPath(staggered(raster(grid, 4, 4), 0.5), schedule, STEPS),
        ),
        "uncertainty-guided, DDIM": (DDIM(), UncertaintyGuided(schedule, STEPS, Changing())),
    }
    rows: dict[str, list[float]] = {}
    forward = 0.0
    for name, (solver, walk) in walks.items():
        seen: list[tuple[Tensor, NoiseMap]] = [(z, walk.init(z)[0])]

        def keep(now: Progress, seen: list[tuple[Tensor, NoiseMap]] = seen) -> None:
            seen.append((now.tokens, now.noise))

        sample(model, solver, walk, z, on_step=keep)  # also warms up

        @torch.no_grad()
        def bare(seen: list[tuple[Tensor, NoiseMap]] = seen) -> None:
            for at, noise in seen[:-1]:
                model(at, noise)

        whole = lambda solver=solver, walk=walk: sample(model, solver, walk, z)
        pairs = [(name, whole)] if rows else [("A/A: forward calls", bare), (name, whole)]
        for label, other in pairs:
            ratios = []
            for pair in range(options.pairs):
                order = (bare, other) if pair % 2 == 0 else (other, bare)
                times = [seconds(run) for run in order]
                own, added = times if pair % 2 == 0 else times[::-1]
                forward = own
                ratios.append(added / own - 1)
            rows[label] = ratios
            print(f"{label:36} {100 * median(ratios):+6.2f} %   {[f'{100 * r:+.2f}' for r in ratios]}", flush=True)
    record = {
        "added_by_the_loop": rows,
        "seconds_of_fifty_forward_calls": forward,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": options.batch,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    whole_record = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps({**whole_record, f"{tokens} tokens": record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
