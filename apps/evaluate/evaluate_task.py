"""What the metrics are given: the model, the images, and what they are compared by."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from evaluate_features import Real, extractor_of, real_of, reference_file_of
from evaluate_images import Images, Kind, choose_images
from evaluate_options import COMPLETED, FEWEST, OF_KNOWN, Metric, Options
from evaluate_progress import telling
from evaluate_samples import Samples, samples_of
from rich.console import Console
from torch import Tensor

from apd_generate import Recipe, Recorder
from apd_metrics import Extractor
from apd_models import Codec, Pretrained, from_pretrained
from apd_train.app import UsageError
from apd_train.drawing import codec_of

FRAMES, DECODED_FRAMES = 60, 12
"""That the strip of noise maps is chosen from; of a model of latents each is decoded."""
SMALLEST = 8
"""Pixels a side: brush strokes need as many, and SSIM six."""


@dataclass(frozen=True)
class Task:
    """Args:
    pretrained: None where samples are looked at that were drawn elsewhere.
    codec: the autoencoder of a model of latents.
    chosen: real images; None where a file of them suffices.
    recipes: of the metrics that draw, with every default filled in.
    compared: by what images are compared, and with what; None where none are.
    samples: that were drawn elsewhere.
    recorder: of the first image that is drawn or completed.
    """

    options: Options
    console: Console
    pretrained: Pretrained | None
    codec: Codec | None
    chosen: Images | None
    recipes: dict[Metric, Recipe]
    compared: tuple[Extractor, Real] | None
    samples: Samples | None
    recorder: Recorder | None = None

    def films(self) -> Sequence[Recorder]:
        """What is to be told of the steps of the next images: the recorder, if it has seen none."""
        return [] if self.recorder is None or self.recorder.frames() else [self.recorder]

    @property
    def model(self) -> Pretrained:
        assert self.pretrained is not None
        return self.pretrained

    @property
    def images(self) -> Images:
        assert self.chosen is not None
        return self.chosen

    @property
    def extractor(self) -> Extractor:
        assert self.compared is not None
        return self.compared[0]

    @property
    def real(self) -> Real:
        assert self.compared is not None
        return self.compared[1]

    def telling(self, what: str, unit: str) -> AbstractContextManager[Callable[[float, int], None]]:
        """See :func:`evaluate_progress.telling`."""
        return telling(self.console, what, unit)


def task_of(options: Options, console: Console) -> Task:
    """What the options come to; it changes nothing, and refuses whatever can be refused before the long work begins."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pretrained = None if options.model is None else from_pretrained(options.model, device)
    recipes, codec = {}, None
    if options.model is not None and pretrained is not None:
        codec = codec_of(options.latents.codec, options.model, pretrained, device)
        options.latents.check_against(codec)
        recipes = _recipes(options, pretrained, codec)
    samples = None if options.quality.samples is None else samples_of(options.quality.samples, options.images)
    compares = bool({"quality", "inpainting"} & {*options.metric})
    extractor = extractor_of(options.comparison, device) if compares else None
    file = options.comparison.reference
    reference = None if file is None or extractor is None else reference_file_of(file, extractor)
    images = None
    if options.needs_data:
        if pretrained is not None:
            kind = Kind.of(pretrained, codec, options.unconditional)
        else:
            assert samples is not None
            kind = Kind(None, samples.height, samples.width, ())
        with telling(console, "reading images", "image") as tell:
            images = choose_images(kind, options.data, options.all, tell, options.held_out)
        for line in images.chosen.skipped[:5]:
            console.print(f"skipped {line}", style="yellow")
        if len(images.chosen.skipped) > 5:
            console.print(f"… and {len(images.chosen.skipped) - 5} more", style="yellow")
        if set(options.metric) != {"quality"}:
            images.evenly(options.images)
    compared = None
    if extractor is not None:
        with telling(console, "features of the real images", "image") as tell:
            compared = extractor, real_of(extractor, reference, images, tell)
        real = compared[1].samples
        if "quality" in options.metric and isinstance(real, Tensor) and len(real) < FEWEST:
            raise UsageError(
                f"quality compares with {FEWEST} real images at least, and there are {len(real)}: see --all"
            )
    recorder = None
    if pretrained is not None and recipes:
        recorder = Recorder(pretrained.patchify, most=FRAMES if codec is None else DECODED_FRAMES)
    return Task(options, console, pretrained, codec, images, recipes, compared, samples, recorder)


def recorded(recipe: Recipe, conditional: bool) -> dict[str, Any]:
    """A recipe for the file; where no class is told, none guides."""
    return (recipe if conditional else recipe.without_class()).to_dict()


def count_of_completed(options: Options, images: Images) -> int:
    return min(COMPLETED, len(images.chosen)) if options.images is None else options.images


def _recipes(options: Options, pretrained: Pretrained, codec: Codec | None) -> dict[Metric, Recipe]:
    """Raises UsageError too where the model has not what a metric asks of it."""
    if codec is not None and "bits-per-dim" in options.metric:
        raise UsageError(
            f"bits-per-dim bounds the likelihood of images, and {options.model} makes latents: say --metric "
            "latent-bits-per-dim, which is that of latents, or quality"
        )
    if codec is None and "latent-bits-per-dim" in options.metric:
        raise UsageError(f"latent-bits-per-dim is for models of latents, and {options.model} makes images")
    if "calibration" in options.metric and pretrained.model.error is None:
        raise UsageError(
            f"{options.model} has no error head to calibrate: apps/train --error-head-of {options.model} adds one"
        )
    drawing: dict[Metric, Recipe] = {}
    if options.draws:
        whole = Recipe()
        drawing["quality"] = replace(options.drawing, **{name: getattr(whole, name) for name in OF_KNOWN})
    if "inpainting" in options.metric:
        drawing["inpainting"] = options.drawing
    kind = Kind.of(pretrained, codec, True)
    if "inpainting" in drawing and min(kind.height, kind.width) < SMALLEST:
        raise UsageError(
            f"inpainting takes images of {SMALLEST}×{SMALLEST} pixels or more, and {options.model} makes "
            f"{kind.height}×{kind.width}"
        )
    return {metric: recipe.resolved(pretrained.model) for metric, recipe in drawing.items()}
