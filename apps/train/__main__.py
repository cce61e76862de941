"""Train a model: `uv run apps/train`, or with another recipe, your own images and more: `--help`.

Train an autoencoder, for models of latents: `uv run apps/train autoencoder-kl-f4 --data photos`.

Go on from a trained model: `uv run apps/train --start-from runs/animals28/model --steps 400`.

Teach a trained model how wrong its guesses are: `uv run apps/train --error-head-of runs/animals28/model`.
"""

import os
import signal
import sys
import time
from pathlib import Path

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    packages = ["apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train"]
    install_import_hook(packages, "beartype.beartype")

import torch
from display import Display
from options import Options, config_of, execution_of
from recipes import RECIPES
from rich.console import Console

from apd_models import from_pretrained
from apd_train import (
    AutoencoderTraining,
    ImageFolder,
    ImageSet,
    RunFolder,
    TrainConfig,
    Trained,
    TrainedAutoencoder,
    dry_run,
    dry_run_autoencoder,
    exit_status,
    fit,
    fit_autoencoder,
    fit_error_head,
    launch,
    local_batch,
    make_fabric,
    read_metrics,
    source_of,
)
from apd_train.app import UsageError, run_app
from apd_train.showcase import showcase, showcase_autoencoder

PREEMPTED = 75
"""Exit status of a run that a cluster ended (SIGTERM, SIGUSR1) and that can be resumed: EX_TEMPFAIL, "try again"."""


def train(options: Options) -> None:
    began = time.perf_counter()
    load = lambda folder: None if folder is None else from_pretrained(folder)
    start, head_of = load(options.start_from), load(options.error_head_of)
    config = config_of(options, start or head_of)
    execution = execution_of(options, config.steps, torch.cuda.is_available())
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {options.threads}")
    if options.dry_run and head_of is not None:
        raise UsageError("--dry-run goes without --error-head-of")
    folder = output(options)
    fabric = make_fabric(options.devices, options.strategy, options.precision)
    local_batch(config.batch_size, fabric.world_size)  # before other processes are started
    launch(fabric)
    if options.threads is not None:  # after the launch, which sets them where there are several processes
        torch.set_num_threads(options.threads)
    console = Console(quiet=not fabric.is_global_zero, soft_wrap=True, markup=False, highlight=False)
    images = read_images(config, console)
    if options.dry_run:
        given = images, fabric, execution
        of_autoencoder = isinstance(config, AutoencoderTraining)
        for name, text in dry_run_autoencoder(config, *given) if of_autoencoder else dry_run(config, *given, start):
            console.print(f"{name:<12}{text}")
        return
    console.print(
        f"{len(images)} images ({len(images.skipped)} unreadable ones skipped) of {config.image_size}×"
        f"{config.image_size} {'pixels' if images.latents is None else 'cells'}, {images.kind}, "
        f"{f'{len(images.class_names)} classes' if images.class_names else 'no classes'}, "
        f"{fabric.world_size} × {fabric.device.type}, {torch.get_num_threads()} threads → {folder.path}",
    )
    facts = {"recipe": options.recipe} | ({} if start is None else {"start_from": str(options.start_from)})
    warn = lambda message: console.print(message, style="yellow")
    with Display(console, config.steps) as display:
        given = images, folder, fabric, display, facts, execution, warn
        if isinstance(config, AutoencoderTraining):
            trained = fit_autoencoder(config, *given)
        elif head_of is None:
            trained = fit(config, *given, start)
        else:
            facts["error_head_of"] = str(options.error_head_of)
            trained = fit_error_head(head_of, config, *given)
    if trained.stopped not in (None, signal.SIGINT):
        console.print(
            f"stopped by {trained.stopped.name} after {trained.steps} of {config.steps} steps; "
            + ("go on with the same command and --resume" if trained.steps else "nothing was learned yet")
        )
        sys.stdout.flush()
        raise SystemExit(exit_status(fabric, PREEMPTED))
    if not fabric.is_global_zero:
        return
    if trained.steps < config.steps:
        console.print(
            f"stopped after {trained.steps} of {config.steps} steps; the model is kept, and --resume goes on from here"
            if trained.steps
            else "stopped before the first step"
        )
    if not trained.steps:
        return
    if head_of is None:
        console.print("drawing pictures …")
        try:
            if isinstance(trained, TrainedAutoencoder):
                showcase_autoencoder(trained, folder)
            elif isinstance(config, TrainConfig):
                trained.model.to(fabric.device)
                showcase(trained, config, folder)
        # What was learned is there.
        except OSError as error:
            warn(f"the pictures cannot be written: {error.strerror or error}")
        except FloatingPointError as error:
            warn(f"there are no pictures, since the model puts out what is not finite: {error}")
    seconds = time.perf_counter() - began
    if isinstance(trained, TrainedAutoencoder):
        console.print(said_of_autoencoder(trained, folder, seconds))
    else:
        console.print(said_of(trained, folder, seconds, pictures=head_of is None))


