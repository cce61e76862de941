"""What the command line says, and the run that it makes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from recipes import RECIPES

from apd_models import Pretrained
from apd_samplers import eps_weighting
from apd_train import AutoencoderTraining, Execution, TrainConfig, source_of
from apd_train.app import UsageError

HEAD_STEPS = 400
"""An error head alone learns fast: about a minute for the animals on two cores."""


OF_THE_MODEL = ("width", "depth", "heads", "conditioning", "position", "one_way", "element_levels", "error_head")
OF_ANY_RUN = (
    *("flip", "steps", "batch_size", "learning_rate", "rate_schedule", "rate_constant_steps", "warmup_steps", "seed"),
    *("held_out", "log_every", "evaluate_every"),
)


@dataclass(frozen=True)
class Options:
    recipe: tyro.conf.Positional[str] = "animals28"
    """What to train; see the list above."""
    out: Path | None = None
    """Folder for the run. By default runs/RECIPE; runs/RECIPE-tuned with --start-from, runs/RECIPE-error-head with
    --error-head-of."""
    resume: bool = False
    """Go on with the run that the folder holds, from its newest complete checkpoint, as if it had never stopped: give
    the same command and this. Where there is no run yet, one is begun: a job that is put back into a queue can always
    say it."""
    overwrite: bool = False
    """Replace the run that the folder holds."""
    dry_run: bool = False
    """Say what the run would be (parameters, arithmetic, memory, data) and train nothing."""
    data: Path | None = None
    """Train on these images instead: a folder, in which each sub-folder is a class, or a .zip of one; LSUN's LMDB;
    parquet files; an .npz or .safetensors of arrays; a folder of latents. See docs/data.md."""
    start_from: Path | None = None
    """Begin with the weights of this model folder instead of random ones, such as runs/animals28/model or one that
    apps/convert wrote, and learn on: on images of one's own, or to make a synchronous model asynchronous. Optimizer and
    averages begin anew. What the model is (size, width, depth, heads, …) is taken from it and need not be said; images
    are of its size, and their classes among its own, by name. A fraction of the recipe's steps, at half of its
    learning rate, is a good beginning: docs/training.md."""
    size: int | None = None
    """Side of the square images in pixels, of latents in their cells; a multiple of the patch. By default the
    recipe's."""
    patch: int | None = None
    """Side of a token, in pixels of the image or cells of the latents. By default the recipe's."""
    conditioning: Literal["token", "separable", "joint"] | None = None
    """Where the class enters. token: it is added to the tokens. separable: it shifts, scales and gates every block, as
    the noise level does, and the two are added. joint: level and class go through one network before that, as in DiT,
    which costs a row of modulation for each pair of them. By default the recipe's."""
    width: int | None = None
    """Of the transformer's tokens; a multiple of its heads. By default the recipe's."""
    depth: int | None = None
    """Blocks of the transformer. By default the recipe's."""
    heads: int | None = None
    """Of attention. By default the recipe's."""
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
    it is written to --out, its other weights the same to the bit. Give the --data that it was trained on. Not with
    --start-from."""
    steps: int | None = None
    """Optimizer steps. By default the recipe's, or with --error-head-of 400."""
    batch_size: int | None = None
    """Samples a step, over all devices and micro-batches. By default the recipe's."""
    learning_rate: float | None = None
    """Peak learning rate. By default the recipe's."""
    rate_schedule: Literal["cosine", "constant", "inverse_sqrt"] | None = None
    """How the learning rate goes on after its warm-up. By default the recipe's."""
    rate_constant_steps: int | None = None
    """With --rate-schedule inverse_sqrt, the step up to which the rate is constant. By default the recipe's."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises to its peak, a tenth of the run at most. By default the recipe's."""
    held_out: int | None = None
    """Images that are never trained on, at most; never more than a twentieth. By default the recipe's."""
    log_every: int | None = None
    """Steps between lines on the training loss. By default the recipe's."""
    evaluate_every: int | None = None
    """Steps between evaluations on the held-out images. By default the recipe's."""
    seed: int | None = None
    """Of the initial weights and everything drawn. By default the recipe's."""
    flip: bool | None = None
    """Mirror half of the images left and right; not for letters and digits. By default the recipe's."""
    no_flip: bool = False
    """Mirror none, whatever the recipe does: for letters and digits, and for latents without those of mirror images."""
    micro_batch: int | None = None
    """Samples that a device computes at once, where its share of the batch does not fit in memory; the gradients of a
    step are added up. By default the whole share."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    compile: bool = False
    """Compile the transformer's blocks with torch.compile. On a GPU worth its minute at the start."""
    workers: int | None = None
    """Processes that prepare batches, for each device. By default 4 with a GPU, else 0: the training process does."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, from which --resume goes on. By default a hundredth of the run, but at least 500."""
    keep_last: int = 2
    """So many of the newest checkpoints are kept,"""
    keep_every: int | None = None
    """and those at multiples of so many steps. By default no others."""
    snapshot_every: int | None = None
    """Steps between snapshots of the averaged weights, from which apps/average makes averages over other windows. By
    default none."""
    grid_every: int | None = None
    """Steps between pictures of samples and completions in the run's grids folder. By default none until the end."""
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Trackers that get metrics and pictures too; needs apd-train[tensorboard] or apd-train[wandb]."""
    threads: int | None = None
    """CPU threads of each process. By default what PyTorch finds."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Processes to train with, one a GPU or, without GPUs, CPU processes. By default 1; under torchrun or srun, those
    that it starts, on all nodes."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices share the work. ddp: each holds the whole model. fsdp: weights, gradients and optimizer state
    are divided among them (FSDP2), for models that do not fit otherwise. auto is ddp."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Of the network; auto is bf16-mixed on a GPU and 32-true on a CPU."""


