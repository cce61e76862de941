"""What a run costs beside its network: a step of `fit` against the same network in a bare loop.

    uv run python benchmarks/training_step.py

The bare loop has its batches ready and does the forward and backward pass, clips, and steps PyTorch's own optimizers.
A step of `fit` also draws images, noise and levels, goes through Fabric, guards against gradients that are not finite,
averages the weights over two windows, gathers losses by level and writes its metrics. Both train the default model;
rounds of ten steps alternate in one process, and a second bare loop stands for how far equal things lie apart. Also:
the time that a batch takes by itself, and time and size of a checkpoint. Prints the numbers and writes
docs/results/training_step.json. About 5 minutes on two cores, with nothing else running.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # before torch: as in the apps

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from apd_train import Animals28, Batches, Checkpoints, Execution, Progress, RunFolder, TrainConfig, fit
from apd_train._model import clipped_apart, divided, make_model
from apd_train._step import LossModule

ROUND = 10
"""Steps between reports, and between turns of the two."""
OUT = Path(__file__).parents[1] / "docs" / "results" / "training_step.json"


def bare_loop(config: TrainConfig, ready: Sequence[tuple[torch.Tensor, ...]]) -> Callable[[], None]:
    """A step without anything that is not training."""
    training, _, patchify = divided(config, config.data.load(config.image_size))
    module = LossModule(make_model(config, training, patchify))
    model = module.model
    matrices = [p for name, p in model.blocks.named_parameters() if p.ndim == 2 and "modulation" not in name]
    chosen = {id(p) for p in matrices}
    optimizers = [
        torch.optim.Muon(matrices, lr=config.learning_rate, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], lr=config.learning_rate, fused=True),
    ]
    batches = itertools.cycle(ready)
    (group,) = clipped_apart(model)

    def step() -> None:
        losses, _ = module(*next(batches))
        losses.sum().backward()
        nn.utils.clip_grad_norm_(group, config.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def ratio(some: list[float], others: list[float]) -> list[float]:
    """Middle, and the middle half's bounds, of the ratios within rounds."""
    ratios = [a / b for a, b in zip(some, others, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return [median(ratios), low, high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help=f"of {ROUND} steps of each kind")
    parser.add_argument("--out", type=Path, default=OUT, help="where the numbers go")
    options = parser.parse_args()
    never = 10**9
    config = TrainConfig(data=Animals28(), image_size=28, log_every=ROUND, evaluate_every=never)
    config = replace(config, steps=ROUND * (options.rounds + 1))
    images = config.data.load(28)
    training, _, patchify = divided(config, images)
    batches = Batches(config, training, patchify)
    drawn = [batches(k) for k in range(8)]
    ready = [(b.x, b.eps, b.draw.noise.log_snr, b.draw.weight, b.label) for b in drawn]
    bare = [bare_loop(config, ready) for _ in range(2)]
    for step in bare:
        step()
    times: dict[str, list[float]] = {name: [] for name in ("fit", "bare", "bare again")}
    back = time.perf_counter()

    def on_progress(progress: Progress) -> None:
        """After each round of `fit`, one of each bare loop; these take turns in who is first."""
        nonlocal back
        took = time.perf_counter() - back
        turn = progress.step // ROUND % 2
        for k in (turn, 1 - turn):
            times["bare again" if k else "bare"].append(seconds(lambda k=k: [bare[k]() for _ in range(ROUND)]))
        times["fit"].append(took)
        back = time.perf_counter()

    with tempfile.TemporaryDirectory() as place:
        folder, fabric = RunFolder(Path(place) / "run"), Fabric(accelerator="cpu", devices=1)
        fit(config, images, folder, fabric, on_progress, execution=Execution(checkpoint_every=never))
        (saved,) = folder.checkpoints.glob("step-*/*.safetensors")
        tensors, again = load_file(saved), Checkpoints(Path(place) / "again")
        saves = [seconds(lambda k=k: again.save(k, tensors, {})) for k in range(1, 6)]
        size = sum(file.stat().st_size for file in saved.parent.iterdir())
    times = {name: each[1:-1] for name, each in times.items()}  # the first evaluation, and the last, are none of it
    alone = [seconds(lambda k=k: batches(k)) for k in range(50)]
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rounds": len(times["fit"]),
        "milliseconds_a_step": {name: 1000 * median(each) / ROUND for name, each in times.items()},
        "fit_to_bare": ratio(times["fit"], times["bare"]),
        "bare_to_bare": ratio(times["bare again"], times["bare"]),
        "batch_milliseconds": 1000 * median(alone),
        "checkpoint_milliseconds": 1000 * median(saves),
        "checkpoint_megabytes": size / 1e6,
    }
    print(json.dumps(record, indent=1))
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
