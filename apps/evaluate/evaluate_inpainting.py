"""Inpainting: real images are hidden in part and completed, and compared with what was there."""

import time
from dataclasses import dataclass

import torch
from evaluate_features import features_said
from evaluate_filled import Filled, Measured, filled, measure, names_of
from evaluate_images import batches_of, sha256_of
from evaluate_report import Grid, Section, said
from evaluate_task import Task, count_of_completed, recorded
from torch import Generator, Tensor

from apd_generate import Given, MaskFamily, Step, decoded, draw_mask, format_seeds, generate, given_latents
from apd_metrics import Moments
from apd_models import Codec, without_hidden
from apd_train.app import UsageError
from apd_train.drawing import Dilated, dilation_within

MEASURED = 8
"""Images on which it is measured how far hiding moves latents."""

NOTE = (
    "Means over images, of each the mean over its completions. A completion is the closer, the smaller the feature "
    "distance and KID and the larger PSNR and SSIM; the mean of all real images is what a hole is filled with by who "
    "does not look. Completions that differ more from each other are not worse: where much is hidden, much is possible."
)
CLOSE = ("mask, filled by", "feature\ndistance", "PSNR in\nthe hole, dB", "SSIM in\nthe hole", "KID\n")
COST = ("mask\n", "hidden\n", "diversity,\nfeatures", "diversity,\npixels", "known pixels\nthat differ")
COST += ("largest\ndifference", "network\nevaluations", "token\nevaluations", "seconds\nan image")


@dataclass(frozen=True)
class Hidden:
    """Args:
    truth: the images.
    labels: of each, as the model counts them.
    indices: of the images among all real ones.
    mean: the mean of all real ones.
    """

    truth: Tensor
    labels: Tensor | None
    indices: list[int]
    mean: Tensor


def inpainting_of(task: Task) -> Section:
    options, images, real = task.options, task.images, task.real
    indices = images.evenly(count_of_completed(options, images))
    sums = sum(batch.double().sum(0) for batch in batches_of(images.chosen))
    assert isinstance(sums, Tensor)
    truth = images.chosen.squares(indices)
    hidden = Hidden(truth, images.labels(indices), indices, (sums / len(images.chosen)).to(truth))
    made = [complete(task, hidden, family) for family in dict.fromkeys(options.inpainting.masks)]
    others = None if isinstance(real.samples, Moments) else real.samples
    if others is not None and real.ours:  # not the images that the completed ones were made of
        others = others[torch.tensor([k for k in range(len(others)) if k not in {*indices}], dtype=torch.long)]
    with task.telling("features of the completions", "image") as tell:
        floor, rows = measure(task.extractor, truth, made, hidden.mean, others, tell)
    count, recipe, record = len(indices), task.recipes["inpainting"], task.extractor.record()
    told = recorded(recipe, hidden.labels is not None)
    names = names_of(task.extractor.name, count)
    seeds = format_seeds(range(options.seed, options.seed + count * options.inpainting.candidates))
    where = f"{0 if others is None else len(others)} of {real.said}" + (
        ", without those completed" if real.ours else ""
    )
    wrong = [each.family for each in made if each.differing]
    return Section(
        metric="inpainting",
        title="Inpainting",
        head=f"{count} {images.part} images of {images.name}, {options.inpainting.candidates} completions each, by "
        f"{recipe.method}, {recipe.scheduler}, {recipe.steps} steps; features of {task.extractor.name}",
        parts=(
            Grid(
                CLOSE, (("nothing hidden", "0", "", "1", said(floor)), *(_close(row) for pair in rows for row in pair))
            ),
            "",
            Grid(COST, tuple(_cost(each, row) for each, (row, _) in zip(made, rows, strict=True))),
            "",
            *[f"{each.family}: {each.grown.report}." for each in made if each.grown and each.grown.report],
            NOTE,
        ),
        record={
            "images": count,
            "images_sha256": sha256_of(truth),
            "candidates": options.inpainting.candidates,
            "seeds": seeds,
            "seed": options.seed,
            "conditional": hidden.labels is not None,
            "recipe": told,
            **record,
            **real.record,
            "reference_images": None if others is None else len(others),
            **({} if task.codec is None else options.latents.record),
            "names": names,
            "kid_of_real_images": None
            if floor is None
            else {"value": floor.value, "standard_error": floor.standard_error},
            "families": [each.record(*pair) for each, pair in zip(made, rows, strict=True)],
        },
        facts={
            "names": ", ".join(names.values()),
            "images": f"SHA-256 of the pixels {sha256_of(truth)}",
            "seeds": f"{seeds}, of the masks {options.seed}",
            "recipe": ", ".join(f"{name} {value}" for name, value in told.items()),
            "reference of KID": f"{where}, SHA-256 {real.sha256}",
            "features": features_said(task.extractor),
        },
        warnings=tuple(f"known pixels did not come back as they were: {family}" for family in wrong),
    )


