"""Draw images from a trained model, each from a seed of its own.

  uv run apps/sample --model runs/animals28/model --out drawn --class cat,giraffe --seeds 0-15
  uv run apps/sample --model runs/animals28/model --out raster --order raster --film webp
  uv run apps/sample --model runs/animals28/model --out mine --order-image order.png --solver heun --guidance 3
  uv run apps/sample --model runs/animals28/model --out many --seeds 0-49999 --processes 2 --npz

A seed gives the same image whatever else is drawn. The same command goes on where it was stopped: what is there already
is kept. sampling.json says how the images were drawn and what they cost.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    packages = ["apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train"]
    install_import_hook(packages, "beartype.beartype")

import torch
from lightning_fabric import Fabric
from rich.console import Console
from sample_display import Display
from sample_folder import asked, begin, file_of, platform_facts, seeds_of, write_record
from sample_pictures import write_grid, write_samples
from sample_plan import Options, Plan, plan_of

from apd_generate import (
    Frame,
    Recorder,
    Step,
    decoded,
    decoded_film,
    film_strip,
    format_seeds,
    generate,
    labels_of,
    save_animation,
    to_image,
    weights_sha256,
    written_aside,
)
from apd_models import image_patchify
from apd_train import ElsewhereError, RunFolder, WriteError, everywhere, launch, make_fabric, together
from apd_train.app import UsageError, run_app
from apd_train.drawing import codec_of

T = TypeVar("T")
FILMED = 4
"""So many images are filmed."""
FRAMES, DECODED_FRAMES = 60, 24
"""Of a film; of a model of latents each is decoded."""


def draw(options: Options) -> None:
    plan = plan_of(options)
    fabric = make_fabric(options.processes, precision="32-true")
    launch(fabric)
    if options.threads is not None:  # after the launch, which sets them where there are several processes
        torch.set_num_threads(options.threads)
    for model in (plan.pretrained.model, plan.weak):
        if model is not None:
            model.to(fabric.device)
    if plan.codec is not None and fabric.device.type != "cpu":  # known only now: each process has its own
        plan = replace(plan, codec=codec_of(options.codec, options.model, plan.pretrained, fabric.device))
    console = Console(quiet=not fabric.is_global_zero, soft_wrap=True, markup=False, highlight=False)
    with contextlib.ExitStack() as stack:
        record = together(lambda: start(plan, fabric, stack))
        there = set(seeds_of(record))
        console.print(
            f"{len(plan.seeds)} images, {len(there.intersection(plan.seeds))} of them there already; "
            f"{plan.recipe.scheduler}, {plan.recipe.steps} steps, {fabric.world_size} × {fabric.device.type}"
        )
        begun = time.perf_counter()
        films = draw_all(plan, fabric, console, record, there)
        if fabric.is_global_zero:
            show(plan, films)
    console.print(
        f"{record['network_evaluations']} network evaluations an image ({record['token_evaluations']} token "
        f"evaluations), {time.perf_counter() - begun:.1f} s → {plan.out}/grid.png"
    )


def draw_all(
    plan: Plan, fabric: Fabric, console: Console, record: dict[str, Any], there: set[int]
) -> list[list[Frame]]:
    """Draws and keeps what is not there, round by round: each process its share. Gives the films, on the first one."""
    begun, before = time.perf_counter(), record["seconds"]
    filmed = plan.seeds[:FILMED] if plan.options.film else []
    shares = shared_out(plan, there, filmed, fabric.world_size)
    recorder = Recorder(plan.pretrained.patchify, range(len(filmed)), FRAMES if plan.codec is None else DECODED_FRAMES)
    with Display(console, sum(map(len, shares))) as display:
        for first in range(0, len(shares), fabric.world_size):
            now = shares[first : first + fabric.world_size]
            mine = now[fabric.global_rank] if fabric.global_rank < len(now) else []
            display.begin(sum(map(len, now)))
            watch = [display.step, recorder] if mine is filmed else [display.step]
            costs = on_all(partial(draw_some, plan, mine, there, watch))
            there = there.union(*now)
            record["seeds"] = format_seeds(there)
            record["network_evaluations"] = max(record["network_evaluations"], *(cost[0] for cost in costs))
            record["token_evaluations"] = max(record["token_evaluations"], *(cost[1] for cost in costs))
            record["seconds"] = round(before + time.perf_counter() - begun, 3)
            together(partial(keep, plan, record))
    return [recorder.frames(row) for row in range(len(filmed))]


def start(plan: Plan, fabric: Fabric, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Holds the folder, as long as the stack does, and gives the record of what is there of the images."""
    options = plan.options
    weak = None if options.autoguidance_model is None else weights_sha256(options.autoguidance_model)
    codec = None if plan.codec is None else plan.codec.digest
    wanted = asked(plan.recipe, plan.class_names, weights_sha256(options.model), weak, codec)
    others = ["grid.png", *(["samples.npz"] if options.npz else [])]
    others += [f"film.{options.film}", "levels.png"] if options.film else []
    stack.enter_context(RunFolder(plan.out).held())
    with writing(plan):
        record = begin(plan.out, wanted, plan.seeds, others, options.overwrite)
    device = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu"
    record |= {"model": str(options.model), "weights": plan.pretrained.weights}
    record |= {"device": device, "processes": fabric.world_size, **platform_facts()}
    keep(plan, record)
    return record


