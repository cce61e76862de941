"""What the cheap ways of conditioning cost in quality: small models on animals28, same data, seeds and budget.

The dear way is DiT's, said for each token: continuous levels, level and label added inside the nonlinearity before the
modulation. Against it, one change after another: levels gathered in cells (`snap`), the label's rows apart from the
level's, the label with the tokens; and of the last also one-way attention and rotary positions. Every run of a seed
sees the same images, noise and draws of levels; what is compared is the held-out loss of the averaged weights, its
noise the same for all, as differences within seeds.

    uv run python benchmarks/conditioning.py

prints the table and puts it into docs/results/conditioning.json. About 40 minutes on one core.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from lightning_fabric import Fabric

from apd_train import Animals28, RunFolder, TrainConfig, fit

OUT = Path(__file__).parents[1] / "docs" / "results" / "conditioning.json"
CONTINUOUS = 2**30
"""So many cells that no two levels of a batch meet in one."""

VARIANTS: dict[str, dict[str, Any]] = {
    "joint, continuous levels (DiT's, for each token)": {"conditioning": "joint", "level_bins": CONTINUOUS},
    "joint, levels in 256 cells": {"conditioning": "joint"},
    "separable, levels in 256 cells": {"conditioning": "separable"},
    "token, levels in 256 cells (the default)": {},
    "the default with one-way attention": {"one_way": True},
    "the default with rotary positions": {"position": "rope"},
}


def heldout_loss(config: TrainConfig) -> float:
    images = config.data.load(config.image_size)
    with tempfile.TemporaryDirectory() as folder:
        fabric = Fabric(accelerator="cpu", devices=1)
        trained = fit(config, images, RunFolder(Path(folder) / "run"), fabric)
    return trained.heldout_loss[1]


def row(found: list[float], reference: list[float]) -> dict[str, Any]:
    """Losses by seed, and the difference to the reference within seeds with its standard error."""
    apart = [a - b for a, b in zip(found, reference, strict=True)]
    error = stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
    return {"losses": found, "mean": mean(found), "difference": mean(apart), "standard_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each run")
    parser.add_argument("--seeds", type=int, default=4, help="runs of each way")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--out", type=Path, default=OUT, help="where the numbers go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = TrainConfig(
        data=Animals28(),
        image_size=28,
        width=96,
        depth=4,
        heads=3,
        steps=options.steps,
        warmup_steps=options.steps // 10,
        evaluate_every=options.steps,
    )
    start = time.perf_counter()
    losses: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for name, change in VARIANTS.items():
            losses[name].append(heldout_loss(dataclasses.replace(base, seed=seed, **change)))
            print(f"{time.perf_counter() - start:6.0f} s  seed {seed}  {losses[name][-1]:.4f}  {name}", flush=True)
    reference = next(iter(losses.values()))
    rows = {name: row(found, reference) for name, found in losses.items()}
    for name, numbers in rows.items():
        print(f"{name:50}  {numbers['mean']:.4f}  {numbers['difference']:+.4f} ± {numbers['standard_error']:.4f}")
    shape = {key: getattr(base, key) for key in ("width", "depth", "heads", "patch", "batch_size", "steps")}
    facts = {"torch": torch.__version__, "shape": shape, "seeds": options.seeds, "rows": rows}
    options.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