def output(options: Options) -> RunFolder:
    """The folder for the run, which can be written and does not hold the model that the run starts from."""
    ending = "-tuned" if options.start_from else "-error-head" if options.error_head_of else ""
    folder = RunFolder(options.out or Path("runs") / f"{options.recipe}{ending}", options.overwrite, options.resume)
    for option, of in {"start-from": options.start_from, "error-head-of": options.error_head_of}.items():
        if of is not None and folder.path.resolve() in (of.resolve(), *of.resolve().parents):
            raise UsageError(f"--out {folder.path} holds the model of --{option}: choose another")
    begins = not options.dry_run and not (options.resume and folder.record() is not None)
    if begins and options.data is not None and isinstance(source_of(options.data), ImageFolder):
        data = options.data.resolve()
        if data in (folder.path.resolve(), *folder.path.resolve().parents):
            raise UsageError(
                f"--out {folder.path} is within --data {options.data}, where its pictures would be data: choose another"
            )
    if not options.dry_run:
        folder.check()
    return folder


def read_images(config: TrainConfig | AutoencoderTraining, console: Console) -> ImageSet:
    """The images, and a line on each of the first that cannot be read."""
    with console.status("reading images …") as status:
        images = config.data.load(
            config.image_size, lambda done, total: status.update(f"reading image {done} of {total}")
        )
    for line in images.skipped[:5]:
        console.print(f"skipped {line}", style="yellow")
    if len(images.skipped) > 5:
        console.print(f"… and {len(images.skipped) - 5} more; config.json lists them", style="yellow")
    return images


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


def said_of_autoencoder(trained: TrainedAutoencoder, folder: RunFolder, seconds: float) -> str:
    """Likewise of an autoencoder."""
    first, last = trained.heldout_loss
    told = {name: value for line in read_metrics(folder.path) for name, value in line.items()}
    quality = [f"{told[name]:.2f} dB {of}" for name, of in PSNRS.items() if name in told]
    latents, side = folder.path / "latents", trained.training.size // trained.network.config.factor
    recipe = "emoji64-latent" if side <= 16 else "imagenet256-latent-b2"
    return "\n".join(
        [
            f"held-out loss {first:.3f} → {last:.3f}, PSNR {', '.join(quality)}, in {seconds:.0f} s",
            f"look at {folder.path}/reconstructions.png and loss.png, then encode images and train on their latents",
            f"  uv run apps/encode --data DATA --codec {folder.model} --size {trained.training.size} --out {latents}",
            f"  uv run apps/train {recipe} --data {latents} --size {side}{' --patch 1' if side % 2 else ''}",
        ]
    )


PSNRS = {"heldout_psnr": "of whole images", "heldout_psnr_masked": "of those hidden in part"}
EXAMPLES = """
  uv run apps/train
  uv run apps/train emoji64 --data photos --size 64 --out runs/photos --batch-size 128
  uv run apps/train --steps 4400 --out runs/longer --snapshot-every 200
  uv run apps/train --out runs/longer --steps 4400 --snapshot-every 200 --resume
  uv run apps/train --start-from runs/animals28/model --steps 400 --learning-rate 4e-3
  uv run apps/train --error-head-of runs/animals28/model
  uv run apps/train autoencoder-kl-f4 --data photos --size 64 --out runs/autoencoder
"""
DESCRIPTION = (
    f"Train an asynchronous diffusion model, or an autoencoder for one of latents.\n{EXAMPLES}\nRecipes:\n"
    + "\n".join(f"  {name}: {(make.__doc__ or '').strip()}" for name, make in RECIPES.items())
)

if __name__ == "__main__":
    run_app("apps/train", Options, train, DESCRIPTION, sys.argv[1:])