def complete(task: Task, hidden: Hidden, family: MaskFamily) -> Filled:
    """Each image behind a mask of its own, so many times."""
    options, pretrained, truth = task.options, task.model, hidden.truth
    count, times = len(truth), options.inpainting.candidates
    seeded = Generator().manual_seed(options.seed)
    height, width = truth.shape[-2:]
    known = torch.stack([draw_mask(family, height, width, seeded) for _ in range(count)])
    given, seen, grown = Given(torch.where(known[:, None], truth, 0), known), None, None
    start = time.perf_counter()
    if task.codec is not None:
        grown = growth(task, task.codec, truth, known)
        latents = given_latents(task.codec, pretrained, truth, (~known).float(), grown.cells)
        given, seen = latents.given, latents.seen.repeat(times, 1, 1)
    labels = None if hidden.labels is None else hidden.labels.repeat(times)
    with task.telling(f"completing, {family}", "image") as tell:
        films = task.films()

        def on_step(step: Step) -> None:
            tell(count * times * step.done / step.total, count * times)
            for film in films:
                film(step)

        try:
            made = generate(
                pretrained.model,
                pretrained.patchify,
                task.recipes["inpainting"],
                range(options.seed, options.seed + count * times),
                labels,
                given=given.repeated(times),
                batch=options.batch,
                on_step=on_step,
            )
        except FloatingPointError as error:
            raise UsageError(f"{options.model} gives no images: {error}") from error
    images = made.images.unflatten(0, (times, count))
    if task.codec is not None:  # whose images are pasted into what is known, as apps/inpaint does
        pixels = decoded(task.codec, pretrained, made.images, seen).unflatten(0, (times, count))
        images = torch.where(known[:, None], truth, pixels)
    seconds = time.perf_counter() - start
    return filled(family, known, images, truth, made.evaluations, made.token_evaluations, seconds, grown)


def growth(task: Task, codec: Codec, truth: Tensor, known: Tensor) -> Dilated:
    """How far what is hidden grows for a model of latents: of a family of masks the same for all images."""
    told = task.options.latents
    if told.latent_dilate is not None:
        return Dilated(told.latent_dilate, told.bound, told.bound, None)
    images = without_hidden(truth, known)[:MEASURED]
    return dilation_within(told.bound, codec, task.model, images, known[:MEASURED])


def _close(row: Measured) -> tuple[str, ...]:
    return f"{row.family}, {row.filled_by}", *map(said, (row.distance, row.psnr, row.ssim, row.kid))


def _cost(made: Filled, row: Measured) -> tuple[str, ...]:
    return (
        made.family,
        f"{made.hidden:.0%}",
        said(row.feature_diversity),
        said(row.pixel_diversity),
        f"{made.differing} of {made.known_pixels}",
        f"{made.largest:g}",
        str(made.evaluations),
        str(made.token_evaluations),
        f"{made.seconds / made.images[:, :, 0, 0, 0].numel():.3f}",
    )
