"""Quality: images that are drawn, or were, compared with real ones."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from evaluate_features import features_said, some_others
from evaluate_images import Digest, batches_of
from evaluate_options import DRAWN
from evaluate_report import Grid, Section, said
from evaluate_task import Task, recorded
from torch import Generator, Tensor

from apd_generate import Recorder, Step, choose_classes, decoded, format_seeds, generate, labels_of
from apd_metrics import Estimate, Moments, Score, extract, quality
from apd_train.app import UsageError

NOTE = (
    "KID and FD are distances, the better the smaller they are; of the others the larger. Real against real is what a "
    "perfect model would reach."
)


@dataclass(frozen=True)
class Drawn:
    """Args:
    features: of the images.
    said: which they are, in words.
    record: the same for the file.
    cost: of drawing them, if they were drawn here.
    """

    features: Tensor
    said: str
    record: dict[str, Any]
    cost: dict[str, Any]


def quality_of(task: Task) -> Section:
    drawn = draw(task) if task.samples is None else read(task)
    real, seed = task.real, task.options.seed
    others = None
    if real.ours and (indices := some_others(task.images, len(drawn.features), seed)) is not None:
        rest = task.images.rest
        assert rest is not None
        with task.telling("features of other real images", "image") as tell:
            others = extract(task.extractor, batches_of(rest, indices), lambda done: tell(done, len(indices)))
    taken_with = {**task.extractor.record(), **real.record, **drawn.record}
    with task.console.status("distances …"):
        scores = score(drawn.features, real.samples, others, task.extractor.name, seed, taken_with)
    sizes = {(each.taken_with["floor_generated"], each.taken_with["floor_reference"]) for each in scores if each.floor}
    against = " and ".join(f"{some} real images against {rest}" for some, rest in sizes)
    return Section(
        metric="quality",
        title="Quality",
        head=f"{drawn.said}, compared with {real.said}",
        parts=(Grid(("", "value", "real against real"), tuple(map(_cells, scores))), NOTE),
        record={**drawn.record, **drawn.cost, "scores": [each.to_dict() for each in scores]},
        facts={
            "generated": f"{drawn.said}, SHA-256 of the pixels {drawn.record['images_sha256']}",
            **_facts(drawn),
            "reference": f"{real.said}, SHA-256 {real.sha256}",
            "features": features_said(task.extractor),
            "real against real": against or "not known: there are too few real images, or statistics only",
            "seed": str(seed),
        },
        warnings=tuple(f"{each.name}: {each.note}" for each in scores if each.note),
    )


def draw(task: Task) -> Drawn:
    """A seed an image, the classes in turns."""
    options, pretrained, recipe = task.options, task.model, task.recipes["quality"]
    count = options.images or DRAWN
    seeds = range(options.seed, options.seed + count)
    classes = () if options.unconditional else choose_classes(pretrained.class_names)
    digest, features, cost, seconds = Digest(), [], (0, 0), 0.0
    with task.telling("drawing", "image") as tell:
        for first in range(0, count, options.batch):
            some, films = seeds[first : first + options.batch], task.films()

            def on_step(
                step: Step, first: int = first, some: Sequence[int] = some, films: Sequence[Recorder] = films
            ) -> None:
                tell(first + len(some) * step.done / step.total, count)
                for film in films:
                    film(step)

            start = time.perf_counter()
            try:
                made = generate(
                    pretrained.model,
                    pretrained.patchify,
                    recipe,
                    some,
                    labels_of(classes, some),
                    batch=options.batch,
                    on_step=on_step,
                )
            except FloatingPointError as error:
                raise UsageError(f"{options.model} gives no images: {error}") from error
            images = made.images if task.codec is None else decoded(task.codec, pretrained, made.images)
            seconds += time.perf_counter() - start
            cost = max(cost[0], made.evaluations), max(cost[1], made.token_evaluations)
            images = images.clamp(-1, 1)  # strong guidance goes far beyond
            features.append(extract(task.extractor, digest.through(images.split(32))))
    record = {
        "images": count,
        "images_sha256": digest.hex,
        "seeds": format_seeds(seeds),
        "conditional": bool(classes),
        "recipe": recorded(recipe, bool(classes)),
    }
    costs = {"network_evaluations": cost[0], "token_evaluations": cost[1], "seconds_drawing": round(seconds, 3)}
    what = f"{count} images, seeds {record['seeds']}, {recipe.scheduler}, {recipe.steps} steps"
    return Drawn(torch.cat(features), what, record, costs)


def read(task: Task) -> Drawn:
    """That were drawn elsewhere."""
    assert task.samples is not None
    samples, digest = task.samples, Digest()
    with task.telling("features of the samples", "image") as tell:
        features = extract(task.extractor, digest.through(samples.batches()), lambda done: tell(done, samples.count))
    record = {"images": samples.count, "images_sha256": digest.hex, "samples": str(samples.place)}
    return Drawn(features, f"{samples.count} images of {samples.place}", record, {})


def score(
    generated: Tensor,
    reference: Tensor | Moments,
    others: Tensor | None,
    extractor: str,
    seed: int,
    taken_with: dict[str, Any],
) -> tuple[Score, ...]:
    """All metrics. The floor is that of the other real images, as many as are generated, against the same reference;
    without them, that of a part of the reference against the rest."""
    told: dict[str, Any] = {"extractor": extractor, "generator": Generator().manual_seed(seed)}
    if isinstance(reference, Moments):
        told["metrics"] = ("fd",)
    try:
        told_with = {**taken_with, "seed": seed}
        if others is None or isinstance(reference, Moments):
            return quality(generated, reference, taken_with=told_with, **told)
        scores = quality(generated, reference, taken_with=told_with, floors=False, **told)
        floors = quality(others, reference, floors=False, **told)
    except ValueError as error:
        raise UsageError(f"quality cannot be told: {error}") from error
    sizes = {"floor_generated": len(others), "floor_reference": len(reference)}
    return tuple(
        replace(each, floor=Estimate(floor.value, floor.standard_error), taken_with={**each.taken_with, **sizes})
        for each, floor in zip(scores, floors, strict=True)
    )


def _cells(score: Score) -> tuple[str, ...]:
    return score.name, said(Estimate(score.value, score.standard_error)), said(score.floor)


def _facts(drawn: Drawn) -> dict[str, str]:
    """How the images were drawn, if they were drawn here."""
    if not drawn.cost:
        return {}
    network, tokens, seconds = drawn.cost.values()
    return {
        "recipe": ", ".join(f"{name} {value}" for name, value in drawn.record["recipe"].items()),
        "cost": f"{network} network evaluations and {tokens} token evaluations an image, {seconds} seconds in all",
    }
