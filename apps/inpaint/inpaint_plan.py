"""What the command line says, and what is to be completed by it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from inpaint_jobs import Job, jobs_of, sha256
from PIL import Image

from apd_generate import (
    ImageError,
    Recipe,
    choose_classes,
    format_seeds,
    outpainted,
    parse_seeds,
    read_image,
    read_mask,
    weights_sha256,
)
from apd_models import (
    Codec,
    DiT,
    Patchify,
    Pretrained,
    from_pretrained,
    image_patchify,
)
from apd_train.app import UsageError
from apd_train.drawing import LatentFlags, codec_of, recipe_of, weaker_model
from apd_train.flags import flags_of

MOST_DILATED, MOST_CANDIDATES = 1000, 10_000
LatentsArg = tyro.conf.arg(constructor=flags_of(LatentFlags))
RecipeFlags = tyro.conf.arg(constructor=flags_of(Recipe, ("drawn",)))


@dataclass(frozen=True)
class Options:
    model: Path
    """Model folder, such as runs/animals28/model."""
    image: Path
    """Image to complete, of any size and kind; or a folder of images, each of which gets its own folder in --out."""
    out: Path
    """Folder for the completions, the pictures about them and inpainting.json."""
    mask: Path | None = None
    """White is painted anew, black stays, and what is transparent stays. Of the image's size, or of its shape. For a
    folder of images: one mask for all, or a folder with a mask for each, of the same name but for the ending."""
    invert: bool = False
    """Black is painted anew, white stays."""
    soft: bool = False
    """Greys of the mask are noise levels to start from: a dark grey changes details, a light one nearly all. Without it
    they count as black or white, whichever is nearer."""
    dilate: Annotated[int, tyro.conf.arg(metavar="PX")] = 0
    """Pixels by which what is painted anew grows to all sides: of help where a mask leaves a seam."""
    pad: str | None = None
    """Paint beyond the image: so many pixels on each side, as in 16, or top,right,bottom,left, as in 0,32,0,32."""
    tile: bool = False
    """Complete large images at their own size, in tiles of the model's, half a tile apart, each given what is known and
    what the tiles before it made. By default a part of the image that has the model's shape and shows the whole hole is
    resized to the model's size, and what it makes is resized back into the hole."""
    candidates: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Completions of each image: of the seeds 0 to K - 1; by default 4."""
    seeds: str | None = None
    """Their seeds instead: numbers and ranges, as in 0-3 or 3,7,20-29. A seed gives the same completion whatever else
    is made."""
    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """Class of the image, by name or number; of several, as in cat,dog, each has its turn. By default the model is told
    none, and there is no guidance by it."""
    latents: Annotated[LatentFlags, tyro.conf.OmitArgPrefixes, LatentsArg] = field(default_factory=LatentFlags)
    """Of models of latents."""
    no_paste: bool = False
    """Do not put known pixels back: see what the model, and its autoencoder, make of all of the image."""
    order_image: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A grey picture of the order in which the model's image is made, the dark parts first."""
    autoguidance_model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Model folder of a weaker model, trained for a shorter time or smaller, for --autoguidance."""
    batch: int = 64
    """Completions that go through the network together; it does not change them."""
    threads: int | None = None
    """CPU threads. By default what PyTorch finds."""
    overwrite: bool = False
    """Make completions anew that are there already, and replace those that were made otherwise."""
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes, RecipeFlags] = Recipe()


@dataclass(frozen=True)
class Plan:
    """Args:
    seeds: of the completions of each image.
    classes: that take turns, by number; none for no class.
    recipe: with every default filled in.
    weak: the model of autoguidance.
    codec: the autoencoder of a model of latents.
    sides: pixels to paint at the top, right, bottom and left.
    weights: digests of the weights of the models.
    """

    options: Options
    jobs: list[Job]
    seeds: list[int]
    pretrained: Pretrained
    classes: tuple[int, ...]
    recipe: Recipe
    weak: DiT | None
    codec: Codec | None
    sides: tuple[int, int, int, int]
    weights: list[str]

    @property
    def patchify(self) -> Patchify:
        """Patches of the image: where the model is of latents, the pixels that they stand for."""
        of = self.pretrained.patchify
        return of if self.codec is None else image_patchify(self.codec, of)

    @property
    def many(self) -> bool:
        """A folder of images."""
        return self.options.image.is_dir()

    def asked(self, job: Job) -> dict[str, Any]:
        """What makes the completions of an image: where one of these differs, they are others.

        Raises:
            ImageError: the image or its mask cannot be read.
        """
        options, codec = self.options, self.codec
        return {
            "recipe": (self.recipe if self.classes else self.recipe.without_class()).to_dict(),
            "classes": [self.pretrained.class_names[k] for k in self.classes],
            "seeds": format_seeds(self.seeds),
            "mask_options": {"invert": options.invert, "soft": options.soft, "dilate": options.dilate},
            "pad": list(self.sides),
            "tile": options.tile,
            "pasted": not options.no_paste,
            **({} if codec is None else {**options.latents.record, "codec_digest": codec.digest}),
            "weights_sha256": self.weights,
            "image_sha256": sha256(job.image),
            "mask_sha256": None if job.mask is None else sha256(job.mask),
        }


@dataclass(frozen=True)
class Read:
    """Args:
    image: on its canvas, with what is to be painted beyond it.
    levels: that its pixels start from.
    notes: on the mask.
    """

    image: Image.Image
    levels: torch.Tensor
    notes: list[str]


def read_job(plan: Plan, job: Job) -> Read:
    """Raises:
    ImageError: the image or its mask cannot be used.
    """
    options = plan.options
    image = read_image(job.image)
    levels, notes = torch.zeros(image.height, image.width), []
    if job.mask is not None:
        how: dict[str, Any] = {"invert": options.invert, "soft": options.soft, "dilate": options.dilate}
        mask = read_mask(read_image(job.mask), image.size, **how)
        levels, notes = mask.levels, [f"mask: {mask.report}"] if mask.report else []
    elif options.mask is not None:
        raise ImageError(f"there is no mask of its name in {options.mask}")
    image, levels = outpainted(image, levels, plan.sides)
    if not levels.any() and job.mask is None:
        raise ImageError("nothing is to be painted: --pad is 0, and there is no --mask")
    if not levels.any():
        colour, turn = ("black", "leave --invert out") if options.invert else ("white", "say --invert")
        raise ImageError(f"the mask {job.mask} hides nothing: paint {colour} what is to be painted anew, or {turn}")
    if (levels == 1).all():
        notes.append("nothing is known of the image, so this is plain generation")
    return Read(image, levels, notes)


def plan_of(options: Options, device: str) -> Plan:
    """What the options come to; it changes nothing."""
    for name in ("batch", "threads", "candidates"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    if not 0 <= options.dilate <= MOST_DILATED:
        raise UsageError(f"--dilate must be from 0 to {MOST_DILATED}, got {options.dilate}")
    if options.candidates is not None and options.candidates > MOST_CANDIDATES:
        raise UsageError(f"--candidates must be at most {MOST_CANDIDATES}, got {options.candidates}")
    if options.candidates is not None and options.seeds is not None:
        raise UsageError("--candidates and --seeds both say which completions: leave one of them out")
    if options.mask is None and options.pad is None:
        raise UsageError("nothing says what is to be painted: pass --mask FILE, white where it is, or --pad N")
    if options.mask is None and (options.invert or options.soft or options.dilate):
        raise UsageError("--invert, --soft and --dilate are about a mask, and there is no --mask")
    if options.soft and options.recipe.method != "native":
        raise UsageError(f"--soft goes with --method native: {options.recipe.method} keeps pixels or does not")
    options.latents.check()
    seeds = parse_seeds(options.seeds or f"0-{(options.candidates or 4) - 1}")
    if len(seeds) > MOST_CANDIDATES:
        raise UsageError(f"--seeds must be at most {MOST_CANDIDATES}, got {len(seeds)}")
    sides = parse_sides(options.pad or "0")
    jobs = jobs_of(options.image, options.mask, options.out)
    pretrained = from_pretrained(options.model)
    codec = codec_of(options.latents.codec, options.model, pretrained, device)
    options.latents.check_against(codec)
    classes = () if options.class_ is None else choose_classes(pretrained.class_names, options.class_)
    recipe = recipe_of(options.recipe, options.order_image, options.autoguidance_model, pretrained.model)
    for name in ("guidance", "guidance_interval"):
        if getattr(options.recipe, name) is not None and options.class_ is None:
            raise UsageError(f"--{name.replace('_', '-')} is of guidance by a class: say which, with --class NAME")
    weak = weaker_model(options.autoguidance_model, pretrained)
    weights = [weights_sha256(source) for source in (options.model, options.autoguidance_model) if source is not None]
    return Plan(options, jobs, seeds, pretrained, classes, recipe, weak, codec, sides, weights)


def parse_sides(text: str) -> tuple[int, int, int, int]:
    """Pixels at the top, right, bottom and left."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 4) or not all(part.isascii() and part.isdecimal() and len(part) < 9 for part in parts):
        raise UsageError(f"--pad is a number of pixels, as in 16, or top,right,bottom,left, got {text[:60]!r}")
    top, right, bottom, left = map(int, parts * 4 if len(parts) == 1 else parts)
    return top, right, bottom, left
