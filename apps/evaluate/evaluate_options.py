"""What the command line says."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from apd_generate import MASK_FAMILIES, MaskFamily, Recipe
from apd_train import Animals28, TrainConfig
from apd_train.app import UsageError
from apd_train.drawing import LatentFlags
from apd_train.flags import flags_of

Metric = Literal["bits-per-dim", "latent-bits-per-dim", "calibration", "quality", "inpainting"]
PathName = Literal["synchronous", "raster", "random", "staggered", "quad", "walk"]

FEWEST = 12
"""Images that density and coverage take."""
HELD_OUT = TrainConfig(data=Animals28(), image_size=28).held_out
"""The default of all runs."""
DRAWN, COMPLETED = 500, 50
"""Images by default."""
OF_KNOWN = ("method", "jump", "resamples", "input_guidance", "context_level")
"""What of a recipe is for images that are known in part."""
GROUPS: dict[str, tuple[Metric, ...]] = {
    "likelihood": ("bits-per-dim", "latent-bits-per-dim", "calibration"),
    "comparison": ("quality", "inpainting"),
    "quality": ("quality",),
    "inpainting": ("inpainting",),
    "drawing": ("quality", "inpainting"),
}
"""Groups of options, and the metrics that they mean something to."""


@dataclass(frozen=True)
class Likelihood:
    """Of bits-per-dim, latent-bits-per-dim and calibration."""

    path: tuple[PathName, ...] = ("synchronous", "raster", "random")
    """Ways from noise to image that are looked at, one or more. synchronous: all tokens together. raster: cell by cell,
    row by row. random: cell by cell, averaged over all orders. staggered: all tokens in raster order, each starting a
    little later than the one before. quad: each token at its own distance from a common level. walk: the random walks
    of the paper."""
    points: int = 32
    """Noise maps that each image is looked at, along each path; at least 2. More make the standard errors smaller,
    above all of raster and random."""
    path_cells: int = 4
    """Cells a side that raster and random go through."""
    path_width: float = 0.5
    """Share of a staggered path that each token takes."""
    clean: float = 11.0
    """Log-SNR at the clean end of a bound, in nats. Lower, the reconstruction costs more and the diffusion less. Any
    gives a bound, the one with the smallest sum the best: between 9 for a model trained for seconds and 13 for a good
    one."""
    noise: float = -13.3
    """Log-SNR at the noise end of a bound, in nats."""


@dataclass(frozen=True)
class Comparison:
    """Of quality and inpainting."""

    extractor: Literal["efficientnet-lite0", "inception", "dinov2"] = "efficientnet-lite0"
    """Network whose features images are compared in. Its name is part of every number's name; only Inception's are
    called FID and KID. The weights of efficientnet-lite0 come with this software."""
    extractor_weights: Path | None = None
    """File of weights for inception or dinov2: pt_inception-2015-12-05-6726825d.pth or dinov2_vitl14_pretrain.pth for
    numbers as papers quote them."""
    side: int | None = None
    """Side of the images that efficientnet-lite0 sees, in pixels; part of its name. By default 224; 128 takes a third
    of the time."""
    reference: Path | None = None
    """Real images to compare with: an .npz in the style of ADM, of images (arr_0) or of statistics (mu and sigma, which
    tell the Fréchet distance only). By default the images of --data that training holds out, or all with --all."""


@dataclass(frozen=True)
class Quality:
    """Of quality."""

    samples: Path | None = None
    """Look at these images instead of drawing any: a folder of PNG files, as apps/sample writes it, or an .npz (arr_0).
    No --model is needed then."""


@dataclass(frozen=True)
class Inpainting:
    """Of inpainting."""

    masks: tuple[MaskFamily, ...] = MASK_FAMILIES
    """What is hidden. extrema: all but a rectangle in the middle. square: that rectangle. thin and wide: brush
    strokes."""
    candidates: int = 2
    """Completions of each image and mask, each from a seed of its own."""


@dataclass(frozen=True, kw_only=True)
class Options:
    model: Path | None = None
    """Model folder, such as runs/animals28/model."""
    metric: tuple[Metric, ...] = ("bits-per-dim",)
    """What is measured, one or more. bits-per-dim: an upper bound on the negative log-likelihood of 8-bit images, in
    bits a pixel and channel. latent-bits-per-dim: for a model of latents, the same of the density of standardised
    latents, in bits a number of them; it may be negative, and says nothing across autoencoders. calibration: for a
    model with an error head, predicted against actual errors by noise level, and whether it knows which tokens are the
    worse ones. quality: images are drawn and compared with real ones, by kernel and Fréchet distance, precision and
    recall, density and coverage. inpainting: parts of real images are hidden and completed, and compared with what was
    there."""
    images: int | None = None
    """Use this many images. All but quality take them evenly spread over those that are held out, by default all, for
    inpainting 50; quality draws as many, by default 500, from the seeds --seed and on, the
    classes in turns."""
    data: Path | None = None
    """Real images, in any of the ways that apps/train takes them, such as a folder in which each sub-folder is a class
    of the model. For a model of latents, the images that were encoded. By default the embedded animals."""
    all: bool = False
    """Use all of them, not only those that training holds out (a twentieth, at most 500 or --held-out, chosen by their
    content)."""
    held_out: int = HELD_OUT
    """Images that training held out, at most, as its config.json says: 10,000 by the recipes of ImageNet and LSUN."""
    unconditional: bool = False
    """Do not tell the model the class of an image: bound p(image), not p(image | class), and draw images of none."""
    seed: int = 0
    """Of all that is random: the first of the seeds that images are drawn and completed from; points, noise and random
    paths; masks."""
    batch: int = 256
    """Images that go through the network together, about; it does not change the figures."""
    threads: int | None = None
    """CPU threads. By default what PyTorch finds."""
    out: Path | None = None
    """File for the figures and what they were taken with, FILE.json; a Markdown page of the same goes beside it, as
    FILE.md, and where images are drawn or completed, the noise maps of the first one as a film strip, FILE.png."""
    overwrite: bool = False
    """Replace the files if they are there already."""
    likelihood: Annotated[Likelihood, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(Likelihood))] = (
        Likelihood()
    )
    """Of bits-per-dim, latent-bits-per-dim and calibration."""
    comparison: Annotated[Comparison, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(Comparison))] = (
        Comparison()
    )
    """Of quality and inpainting: what images are compared by, and with what."""
    quality: Annotated[Quality, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(Quality))] = Quality()
    """Of quality."""
    inpainting: Annotated[Inpainting, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(Inpainting))] = (
        Inpainting()
    )
    """Of inpainting."""
    latents: Annotated[LatentFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(LatentFlags))] = (
        field(default_factory=LatentFlags)
    )
    """Of models of latents."""
    drawing: Annotated[
        Recipe, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(Recipe, ("drawn", "autoguidance")))
    ]
    """Of quality and inpainting: how images are drawn. What takes files too, an order of your own or autoguidance, is
    drawn with apps/sample and evaluated with --samples."""

    def check(self) -> None:
        """Refuses what is wrong whatever the model and the images are."""
        if not self.metric or not self.likelihood.path or not self.inpainting.masks:
            raise UsageError("--metric, --path and --masks need at least one name")
        self._check_groups()
        self.latents.check()
        self._check_ranges()
        if not 0 <= self.seed < 2**62:
            raise UsageError(f"--seed must be in [0, 2^62), got {self.seed}")
        if "quality" in self.metric and (self.images or FEWEST) < FEWEST:
            raise UsageError(f"--images must be at least {FEWEST} for quality, got {self.images}")
        if self.model is None and set(self.metric) != {"quality"}:
            raise UsageError("say --model DIR; only --metric quality does without, of --samples")
        if self.model is None and self.latents.codec is not None:
            raise UsageError("--codec is the autoencoder of --model, and there is none")
        if self.model is None and self.quality.samples is None:
            raise UsageError("say --model DIR to draw images from, or --samples, images that were drawn")
        if not self.needs_data and (self.data is not None or self.all):
            raise UsageError("--data and --all say what is compared with, and so does --reference: leave one out")
        if self.held_out < 1:
            raise UsageError(f"--held-out must be at least 1, got {self.held_out}")
        if self.all and self.held_out != HELD_OUT:
            raise UsageError("--all looks at all images, and --held-out at some of them: leave one out")
        for name in ("guidance", "guidance_interval"):
            if self.unconditional and getattr(self.drawing, name) is not None:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is of guidance by the class, and --unconditional tells none: leave one out")
        takes_weights = self.comparison.extractor != "efficientnet-lite0"
        if takes_weights != (self.comparison.extractor_weights is not None):
            raise UsageError(
                "--extractor inception and dinov2 take --extractor-weights FILE, and efficientnet-lite0 none"
            )
        if takes_weights and self.comparison.side is not None:
            raise UsageError(f"--side is of efficientnet-lite0: {self.comparison.extractor} has a side of its own")

    @property
    def draws(self) -> bool:
        """Whether images are drawn for quality."""
        return "quality" in self.metric and self.quality.samples is None

    @property
    def needs_data(self) -> bool:
        """Whether images of --data are looked at, or else those of --reference suffice."""
        return self.comparison.reference is None or set(self.metric) != {"quality"}

    def _check_groups(self) -> None:
        for group, metrics in GROUPS.items():
            if not {*metrics} & {*self.metric}:
                for name in changed(getattr(self, group)):
                    named = " or ".join(filter(None, (", ".join(metrics[:-1]), metrics[-1])))
                    raise UsageError(f"{flag(name)} is for --metric {named}, and none such is asked for")
        if "inpainting" not in self.metric:
            for name in {*changed(self.latents)} - {"codec"}:
                raise UsageError(f"{flag(name)} is for --metric inpainting, and none such is asked for")
            for name in changed(self.drawing):
                if name in OF_KNOWN:
                    raise UsageError(f"{flag(name)} is for --metric inpainting, and none such is asked for")
                if not self.draws:
                    raise UsageError(f"{flag(name)} is about drawing, and --samples are there already")

    def _check_ranges(self) -> None:
        likelihood = self.likelihood
        if likelihood.points < 2:
            raise UsageError(f"--points must be at least 2, got {likelihood.points}")
        least = {"images": self.images, "batch": self.batch, "threads": self.threads}
        least |= {"path-cells": likelihood.path_cells, "candidates": self.inpainting.candidates}
        for name, value in least.items():
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be at least 1, got {value}")
        if not 0 < likelihood.path_width <= 1:
            raise UsageError(f"--path-width must be in (0, 1], got {likelihood.path_width}")
        for name in ("clean", "noise"):
            if not math.isfinite(getattr(likelihood, name)):
                raise UsageError(f"--{name} must be a finite number, got {getattr(likelihood, name)}")
        side = self.comparison.side
        if side is not None and not 32 <= side <= 2048:
            raise UsageError(f"--side must be in [32, 2048], got {side}")


def changed(group: Any) -> list[str]:
    """Its fields that are not as by default."""
    return [item.name for item in fields(group) if getattr(group, item.name) != getattr(type(group)(), item.name)]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")