def config_of(options: Options, pretrained: Pretrained | None = None) -> TrainConfig | AutoencoderTraining:
    """The recipe with what the command line says otherwise.

    Args:
        pretrained: the model that gets an error head, or that the run starts from.
    """
    if options.recipe not in RECIPES:
        raise UsageError(f"unknown recipe {options.recipe!r}; there is {', '.join(RECIPES)}")
    if options.flip and options.no_flip:
        raise UsageError("--flip and --no-flip say opposite things: leave one of them out")
    if options.error_head_of is not None and options.start_from is not None:
        raise UsageError("--error-head-of trains nothing but the head: leave out it or --start-from")
    config = RECIPES[options.recipe]()
    if isinstance(config, AutoencoderTraining):
        check_for_autoencoder(options)
    said: dict[str, Any] = {
        "data": None if options.data is None else source_of(options.data),
        "image_size": options.size,
        "patch": options.patch,
        **{name: getattr(options, name) for name in (*OF_THE_MODEL, *OF_ANY_RUN)},
    }
    said["flip"] = False if options.no_flip else options.flip
    was_said = lambda name, value: value is not None and (value is not False or name == "flip")
    said = {name: value for name, value in said.items() if was_said(name, value)}
    if pretrained is not None:
        said = (_of_the_model if options.start_from is None else _to_start_from)(said, pretrained) | said
    return dataclasses.replace(config, **said)


def check_for_autoencoder(options: Options) -> None:
    """Refuses what only diffusion models have."""
    for name in (*OF_THE_MODEL, "patch", "error_head_of", "start_from", "compile", "checkpoint_activations"):
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} is of diffusion models: leave it out for an autoencoder")
    if options.snapshot_every is not None:
        raise UsageError("--snapshot-every is of diffusion models, which apps/average reads: leave it out")
    if options.strategy == "fsdp":
        raise UsageError("--strategy fsdp is of diffusion models: leave it out for an autoencoder, which is small")


def _of_the_model(said: Mapping[str, Any], pretrained: Pretrained) -> dict[str, Any]:
    """What the run of an error head takes from its model; none of it may have been said."""
    for name in ("image_size", "patch", *OF_THE_MODEL):
        if name in said:
            option = name.replace("image_size", "size").replace("_", "-")
            raise UsageError(f"--{option} goes without --error-head-of: there the model is given")
    return {"steps": HEAD_STEPS, "image_size": pretrained.patchify.height, "patch": pretrained.patchify.patch}


def _to_start_from(said: Mapping[str, Any], pretrained: Pretrained) -> dict[str, Any]:
    """What a run takes from the model that it starts from; what was said of it is the same, but a head may be new."""
    of = {name: getattr(pretrained.model.config, name) for name in OF_THE_MODEL}
    of = {"image_size": pretrained.patchify.height, "patch": pretrained.patchify.patch, **of}
    for name, value in of.items():
        if name in said and said[name] != value and name != "error_head":
            option = name.replace("image_size", "size").replace("_", "-")
            has = "does without" if said[name] is True else f"has {value}"
            raise UsageError(f"--{option} contradicts the model of --start-from, which {has}: leave it out")
    predicts_noise = pretrained.model.config.convention in ("dit", "diffusers")
    return {**of, **({"weighting": eps_weighting} if predicts_noise else {})}


def execution_of(options: Options, steps: int, on_gpu: bool) -> Execution:
    """How a run of so many steps is carried out."""
    return Execution(
        micro_batch=options.micro_batch,
        compile=options.compile,
        checkpoint_activations=options.checkpoint_activations,
        workers=(4 if on_gpu else 0) if options.workers is None else options.workers,
        checkpoint_every=max(500, steps // 100) if options.checkpoint_every is None else options.checkpoint_every,
        keep_last=options.keep_last,
        keep_every=options.keep_every,
        snapshot_every=options.snapshot_every,
        grid_every=options.grid_every,
        trackers=options.track,
    )
