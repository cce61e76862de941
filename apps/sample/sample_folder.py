"""The folder that images are drawn into: what it holds, and `sampling.json`, which says how that was drawn."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apd_generate import Recipe, format_seeds, parse_seeds, written_aside
from apd_train.app import UsageError

FORMAT = "apd-generate/sampling"
SAME = ("recipe", "classes", "weights_sha256", "autoguidance_sha256", "codec_digest")
"""What makes an image: where one of these differs, it is another."""
OTHER = {
    "weights_sha256": "other weights",
    "autoguidance_sha256": "another model of autoguidance",
    "codec_digest": "another autoencoder",
}
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
FILMS = ("film.webp", "film.gif", "film.png")
MADE_OF_ALL = ("grid.png", "samples.npz", "levels.png", *FILMS)
"""Files that are made of all images."""
PACKAGES = ("apd-schedules", "apd-samplers", "apd-models", "apd-generate", "torch", "numpy", "pillow")


def file_of(out: Path, seed: int) -> Path:
    return out / f"seed-{seed:06}.png"


def asked(
    recipe: Recipe, classes: Sequence[str], weights: str, weak: str | None, codec: str | None = None
) -> dict[str, Any]:
    """What the record has of :data:`SAME`."""
    values = (recipe.to_dict(), list(classes), weights, weak, codec)
    return {name: value for name, value in zip(SAME, values, strict=True) if value is not None}


def begin(
    out: Path, wanted: Mapping[str, Any], seeds: Sequence[int], others: Iterable[str], overwrite: bool
) -> dict[str, Any]:
    """What is there of the images that are asked for, as a record to go on with.

    Where images are there that were drawn otherwise or nobody knows how, and may be overwritten, all of them are
    removed: a folder holds images of one kind. Nothing else is changed, and nothing at all that may not be overwritten.

    Args:
        wanted: how they are to be drawn, see :func:`asked`.
        others: names of further files that will be written.
        overwrite: images that are there do not count.

    Raises:
        UsageError: something is there that was drawn otherwise, or that nothing is known of.
    """
    record = _read(out / "sampling.json")
    fresh = {"format": FORMAT, **wanted, "seeds": "", "seconds": 0.0, "network_evaluations": 0, "token_evaluations": 0}
    fresh["files"] = sorted(others)
    if record is None:
        drawn = sorted(file.name for file in out.glob("seed-*.png"))
        names = (*(file_of(out, seed).name for seed in seeds), *drawn, *others, "sampling.json")
        there = next((name for name in names if (out / name).exists()), None)
        if there is not None and not overwrite:
            raise UsageError(
                f"{out} already holds {there}, and no sampling.json that says how it was drawn: pass --overwrite to "
                "replace it, or another --out"
            )
        if overwrite:
            _remove(out, {*others, "samples.npz", *FILMS})
        return fresh
    ours = record.get("files", MADE_OF_ALL)  # an earlier version does not say it
    foreign = next((name for name in others if name not in ours and (out / name).exists()), None)
    if foreign is not None and not overwrite:
        raise UsageError(
            f"{out} already holds {foreign}, which is of something else: pass --overwrite to replace it, or another "
            "--out"
        )
    differing = difference(record, wanted)
    if differing is not None and not overwrite:
        raise UsageError(
            f"{out} already holds images drawn otherwise, with {differing}: pass --overwrite to replace them, or "
            "another --out"
        )
    if differing is not None:
        _remove(out, ours)
        return fresh
    drawn_anew = set(seeds) if overwrite else set()
    kept = [seed for seed in seeds_of(record) if seed not in drawn_anew and is_whole(file_of(out, seed))]
    files = sorted({*ours, *others}) if "files" in record else [*MADE_OF_ALL]
    return {**fresh, **record, "files": files, "seeds": format_seeds(kept)} if kept else {**fresh, "files": files}


def is_whole(file: Path) -> bool:
    """Whether it is there, up to the last chunk of a PNG: not cut short by a full disk or a copy that was stopped."""
    try:
        with file.open("rb") as content:
            content.seek(-len(PNG_END), os.SEEK_END)
            return content.read() == PNG_END
    except OSError:  # also of one that is shorter than its end
        return False


def _remove(out: Path, others: Iterable[str]) -> None:
    for file in (*out.glob("seed-*.png"), *(out / name for name in others)):
        file.unlink(missing_ok=True)


def seeds_of(record: Mapping[str, Any]) -> list[int]:
    """Of the images that a record speaks of."""
    return parse_seeds(record["seeds"]) if record["seeds"] else []


def difference(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """What a record says otherwise, in words; None where nothing."""
    for name in SAME:
        there, here = record.get(name), wanted.get(name)
        if there == here:
            continue
        if name == "recipe" and isinstance(there, dict) and isinstance(here, dict):
            field = next(each for each in {**here, **there} if there.get(each) != here.get(each))
            return f"{field} {_said(there.get(field))}, not {_said(here.get(field))}"
        if name == "classes":
            return f"classes {_said(there)}, not {_said(here)}"
        return OTHER[name]
    return None


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    """``sampling.json``, whole or as it was."""
    with written_aside(out / "sampling.json") as file:
        file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def platform_facts() -> dict[str, Any]:
    return {"python": platform.python_version(), "packages": {name: version(name) for name in PACKAGES}}


def _read(file: Path) -> dict[str, Any] | None:
    """None where there is no record of this kind."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or not isinstance(record["recipe"], dict):
            return None
        ", ".join(record["classes"])
        seeds_of(record)
        float(record["seconds"]), int(record["network_evaluations"]), int(record["token_evaluations"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record


def _said(value: Any) -> str:
    text = "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
