"""What is left of a completion: pictures and `inpainting.json`, whole or not at all."""

import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from inpaint_jobs import Job
from inpaint_plan import Plan, Read
from PIL import Image

from apd_generate import (
    Completed,
    ImageError,
    contact_sheet,
    crop_image,
    fit_levels,
    hide,
    shown,
    spread,
    spread_picture,
    to_image,
)
from apd_models import Patchify
from apd_train import WriteError
from apd_train.app import UsageError
from apd_train.drawing import Dilated

THUMBNAIL = 512
"""Longest side on the sheet of images that were completed in tiles."""
FORMAT = "apd-generate/inpainting"
RECORD = "inpainting.json"
ESCAPED = "backslashreplace"
"""How JSON has the bytes of a file name that are no UTF-8: ``\\udcff`` is what it calls them itself."""
OURS = ("completed-*.png", "candidate-*.png", "shown.png", "sheet.png", "variance.png", "levels.png", RECORD)
PACKAGES = ("apd-schedules", "apd-samplers", "apd-models", "apd-generate", "torch", "numpy", "pillow")


def is_there(out: Path, asked: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether a folder holds what is asked for.

    Raises:
        ImageError: what it holds is of another image or mask, and may not be overwritten.
        UsageError: it holds something else, and may not be overwritten.
    """
    record = read_record(out)
    if overwrite:
        return False
    if record is not None:
        differing = next((name for name in asked if record.get(name) != asked[name]), None)
        if differing is None:
            return all((out / name).exists() for name in record["files"])
        # Of a folder, one image that is another now is passed over; other settings are of them all.
        kind = ImageError if differing in ("image_sha256", "mask_sha256") else UsageError
        raise kind(
            f"{out} already holds completions made otherwise ({_said(differing)} was another): pass --overwrite to "
            "replace them, or another --out"
        )
    there = sorted(path.name for pattern in OURS for path in out.glob(pattern))
    if there:
        raise UsageError(
            f"{out} already holds {there[0]}, and no {RECORD} that says how it was made: pass --overwrite to replace "
            "it, or another --out"
        )
    return False


def read_record(out: Path) -> dict[str, Any] | None:
    """None where there is none of this kind."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        return record if record["format"] == FORMAT and isinstance(record["files"], list) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def pictures(done: Completed, seeds: Sequence[int], patchify: Patchify, levels: torch.Tensor) -> dict[str, Image.Image]:
    """By file name.

    Args:
        levels: that the image's pixels started from.
    """
    found = {f"completed-{seed:06}.png": image for seed, image in zip(seeds, done.images, strict=True)}
    if len(done.windows) == 1:
        (window,) = done.windows
        preview, made = shown(window.fitted.pixels, window.levels, window.mask), window.made
        found |= {f"candidate-{seed:06}.png": to_image(image) for seed, image in zip(seeds, made, strict=True)}
    else:
        made, preview = thumbnails(done.images, levels)
    found["shown.png"] = enlarged(to_image(preview))
    found["sheet.png"] = contact_sheet(preview, made, seeds, patchify if len(done.windows) == 1 else None)
    if len(seeds) > 1 and len(done.windows) == 1:
        found["variance.png"] = spread_picture(made, patchify)
    return found


def record_of(
    plan: Plan,
    job: Job,
    asked: Mapping[str, Any],
    read: Read,
    done: Completed,
    measured: Sequence[Dilated],
    seconds: float,
) -> dict[str, Any]:
    """How all was made and what it cost.

    Args:
        measured: of a model of latents, how far hiding moves them, in each window.
    """
    first, whole = done.windows[0], len(done.windows) == 1
    report = (
        [first.fitted.report, first.mask.report] if whole else [f"{len(done.windows)} tiles", *first.fitted.changes]
    )
    if measured and measured[0].report:
        report.append(("" if whole else "in the first ") + measured[0].report)
    spreads = None
    if whole and len(plan.seeds) > 1:
        rows = spread(first.made, plan.patchify).reshape(plan.patchify.grid).tolist()
        spreads = [[round(value, 6) for value in row] for row in rows]
    return {
        "format": FORMAT,
        "model": str(plan.options.model),
        "weights": plan.pretrained.weights,
        "image": str(job.image),
        "mask": None if job.mask is None else str(job.mask),
        **asked,
        "report": [*report, *read.notes],
        "pixels": read.levels.numel(),
        "known_pixels": int((read.levels == 0).sum()),
        "windows": [list(window.fitted.box) for window in done.windows],
        "given_up_pixels": sum(window.mask.given_up for window in done.windows),
        "grown_cells": None if plan.codec is None else [window.mask.grown for window in done.windows],
        "measured": [each.record for each in measured],
        "variance": spreads,
        "network_evaluations": done.evaluations,
        "token_evaluations": done.token_evaluations,
        "seconds": round(seconds, 3),
        "device": str(plan.pretrained.model.device),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def thumbnails(images: Sequence[Image.Image], levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of any size as small ones, and the first of them with what was not known in blue."""
    width, height = images[0].size
    factor = min(1.0, THUMBNAIL / max(width, height))
    size, whole = Patchify(max(1, round(height * factor)), max(1, round(width * factor)), 3, 1), (0, 0, width, height)
    small = torch.stack([crop_image(image, size, whole).pixels for image in images])
    return small, hide(small[0], fit_levels(levels, whole, size) == 0)


def enlarged(image: Image.Image, side: int = 256) -> Image.Image:
    """By a whole factor, to about ``side`` pixels of height."""
    factor = max(1, round(side / image.height))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def write_whole(out: Path, found: Mapping[str, Image.Image], record: Mapping[str, Any]) -> None:
    """Writes pictures and record beside their place. A folder that is not there yet appears whole; in one that is, the
    record goes first, comes back last, and what it had listed and is not made anew is removed.

    Raises:
        WriteError: the system refuses it; then the folder has a record with all its files, or none.
    """
    names = sorted(found)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place_of_draft = out if out.is_dir() else out.parent
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}-", dir=place_of_draft) as place:
            draft = Path(place) / "draft"
            draft.mkdir()
            for name, image in found.items():
                image.save(draft / name)
            text = json.dumps({**record, "files": names}, indent=2, ensure_ascii=False)
            text = re.sub(r"\[[\d\s,.e+-]*\]", lambda found: " ".join(found[0].split()), text)  # numbers in rows
            (draft / RECORD).write_text(text + "\n", encoding="utf-8", errors=ESCAPED)
            for file in draft.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            if not out.exists():
                draft.rename(out)
                return
            there = read_record(out)
            old = there["files"] if there else [file.name for of in OURS for file in out.glob(of)]
            (out / RECORD).unlink(missing_ok=True)
            for name in {Path(str(name)).name for name in old} - {*names}:
                (out / name).unlink(missing_ok=True)
            for name in (*names, RECORD):
                (draft / name).replace(out / name)
    except OSError as error:
        raise WriteError(f"the completions cannot be written to {out}: {error.strerror or error}") from error


def _said(name: str) -> str:
    return name.removesuffix("_sha256").replace("_", " ")
