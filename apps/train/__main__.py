"""Train a model: `uv run apps/train`, or with another recipe, your own images and more: `--help`."""

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

from apd_train import ImageFolder, RunFolder, TrainConfig, fit, launch
from apd_train.app import UsageError, run_app
from apd_train.showcase import showcase


@dataclass(frozen=True)
class Options:
    recipe: tyro.conf.Positional[str] = "animals28"
    """What to train; see the list above."""
    out: Path | None = None
    """Folder for the run. By default runs/RECIPE."""
    overwrite: bool = False
    """Replace the run that the folder holds."""
    data: Path | None = None
    """Train on the images of this folder instead; each sub-folder is a class."""
    size: int | None = None
    """Side of the square images in pixels; a multiple of the patch. By default the recipe's."""
    steps: int | None = None
    """Optimizer steps. By default the recipe's."""
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


def resolve(options: Options) -> TrainConfig:
    """The recipe with what the command line says otherwise."""
    if options.recipe not in RECIPES:
        raise UsageError(f"unknown recipe {options.recipe!r}; there is {', '.join(RECIPES)}")
    config = RECIPES[options.recipe]()
    said: dict[str, Any] = {
        "data": None if options.data is None else ImageFolder(options.data),
        "image_size": options.size,
        "flip": options.flip,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    return dataclasses.replace(config, **{name: value for name, value in said.items() if value is not None})


def train(options: Options) -> None:
    start = time.perf_counter()
    config = resolve(options)
    if options.devices < 1:
        raise UsageError(f"--devices must be at least 1, got {options.devices}")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {options.threads}")
    if config.batch_size % options.devices:
        raise UsageError(f"--batch-size {config.batch_size} cannot be divided among {options.devices} devices")
    folder = RunFolder(options.out or Path("runs") / options.recipe, options.overwrite)
    folder.check()

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
    with Display(console) as display:
        trained = fit(config, images, folder, fabric, display, {"recipe": options.recipe})
    if not fabric.is_global_zero:
        return
    if trained.steps < config.steps:
        console.print(f"stopped after {trained.steps} of {config.steps} steps; the model is kept")
    console.print("drawing pictures …")
    showcase(trained, config, folder)
    first, last = trained.heldout_loss
    console.print(
        f"held-out loss {first:.3f} → {last:.3f} ({last / first:.3f} of it) in "
        f"{time.perf_counter() - start:.0f} s, pictures included\n"
        f"look at {folder.path}/samples.png, inpainting.png, levels.png and loss.png, then try\n"
        f"  uv run apps/sample --model {folder.model} --out {folder.path}/drawn",
    )


DESCRIPTION = "Train an asynchronous diffusion model.\n\nRecipes:\n" + "\n".join(
    f"  {name}: {(make.__doc__ or '').strip()}" for name, make in RECIPES.items()
)

if __name__ == "__main__":
    run_app("apps/train", Options, train, DESCRIPTION, sys.argv[1:])
