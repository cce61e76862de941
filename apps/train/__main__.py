"""Train a model: `uv run apps/train`, or with another recipe, your own images and more: `--help`.

Teach a trained model how wrong its guesses are: `uv run apps/train --error-head-of runs/animals28/model`.
"""

import dataclasses
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    install_import_hook(["apd_schedules", "apd_samplers", "apd_models", "apd_train"], "beartype.beartype")

import torch
import tyro
from display import Display
from lightning_fabric import Fabric
from recipes import RECIPES
from rich.console import Console

from apd_models import Pretrained, from_pretrained
from apd_train import ImageFolder, RunFolder, TrainConfig, Trained, fit, fit_error_head, launch
from apd_train.app import UsageError, run_app
from apd_train.showcase import showcase

HEAD_STEPS = 400
"""An error head alone learns fast: about a minute for the animals on two cores."""


@dataclass(frozen=True)
class Options:
    recipe: tyro.conf.Positional[str] = "animals28"
    """What to train; see the list above."""
    out: Path | None = None
    """Folder for the run. By default runs/RECIPE, or runs/RECIPE-error-head with --error-head-of."""
    overwrite: bool = False
    """Replace the run that the folder holds."""
    data: Path | None = None
    """Train on the images of this folder instead; each sub-folder is a class."""
    size: int | None = None
    """Side of the square images in pixels; a multiple of the patch. By default the recipe's."""
    conditioning: Literal["token", "separable", "joint"] | None = None
    """Where the class enters. token: it is added to the tokens. separable: it shifts, scales and gates every block, as
    the noise level does, and the two are added. joint: level and class go through one network before that, as in DiT,
    which costs a row of modulation for each pair of them. By default the recipe's."""
    position: Literal["learned", "rope"] | None = None
    """How a token knows where it is. learned: a vector for each place, added to the token. rope: queries and keys are
    turned by row and column. By default the recipe's."""
    one_way: bool = False
    """A token sees only itself, cleaner ones and, unless clean or pure noise, equally noisy ones. What is clean then
    depends on nothing else: its keys and values are computed once in inpainting and block by block generation,
    exactly."""
    element_levels: bool = False
    """Give each pixel a noise level of its own: the model then sees exactly which pixels of a patch are known, and
    completes such patches without pasting."""
    error_head: bool = False
    """Learn as well how wrong each token's guess is. Samplers then know which tokens are uncertain; nothing else that
    the model learns changes by it."""
    error_head_of: Path | None = None
    """Instead of training a model, add an error head to the one of this folder, such as runs/animals28/model: a copy of
    it is written to --out, its other weights the same to the bit. Give the --data that it was trained on."""
    steps: int | None = None
    """Optimizer steps. By default the recipe's, or with --error-head-of 400."""
    batch_size: int | None = None
    """Samples a step, over all devices. By default the recipe's."""
    learning_rate: float | None = None
    """Peak learning rate. By default the recipe's."""
    seed: int | None = None
    """Of the initial weights and everything drawn. By default the recipe's."""
    flip: bool | None = None
    """Mirror half of the images left and right; not for letters and digits. By default the recipe's."""
    threads: int | None = None
    """CPU threads of each process. By default what PyTorch finds."""
    devices: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Processes to train with, one a GPU or, without GPUs, CPU processes."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Of the network; auto is bf16-mixed on a GPU and 32-true on a CPU."""


