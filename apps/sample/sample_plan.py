"""What the command line says, and what is to be drawn by it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from apd_generate import Recipe, choose_classes, parse_seeds
from apd_models import Codec, DiT, Pretrained, from_pretrained
from apd_train.app import UsageError
from apd_train.drawing import codec_of, recipe_of, weaker_model
from apd_train.flags import flags_of

OF_KNOWN = ("method", "jump", "resamples", "input_guidance", "context_level")
"""What of a recipe is for images that are known in part."""
RecipeFlags = tyro.conf.arg(constructor=flags_of(Recipe, (*OF_KNOWN, "drawn")))


@dataclass(frozen=True, kw_only=True)
class Options:
    model: Path
    """Model folder, such as runs/animals28/model."""
    out: Path
    """Folder for the images, the grid and sampling.json."""
    seeds: str = "0-15"
    """One image for each seed: numbers and ranges, as in 0-15 or 3,7,20-29."""
    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """Class of the images, by name or number. Of several, as in cat,dog, each has its turn: that of an image is its
    seed modulo their number. By default all classes."""
    npz: bool = False
    """Also write samples.npz, as tools that evaluate images read it: arr_0 has the images in RGB, in the order of their
    seeds, arr_1 their classes."""
    film: Literal["webp", "gif", "png"] | None = None
    """Also show how the first four images come about, and their noise maps: film.webp, film.gif or film.png, which
    move, and levels.png, a strip of the first one."""
    order_image: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A grey picture of the order in which the image is drawn, the dark parts first; it is stretched over the image and
    averaged over each token."""
    autoguidance_model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Model folder of a weaker model, trained for a shorter time or smaller, for --autoguidance."""
    codec: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """For a model of latents: their autoencoder, a folder or a .safetensors. By default the one in the model folder; it
    has to be the one that the training data were encoded with."""
    batch: int = 64
    """Images that go through the network together; it does not change them, but for rounding on a GPU."""
    processes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Processes that share the seeds, one a GPU or, without GPUs, CPU processes; it does not change the images. By
    default 1; under torchrun or srun, those that it starts, on all nodes, all of which have to see --out."""
    threads: int | None = None
    """CPU threads of each process. By default what PyTorch finds."""
    overwrite: bool = False
    """Draw images anew that are there already. Where they were drawn otherwise, all images of the folder are removed
    first."""
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes, RecipeFlags]


@dataclass(frozen=True)
class Plan:
    """Args:
    seeds: of all images.
    classes: that take turns, by number.
    recipe: with every default filled in.
    weak: the model of autoguidance.
    codec: the autoencoder of a model of latents, on the CPU.
    """

    options: Options
    seeds: list[int]
    pretrained: Pretrained
    classes: tuple[int, ...]
    recipe: Recipe
    weak: DiT | None
    codec: Codec | None

    @property
    def out(self) -> Path:
        return self.options.out

    @property
    def class_names(self) -> list[str]:
        """Of the classes that take turns."""
        return [self.pretrained.class_names[k] for k in self.classes]


def plan_of(options: Options) -> Plan:
    """What the options come to; it changes nothing."""
    for name in ("batch", "processes", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}")
    seeds = parse_seeds(options.seeds)
    pretrained = from_pretrained(options.model)
    classes = choose_classes(pretrained.class_names, options.class_)
    recipe = recipe_of(options.recipe, options.order_image, options.autoguidance_model, pretrained.model)
    weak = weaker_model(options.autoguidance_model, pretrained)
    codec = codec_of(options.codec, options.model, pretrained)
    return Plan(options, seeds, pretrained, classes, recipe, weak, codec)
