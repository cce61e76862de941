"""Measure a model: its likelihood, the quality of what it draws, its completions. Every number says how sure it is.

  uv run apps/evaluate --model runs/animals28/model
  uv run apps/evaluate --model runs/animals28/model --metric quality --images 500 --order raster --out raster.json
  uv run apps/evaluate --model runs/animals28/model --metric quality inpainting bits-per-dim --side 128 --out all.md
  uv run apps/evaluate --metric quality --samples drawn/samples.npz --reference VIRTUAL_imagenet64_labeled.npz \
    --extractor inception --extractor-weights pt_inception-2015-12-05-6726825d.pth

A model of latents is looked at in images, which its autoencoder makes, but for latent-bits-per-dim and calibration.
The first one bounds the negative log-likelihood of held-out images. Numbers depend on the features, on how many images
there are and on what they are compared with: names and files say so. The same command gives the same numbers.
"""

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    packages = ["apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train"]
    install_import_hook(packages, "beartype.beartype")

import torch
from evaluate_calibration import calibration_of
from evaluate_images import file_sha256
from evaluate_inpainting import inpainting_of
from evaluate_likelihood import bits_per_dim_of, schedule_of
from evaluate_options import Metric, Options
from evaluate_quality import quality_of
from evaluate_report import Section, check_out, page, show, write
from evaluate_task import Task, task_of
from rich.console import Console

from apd_generate import decoded_film, film_strip
from apd_models import image_patchify
from apd_train.app import run_app

METRICS: dict[Metric, Callable[[Task], Section]] = {
    "bits-per-dim": bits_per_dim_of,
    "latent-bits-per-dim": bits_per_dim_of,
    "calibration": calibration_of,
    "quality": quality_of,
    "inpainting": inpainting_of,
}
PACKAGES = ("apd-schedules", "apd-samplers", "apd-models", "apd-generate", "apd-metrics", "numpy", "pillow")


def evaluate(options: Options) -> None:
    start = time.perf_counter()
    options.check()
    schedule_of(options.likelihood)
    if options.out is not None:
        check_out(options.out, options.overwrite)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    task = task_of(options, console)
    about = about_of(task)
    sections: list[Section] = []
    for metric in dict.fromkeys(options.metric):
        if sections:
            console.print()
        sections.append(METRICS[metric](task))
        show(console, sections[-1])
        if options.out is not None:  # after each metric: what is done is kept, whatever comes
            keep(task, about, sections, time.perf_counter() - start, options.out)
    if options.out is not None:
        console.print(f"→ {options.out}")


def keep(task: Task, about: dict[str, Any], sections: list[Section], seconds: float, out: Path) -> None:
    """Writes what is found so far."""
    options = task.options
    found = {section.metric: section.record for section in sections}
    record = {**about, **found, "seconds": round(seconds, 3)}
    title = f"Evaluation of {options.model or options.quality.samples}"
    strip = None
    if task.recorder is not None and (frames := task.recorder.frames()):
        patchify = task.model.patchify
        if task.codec is not None:
            frames, patchify = decoded_film(task.codec, task.model, frames), image_patchify(task.codec, patchify)
        strip = film_strip(frames, patchify)
    write(out, record, page(title, sections, facts_of(record)), strip)


def about_of(task: Task) -> dict[str, Any]:
    """What the file says of the run, before any metric."""
    options, images = task.options, task.chosen
    about: dict[str, Any] = {
        "format": "apd-evaluate",
        "version": 2,
        "command": shlex.join(["uv", "run", "apps/evaluate", *sys.argv[1:]]),
    }
    if options.model is not None:
        weights = {"weights": task.model.weights, "weights_sha256": file_sha256(options.model / "model.safetensors")}
        about |= {"model": str(options.model), **weights}
    if task.codec is not None:
        about["codec_digest"] = task.codec.digest
    if images is not None:
        about |= {"data": images.name, "part": images.part, "skipped": list(images.chosen.skipped)}
    return about | {
        "python": platform.python_version(),
        "packages": {**{name: version(name) for name in PACKAGES}, "torch": torch.__version__},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def facts_of(record: dict[str, Any]) -> dict[str, str]:
    """What of the record a page begins with."""
    facts = {"command": record["command"]}
    if "model" in record:
        facts["model"] = f"{record['model']}, {record['weights']}, SHA-256 {record['weights_sha256']}"
    if "codec_digest" in record:
        facts["autoencoder"] = f"digest {record['codec_digest']}"
    packages = ", ".join(f"{name} {number}" for name, number in record["packages"].items())
    facts["versions"] = f"Python {record['python']}, {packages}"
    facts["device"] = f"{record['device']}, {record['threads']} threads, {record['seconds']:.0f} seconds"
    return facts


if __name__ == "__main__":
    run_app("apps/evaluate", Options, evaluate, __doc__ or "", sys.argv[1:])