def resolve(options: Options, pretrained: Pretrained | None = None) -> TrainConfig:
    """The recipe with what the command line says otherwise.

    Args:
        pretrained: the model that gets an error head, if one does.
    """
    if options.recipe not in RECIPES:
        raise UsageError(f"unknown recipe {options.recipe!r}; there is {', '.join(RECIPES)}")
    config = RECIPES[options.recipe]()
    said: dict[str, Any] = {
        "data": None if options.data is None else ImageFolder(options.data),
        "image_size": options.size,
        "flip": options.flip,
        "conditioning": options.conditioning,
        "position": options.position,
        "one_way": options.one_way or None,
        "element_levels": options.element_levels or None,
        "error_head": options.error_head or None,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if pretrained is not None:
        patchify = pretrained.patchify
        fixed = [
            name
            for name in ("image_size", "conditioning", "position", "one_way", "element_levels", "error_head")
            if name in said
        ]
        if fixed:
            option = fixed[0].replace("image_size", "size").replace("_", "-")
            raise UsageError(f"--{option} goes without --error-head-of: there the model is given")
        said = {"steps": HEAD_STEPS, "image_size": patchify.height, "patch": patchify.patch, **said}
    return dataclasses.replace(config, **said)


def output(options: Options) -> RunFolder:
    """The folder for the run, which can be written and does not hold the model that the run starts from."""
    of = options.error_head_of
    default = Path("runs") / (options.recipe if of is None else f"{options.recipe}-error-head")
    folder = RunFolder(options.out or default, options.overwrite)
    if of is not None and folder.path.resolve() in (of.resolve(), *of.resolve().parents):
        raise UsageError(f"--out {folder.path} holds the model of --error-head-of: choose another")
    folder.check()
    return folder


def train(options: Options) -> None:
    start = time.perf_counter()
    pretrained = None if options.error_head_of is None else from_pretrained(options.error_head_of)
    config = resolve(options, pretrained)
    if options.devices < 1:
        raise UsageError(f"--devices must be at least 1, got {options.devices}")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {options.threads}")
    if config.batch_size % options.devices:
        raise UsageError(f"--batch-size {config.batch_size} cannot be divided among {options.devices} devices")
    folder = output(options)
    on_gpu = torch.cuda.is_available()
    if on_gpu and options.devices > torch.cuda.device_count():
        raise UsageError(f"--devices {options.devices}: this machine has {torch.cuda.device_count()} GPUs")
    precision = options.precision
    if precision == "auto":
        precision = "bf16-mixed" if on_gpu else "32-true"
    fabric = Fabric(accelerator="cuda" if on_gpu else "cpu", devices=options.devices, precision=precision)
    launch(fabric)
    if options.threads is not None:  # after the launch, which sets them where there are several processes
        torch.set_num_threads(options.threads)
    console = Console(quiet=not fabric.is_global_zero, soft_wrap=True, markup=False, highlight=False)
    with console.status("reading images …") as status:
        images = config.data.load(
            config.image_size, lambda done, total: status.update(f"reading image {done} of {total}")
        )
    for line in images.skipped[:5]:
        console.print(f"skipped {line}", style="yellow")
    if len(images.skipped) > 5:
        console.print(f"… and {len(images.skipped) - 5} more; config.json lists them", style="yellow")
    classes = f"{len(images.class_names)} classes" if images.class_names else "no classes"
    console.print(
        f"{len(images)} images ({len(images.skipped)} unreadable ones skipped) of {config.image_size}×"
        f"{config.image_size} pixels, {'grey' if images.channels == 1 else 'RGB'}, {classes}, "
        f"{fabric.world_size} × {fabric.device.type}, {torch.get_num_threads()} threads → {folder.path}",
    )
    facts = {"recipe": options.recipe}
    with Display(console) as display:
        if pretrained is None:
            trained = fit(config, images, folder, fabric, display, facts)
        else:
            facts["error_head_of"] = str(options.error_head_of)
            trained = fit_error_head(pretrained, config, images, folder, fabric, display, facts)
    if not fabric.is_global_zero:
        return
    if trained.steps < config.steps:
        console.print(f"stopped after {trained.steps} of {config.steps} steps; the model is kept")
    if pretrained is None:
        console.print("drawing pictures …")
        showcase(trained, config, folder)
    console.print(said_of(trained, folder, time.perf_counter() - start, pictures=pretrained is None))


def said_of(trained: Trained, folder: RunFolder, seconds: float, pictures: bool) -> str:
    """What a run came to, and what may be done with it."""
    first, last = trained.heldout_loss
    lines = []
    if pictures:
        lines += [
            f"held-out loss {first:.3f} → {last:.3f} ({last / first:.3f} of it) in {seconds:.0f} s, pictures included",
            f"look at {folder.path}/samples.png, inpainting.png, levels.png and loss.png, then try",
            f"  uv run apps/sample --model {folder.model} --out {folder.path}/drawn",
        ]
    if trained.heldout_error_nll is not None:
        before, after = trained.heldout_error_nll
        time_taken = "" if pictures else f" in {seconds:.0f} s"
        lines += [
            f"held-out negative log-likelihood of the errors {before:.3f} → {after:.3f}{time_taken}; are they as said?",
            f"  uv run apps/evaluate --model {folder.model} --metric calibration",
        ]
    return "\n".join(lines)


DESCRIPTION = "Train an asynchronous diffusion model.\n\nRecipes:\n" + "\n".join(
    f"  {name}: {(make.__doc__ or '').strip()}" for name, make in RECIPES.items()
)

if __name__ == "__main__":
    run_app("apps/train", Options, train, DESCRIPTION, sys.argv[1:])
