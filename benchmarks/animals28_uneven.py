"""Uneven steps on a trained model of the embedded animals, whose uncertainty is read off its changing guess.

    uv run python benchmarks/animals28_uneven.py runs/animals28/model docs/results/animals28-uneven.json

Two measures of 400 samples without guidance: the share that a classifier recognises, and the Fréchet distance of the
classifier's 128 features to those of the training images (a distance of this classifier, comparable within this table
only).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from animal_classifier import AnimalClassifier, accuracy, train_classifier
from torch import Tensor

from apd_models import from_pretrained
from apd_samplers import DDIM, Changing, FollowPath, InferenceScheduler, PerSampleNoise, UncertaintyGuided, sample
from apd_schedules import RectifiedFlow, synchronous
from apd_train import hold_out, load_animals28

COUNT = 400


@torch.no_grad()
def moments(classifier: AnimalClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    features = torch.cat([classifier.layers[:-2](some) for some in images.split(256)]).double()
    return features.mean(0), features.T.cov()


def frechet(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """``|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½)``."""
    root = torch.linalg.eigvals(a[1] @ b[1]).real.clamp(min=0).sqrt().sum()
    return float((a[0] - b[0]).square().sum() + a[1].trace() + b[1].trace() - 2 * root)


def main(model: Path, out: Path) -> None:
    pretrained = from_pretrained(model)
    classifier, held_out_accuracy = train_classifier()
    training, held_out = hold_out(load_animals28(), 500)
    real = moments(classifier, training.squares())
    patchify, tokens = pretrained.patchify, pretrained.patchify.tokens
    labels = torch.arange(COUNT) % 10
    schedule, seen = RectifiedFlow(), Changing(variance=0.6)
    schedulers: list[tuple[str, InferenceScheduler[Any]]] = []
    for steps in (8, 16, 32):
        schedulers += [
            ("synchronous", FollowPath(synchronous(tokens), schedule, steps)),
            *(
                (
                    f"guided by level, patience {patience:g}",
                    UncertaintyGuided(schedule, steps, seen, patience=patience, tolerance=1e-3),
                )
                for patience in (0.0, 0.5, 1.0)
            ),
        ]
    schedulers += [("guided by nats, patience 0.5", UncertaintyGuided(schedule, 16, seen, pace="nats", tolerance=1e-3))]
    rows = []
    print("| scheduler | network evaluations | token evaluations a token | Fréchet distance | recognised |")
    print("| --- | --- | --- | --- | --- |")
    for name, scheduler in schedulers:
        start = time.perf_counter()
        z = PerSampleNoise(range(COUNT))(torch.empty(COUNT, tokens, patchify.token_dim))
        result = sample(pretrained.model, DDIM(), scheduler, z, label=labels)
        images = patchify.to_images(result.tokens).clamp(-1, 1)
        with torch.no_grad():
            share = accuracy(classifier, images, labels)
        row = {
            "scheduler": name,
            "evaluations": result.evaluations,
            "updates": result.token_updates.double().mean().item(),
            "frechet_distance": frechet(moments(classifier, images), real),
            "recognised": share,
            "seconds": round(time.perf_counter() - start, 1),
        }
        rows.append(row)
        print(
            f"| {name} | {result.evaluations} | {row['updates']:.1f} | {row['frechet_distance']:.2f} | "
            f"{100 * share:.1f} % |",
            flush=True,
        )
    floor = frechet(moments(classifier, held_out.squares()), real)
    record = {
        "samples": COUNT,
        "classifier_accuracy_on_held_out": held_out_accuracy,
        "frechet_distance_of_held_out_images": floor,
        "rows": rows,
        "weights": pretrained.weights,
        "torch": torch.__version__,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"held-out images: {floor:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
