"""An error head for a trained model of the embedded animals: does it know what it does not know, and does that help?

    uv run python benchmarks/error_head.py runs/animals28/model docs/results/error-head.json

Adds a head to the model (one that has a head is taken as it is) and compares predicted with actual errors on held-out
images. Then uneven steps (`UncertaintyGuided`) by what the head predicts and by how the guess changes, with the
measures of `animals28_uneven.py`; a token that waits costs no update, so updates of a token are counted too.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from animal_classifier import accuracy, train_classifier
from animals28_uneven import COUNT, frechet, moments
from lightning_fabric import Fabric
from torch import Generator

from apd_models import Calibration, Pretrained, calibration, from_pretrained
from apd_samplers import (
    DDIM,
    Changing,
    FollowPath,
    InferenceScheduler,
    LevelSampler,
    PerSampleNoise,
    Predicted,
    UncertaintyGuided,
    sample,
    shared,
    uniform,
)
from apd_schedules import NoiseMap, RectifiedFlow, synchronous
from apd_train import (
    Animals28,
    ImageSet,
    RunFolder,
    TrainConfig,
    asynchronous,
    fit_error_head,
    hold_out,
    load_animals28,
)

TRAINING_STEPS = 400
LOOKS = 6
STEPS = 16


def with_head(pretrained: Pretrained) -> tuple[Pretrained, dict[str, Any]]:
    """The model with a head, and what it took."""
    start = time.perf_counter()
    config = TrainConfig(data=Animals28(), image_size=28, steps=TRAINING_STEPS)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        fabric = Fabric(accelerator="cpu", devices=1)
        trained = fit_error_head(pretrained, config, load_animals28(), folder, fabric)
        facts = {
            "steps": trained.steps,
            "batch_size": config.batch_size,
            "heldout_error_nll": trained.heldout_error_nll,
            "seconds": round(time.perf_counter() - start, 1),
        }
        return from_pretrained(folder.model), facts


def calibrated(pretrained: Pretrained, held_out: ImageSet, levels: LevelSampler) -> Calibration:
    """On all held-out images, each at some noise maps."""
    x, generator = pretrained.patchify.to_tokens(held_out.squares()), Generator().manual_seed(0)
    maps = NoiseMap(RectifiedFlow()(levels(LOOKS * len(x), generator)).unflatten(0, (LOOKS, len(x))))
    eps = torch.randn(LOOKS, *x.shape, generator=generator)
    batches = [slice(start, start + 50) for start in range(0, len(x), 50)]
    first, *others = (
        calibration(
            pretrained.model, x[some], NoiseMap(maps.log_snr[:, some]), eps[:, some], label=held_out.labels[some]
        )
        for some in batches
    )
    return sum(others, first)


def sampled(pretrained: Pretrained, training: ImageSet, held_out: ImageSet) -> dict[str, Any]:
    """Samples without guidance, in equally many steps."""
    classifier, held_out_accuracy = train_classifier()
    real = moments(classifier, training.squares())
    patchify, tokens = pretrained.patchify, pretrained.patchify.tokens
    labels, schedule = torch.arange(COUNT) % 10, RectifiedFlow()
    schedulers: dict[str, InferenceScheduler[Any]] = {
        "synchronous": FollowPath(synchronous(tokens), schedule, STEPS),
        **{
            f"{name}, patience {patience:g}": UncertaintyGuided(
                schedule, STEPS, uncertainty, patience=patience, tolerance=1e-3
            )
            for patience in (0.5, 1.0)
            for name, uncertainty in (("changing", Changing(variance=0.6)), ("predicted", Predicted()))
        },
    }
    rows: list[dict[str, Any]] = []
    for name, scheduler in schedulers.items():
        z = PerSampleNoise(range(COUNT))(torch.empty(COUNT, tokens, patchify.token_dim))
        result = sample(pretrained.model, DDIM(), scheduler, z, label=labels)
        images = patchify.to_images(result.tokens).clamp(-1, 1)
        with torch.no_grad():
            row = {
                "scheduler": name,
                "evaluations": result.evaluations,
                "updates": result.token_updates.double().mean().item(),
                "frechet_distance": frechet(moments(classifier, images), real),
                "recognised": accuracy(classifier, images, labels),
            }
        rows.append(row)
        print(
            f"{name:24} {row['evaluations']} evaluations, {row['updates']:.1f} updates a token, Fréchet distance "
            f"{row['frechet_distance']:.2f}, {100 * row['recognised']:.1f} % recognised",
            flush=True,
        )
    return {
        "samples": COUNT,
        "classifier_accuracy_on_held_out": held_out_accuracy,
        "frechet_distance_of_held_out_images": frechet(moments(classifier, held_out.squares()), real),
        "rows": rows,
    }


def main(model: Path, out: Path) -> None:
    pretrained = from_pretrained(model)
    training, held_out = hold_out(load_animals28(), 500)
    record: dict[str, Any] = {}
    if pretrained.model.error is None:
        pretrained, record["training"] = with_head(pretrained)
        print(record["training"], flush=True)
    grid = pretrained.patchify.grid
    tables: dict[str, Any] = {"images": len(held_out), "maps_an_image": LOOKS}
    for name, levels in (
        ("synchronous", shared(pretrained.patchify.tokens, uniform())),
        ("as trained", asynchronous(grid)),
    ):
        found = calibrated(pretrained, held_out, levels)
        print(f"\n{name}\n{found}\n", flush=True)
        tables[name] = found.record()
    record["calibration"] = tables
    record["sampling"] = sampled(pretrained, training, held_out)
    record |= {"weights": pretrained.weights, "torch": torch.__version__, "threads": torch.get_num_threads()}
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:] or ("runs/animals28/model", "docs/results/error-head.json")))
