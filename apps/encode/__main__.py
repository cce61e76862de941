"""Encode images into latents, which models of latents are trained on.

  uv run apps/encode --data imagenet/train --codec sd-vae --size 256 --out imagenet256
  uv run apps/encode --data photos --codec runs/autoencoder-kl-f4/model --size 64 --out photos-latents
  uv run apps/encode --data imagenet/train --codec sd-vae --size 256 --out imagenet256 --part 3/8
  uv run apps/encode --out imagenet256 --verify

Of an oblong image, the square in its centre is encoded. The set holds what the autoencoder says of each image and of
its mirror image, means and log-variances, from which training draws anew; their mean and standard deviation, by which
training standardises them; and the autoencoder itself, which goes into the folder of a model that is trained on them.
Stopped, in whatever way, it goes on with the same command and --resume.
"""

import os
import sys
import time

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    packages = ["apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train"]
    install_import_hook(packages, "beartype.beartype")

import torch
from encode_display import Display
from encode_options import Options, Plan, check, device_here, plan_of
from rich.console import Console

from apd_metrics import psnr
from apd_train import DataError, Encoded, encode_set, load_set_images, round_trip, verify_set
from apd_train.app import run_app

TRIED = 16
"""So many images are decoded at the end, to see how good the autoencoder is on them."""


def encode(options: Options) -> None:
    console = Console(soft_wrap=True, markup=False, highlight=False)
    check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.verify:
        return verify(options, console)
    with console.status("reading the list of images …"):
        plan = plan_of(options)
    console.print(said_before(plan))
    warn = lambda problem: console.print(problem, style="yellow")
    begun = time.perf_counter()
    with Display(console) as display:
        done = encode_set(
            *(plan.wanted, options.out, options.batch, plan.workers, plan.part, options.resume, options.overwrite),
            source=str(options.data),
            on_batch=display,
            on_problem=warn,
        )
    console.print(said_after(plan, done, time.perf_counter() - begun))
    return None


def said_before(plan: Plan) -> str:
    images, codec = plan.wanted.images, plan.wanted.codec
    i, n = plan.part
    return (
        f"{len(images)} images of {images.size}×{images.size} pixels, "
        f"{f'{len(images.class_names)} classes' if images.class_names else 'no classes'}; latents of "
        f"{codec.channels}×{plan.side}×{plan.side}, {plan.wanted.dtype}"
        f"{', also of mirror images' if plan.wanted.mirror else ''}; "
        f"{plan.device.type}{f', part {i}/{n}' if n > 1 else ''} → {plan.options.out}"
    )


def said_after(plan: Plan, done: Encoded, seconds: float) -> str:
    """What has been done, and what may be done with it."""
    pace = f"{done.images} images in {seconds:.0f} s, {done.images / max(seconds, 1e-9):.1f} a second"
    if done.record is None:
        return f"{pace}; {len(done.missing)} of {plan.wanted.shards} files are for the other parts to make"
    images, decoded = round_trip(plan.wanted, TRIED)
    quality = float(psnr(decoded.clamp(-1, 1), images).mean())  # NaN of none
    recipe = recipe_for(done.record.size)
    more = "" if plan.wanted.mirror or recipe == "emoji64-latent" else " --no-flip"
    more += " --patch 1" if done.record.size % 2 else ""
    return "\n".join(
        [
            f"{pace}; {done.record.images} in the set, {len(done.record.skipped)} unreadable ones left out",
            f"decoded again, {len(images)} of them have a PSNR of {quality:.1f} dB on average; train on the set by",
            f"  uv run apps/train {recipe} --data {plan.options.out} --size {done.record.size}{more}",
        ]
    )


def recipe_for(size: int) -> str:
    """Of apps/train, for latents of this side."""
    return "emoji64-latent" if size <= 16 else "imagenet256-latent-b2"


def verify(options: Options, console: Console) -> None:
    """Says what is wrong with a set, if anything is."""
    images = load_set_images(options.out, options.data)
    if images is None:
        console.print("the images are not where they were: none is encoded anew; --data says where they are")
    with Display(console, "files") as display:
        faults = verify_set(options.out, images, device_here(), display)
    for fault in faults:
        console.print(fault, style="red")
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise DataError(f"{options.out} has {count}: it cannot be relied on")
    console.print(f"{options.out} is what was written, and complete")


if __name__ == "__main__":
    run_app("apps/encode", Options, encode, __doc__ or "", sys.argv[1:])
