"""Complete images that are known in part: white of the mask is painted anew, all else comes back as it was.

  uv run apps/inpaint --model runs/animals28/model --image cat.png --mask hole.png --out done --class cat
  uv run apps/inpaint --model runs/animals28/model --image cat.png --pad 0,14,0,14 --out wider --candidates 8
  uv run apps/inpaint --model runs/animals28/model --image photo.jpg --mask hole.png --out large --tile
  uv run apps/inpaint --model runs/animals28/model --image images --mask masks --out all --input-guidance 1

completed-SEED.png is the image with its hole filled, at its own size; candidate-SEED.png what the model made, at the
model's. shown.png is what it was shown: the hole in blue, and under a veil what is known but shares a patch with it.
sheet.png has all completions and, but for tiles, variance.png where they differ and levels.png the noise maps along the
way. The same command goes on where it was stopped. inpainting.json says how all was made and what it cost.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    packages = ["apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train"]
    install_import_hook(packages, "beartype.beartype")

import torch
from inpaint_jobs import Job
from inpaint_plan import Options, Plan, Read, plan_of, read_job
from inpaint_results import is_there, pictures, record_of, write_whole
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from apd_generate import (
    Completed,
    ImageError,
    RecipeError,
    Recorder,
    Step,
    complete,
    decoded_film,
    film_strip,
    labels_of,
)
from apd_train.app import UsageError, run_app
from apd_train.drawing import Dilated

FRAMES, DECODED_FRAMES = 60, 12
"""That the strip of noise maps is chosen from; of a model of latents each is decoded."""
BETWEEN_LINES = 15.0
"""Seconds between plain lines of progress."""


def inpaint(options: Options) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = plan_of(options, device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for model in (plan.pretrained.model, plan.weak):
        if model is not None:
            model.to(device)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    left, there, skipped = list[tuple[Job, dict[str, Any]]](), 0, 0

    def skip(job: Job, error: Exception) -> int:
        if not plan.many:
            raise error
        console.print(f"{job.image.name}: skipped, {error}")
        return 1

    for job in plan.jobs:  # all of them first: where another holds what may not be replaced, none is made
        try:
            asked = plan.asked(job)
            if is_there(job.out, asked, options.overwrite):
                console.print(f"{job.image.name}: there already")
                there += 1
            else:
                left.append((job, asked))
        except (ImageError, RecipeError) as error:
            skipped += skip(job, error)
    made = 0
    with progress(console, plan) as begin:
        for job, asked in left:
            try:
                finish(plan, job, asked, console, begin(job))
                made += 1
            except (ImageError, RecipeError) as error:
                skipped += skip(job, error)
    if plan.many:
        console.print(f"{made} completed, {there} there already, {skipped} skipped → {options.out}")
    if skipped:
        raise SystemExit(1)


def finish(plan: Plan, job: Job, asked: dict[str, Any], console: Console, tell: Callable[[Step], None]) -> None:
    """Completes an image and writes what is to be left of it.

    Raises:
        ImageError, RecipeError: this image or mask cannot be used.
    """
    read = read_job(plan, job)
    most = FRAMES if plan.codec is None else DECODED_FRAMES
    recorder = None if plan.options.tile else Recorder(plan.pretrained.patchify, most=most, then=tell)
    start = time.perf_counter()
    measured: list[Dilated] = []
    done = completed(plan, read, recorder or tell, measured.append)
    seconds = time.perf_counter() - start
    found = pictures(done, plan.seeds, plan.patchify, read.levels)
    if recorder is not None:
        frames = recorder.frames()
        if plan.codec is not None:
            frames = decoded_film(plan.codec, plan.pretrained, frames)
        found["levels.png"] = film_strip(frames, plan.patchify)
    record = record_of(plan, job, asked, read, done, measured, seconds)
    write_whole(job.out, found, record)
    console.print(f"{job.image.name}: {'; '.join(record['report'])}")
    console.print(
        f"  {len(plan.seeds)} completions, {done.evaluations} network evaluations each ({done.token_evaluations} token "
        f"evaluations), {seconds:.1f} s → {job.out}"
    )


def completed(
    plan: Plan, read: Read, on_step: Callable[[Step], None], on_measured: Callable[[Dilated], None]
) -> Completed:
    labels, options = labels_of(plan.classes, plan.seeds), plan.options
    how: dict[str, Any] = {"tile": options.tile, "weak": plan.weak, "batch": options.batch, "on_step": on_step}
    how |= {"codec": plan.codec, "keep": not options.no_paste}
    if plan.codec is not None:
        how["dilate"] = options.latents.dilate(plan.codec, plan.pretrained, on_measured)
    try:
        return complete(plan.pretrained, plan.recipe, read.image, read.levels, plan.seeds, labels, **how)
    except FloatingPointError as error:
        raise UsageError(f"{options.model} gives no images: {error}") from error


@contextlib.contextmanager
def progress(console: Console, plan: Plan) -> Iterator[Callable[[Job], Callable[[Step], None]]]:
    """A live bar on a terminal, plain lines elsewhere: given an image, what is to be called after each step of it."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, printed = bar.add_task("", total=len(plan.jobs), said=""), time.monotonic()

        def begin(job: Job) -> Callable[[Step], None]:
            before = plan.jobs.index(job)
            bar.update(task, description=job.image.name, completed=before)

            def tell(step: Step) -> None:
                nonlocal printed
                said = f"step {step.done}/{step.total}"
                bar.update(task, completed=before + step.done / step.total, said=said)
                if not console.is_terminal and time.monotonic() - printed >= BETWEEN_LINES:
                    printed = time.monotonic()
                    console.print(f"{job.image.name}: {said}")

            return tell

        yield begin


if __name__ == "__main__":
    run_app("apps/inpaint", Options, inpaint, __doc__ or "", sys.argv[1:])
