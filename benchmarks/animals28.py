"""Measures a model of the embedded animals: are they recognised, and are half-hidden ones completed?

uv run python benchmarks/animals28.py runs/animals28/model docs/results/animals28.json
"""

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from animal_classifier import AnimalClassifier, accuracy, train_classifier

from apd_generate import Given, Recipe, generate
from apd_models import Pretrained, from_pretrained
from apd_train import hold_out, load_animals28

STEPS = 50


def recognised(pretrained: Pretrained, classifier: AnimalClassifier, count: int = 200) -> dict[str, Any]:
    """Share of guided samples whose class the classifier finds, on a synchronous and on a raster path."""
    labels = torch.arange(count) % 10
    result: dict[str, Any] = {"samples": count, "guidance": 2.0}
    recipes = {
        "synchronous": Recipe(steps=STEPS, guidance=2.0),
        "raster, 16 cells": Recipe(order="raster", cells=4, steps=8 * 16, guidance=2.0),
    }
    for name, recipe in recipes.items():
        start = time.perf_counter()
        drawn = generate(pretrained.model, pretrained.patchify, recipe, range(count), labels)
        share = accuracy(classifier, drawn.images.clamp(-1, 1), labels)
        result[name] = {
            "accuracy": share,
            "standard_error": (share * (1 - share) / count) ** 0.5,
            "by_class": [accuracy(classifier, drawn.images[k::10].clamp(-1, 1), labels[k::10]) for k in range(10)],
            "network_evaluations": drawn.evaluations,
            "seconds": round(time.perf_counter() - start, 1),
        }
    return result


def completed(pretrained: Pretrained, shown: int, images: int = 100, seeds: int = 4) -> dict[str, Any]:
    """Squared error in the hidden part of held-out images, by the side from which ``shown`` of 28 pixels are shown.

    With 16 shown the border lies between tokens: four rows or columns of them are shown and three are hidden. With 14,
    half of the image, it runs through the middle ones, and the known part of these is put back at the noise level that
    they have (see :func:`apd_generate.generate`). The error is that of the hidden pixels alone.

    Native inpainting is compared with the mean of the training images and with replacement (Song et al. 2021,
    arXiv:2011.13456, appendix I): an ordinary synchronous generation whose known tokens are overwritten, before each
    evaluation, by the true ones at the level of the moment. Same network, noise, steps and labels.
    """
    patchify = pretrained.patchify
    training, held_out = hold_out(load_animals28(), 500)
    truth, labels = held_out.squares(range(images)), held_out.labels[:images]
    mean_image = training.squares().mean(0)
    rows, columns = torch.arange(28)[:, None].expand(28, 28), torch.arange(28)[None].expand(28, 28)
    sides = {"left": columns < shown, "right": columns >= 28 - shown, "top": rows < shown, "bottom": rows >= 28 - shown}
    many = lambda tensor: tensor.repeat(seeds, *[1] * (tensor.ndim - 1))
    result: dict[str, Any] = {"images": images, "seeds": seeds, "steps": STEPS, "guidance": 1.0}
    for name, known in sides.items():
        masks = many(known.expand(images, 28, 28))
        complete = lambda method, masks=masks: (
            generate(
                pretrained.model,
                patchify,
                Recipe(steps=STEPS, guidance=1.0, method=method),
                range(images * seeds),
                many(labels),
                given=Given(many(truth), masks),
            ).images
        )
        native, replaced = complete("native"), complete("replacement")
        error = lambda guess, known=known: (guess - many(truth))[..., ~known].square().mean((1, 2))
        each = error(native)
        one, two = native[:images], native[images : 2 * images]
        result[name] = {
            "native": each.mean().item(),
            "standard_error": (each.unflatten(0, (seeds, images)).mean(0).std() / images**0.5).item(),
            "replacement": error(replaced).mean().item(),
            "mean_image": error(mean_image.expand(images * seeds, 1, 28, 28)).mean().item(),
            "between_two_seeds": (one - two)[..., ~known].square().mean().item(),
            "shown_pixels_bit_equal": torch.equal(native[..., known], many(truth)[..., known]),
        }
    averaged = ("native", "replacement", "mean_image", "between_two_seeds")
    result["mean of the sides"] = {name: sum(result[side][name] for side in sides) / len(sides) for name in averaged}
    return result


def measure(model: Path) -> dict[str, Any]:
    """Everything about one model folder."""
    pretrained = from_pretrained(model)
    classifier, held_out_accuracy = train_classifier()
    return {
        "weights": pretrained.weights,
        "parameters": sum(p.numel() for p in pretrained.model.parameters()),
        "classifier_accuracy_on_held_out": held_out_accuracy,
        "recognised": recognised(pretrained, classifier),
        "completed, 16 of 28 shown": completed(pretrained, 16),
        "completed, 14 of 28 shown": completed(pretrained, 14),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: {sys.argv[0]} MODEL_FOLDER RESULT.json")
    text = json.dumps(measure(Path(sys.argv[1])), indent=2) + "\n"
    Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
    Path(sys.argv[2]).write_text(text, encoding="utf-8")
    print(text)