def shared_out(plan: Plan, there: set[int], filmed: list[int], processes: int) -> list[list[int]]:
    """Seeds that go through the network together; the filmed ones first, be they there or not."""
    missing = [seed for seed in plan.seeds if seed not in there and seed not in filmed]
    size = max(1, min(plan.options.batch, -(-len(missing) // processes)))
    shares = [missing[first : first + size] for first in range(0, len(missing), size)]
    return [filmed, *shares] if filmed else shares


def draw_some(
    plan: Plan, seeds: Sequence[int], there: set[int], watch: Sequence[Callable[[Step], None]]
) -> tuple[int, int]:
    """Draws images, writes those that are not there, and gives the evaluations that each has cost."""
    if not seeds:
        return 0, 0

    def on_step(step: Step) -> None:
        for see in watch:
            see(step)

    model, patchify = plan.pretrained.model, plan.pretrained.patchify
    labels = labels_of(plan.classes, seeds)
    try:
        drawn = generate(
            model, patchify, plan.recipe, seeds, labels, weak=plan.weak, batch=plan.options.batch, on_step=on_step
        )
    except FloatingPointError as error:
        raise UsageError(f"{plan.options.model} gives no images: {error}") from error
    images = drawn.images
    if plan.codec is not None:
        images = decoded(plan.codec, plan.pretrained, images)
    with writing(plan):
        for seed, image in zip(seeds, images, strict=True):
            if seed not in there:
                with written_aside(file_of(plan.out, seed)) as file:
                    to_image(image).save(file)
    return drawn.evaluations, drawn.token_evaluations


def keep(plan: Plan, record: dict[str, Any]) -> None:
    with writing(plan):
        write_record(plan.out, record)


def show(plan: Plan, films: Sequence[Sequence[Frame]]) -> None:
    """What is made of all images: the grid and, on request, one file of them and the film."""
    options, pretrained, codec = plan.options, plan.pretrained, plan.codec
    patchify = pretrained.patchify
    if codec is not None:
        films = [decoded_film(codec, pretrained, film) for film in films]
        patchify = image_patchify(codec, patchify)
    with writing(plan):
        write_grid(plan.out, plan.seeds, plan.classes, pretrained.class_names)
        if options.npz:
            write_samples(plan.out, plan.seeds, plan.classes)
        if films:
            with written_aside(plan.out / f"film.{options.film}") as file:
                save_animation(films, patchify, file)
            with written_aside(plan.out / "levels.png") as file:
                film_strip(films[0], patchify).save(file)


def on_all(act: Callable[[], T]) -> list[T]:
    """What ``act`` gives on each process. Where it fails on one, all end: that one with its failure."""
    try:
        return everywhere(act)
    except ElsewhereError as error:
        raise error.__cause__ or error from None


@contextlib.contextmanager
def writing(plan: Plan) -> Iterator[None]:
    """What the operating system refuses here ends in one line."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"the images cannot be written to {plan.out}: {error.strerror or error}") from error


if __name__ == "__main__":
    run_app("apps/sample", Options, draw, __doc__ or "", sys.argv[1:])
