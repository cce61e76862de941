"""Whether a run that is there is the one that is to go on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apd_models import LatentScale

from ._run_config import ConfigError, RunConfig
from ._run_folder import RunFolderError, plain

MAY_DIFFER = frozenset(["data", "log_every", "evaluate_every"])
"""Data may have moved, if they are the same; how often a run reports changes nothing that it learns."""

MAY_CHANGE = frozenset(
    "steps learning_rate rate_schedule rate_constant_steps warmup_steps final_rate clip_norm max_skipped".split()
)
"""Of the steps to come: a run may be made longer, and one that has diverged be gone on with more carefully."""

OF_THE_DATA = ("images", "held_out", "class_names", "latents")
APART = 0.02
"""Difference from which data are others, of their scale, relative to it, and of means of values in [-1, 1]; decoders of
one image differ by less."""
STANDING_IN = 4
"""Of 16 images."""


@dataclass(frozen=True, slots=True)
class Before:
    """What of a run matters when it goes on.

    Args:
        changed: settings of the steps to come that are other ones now, as they were.
        data_std: what the model takes the data's standard deviation for.
        decoded_otherwise: the images differ by a rounding.
    """

    changed: dict[str, Any]
    data_std: float
    decoded_otherwise: bool = False


def check_same(folder: Path, record: Mapping[str, Any], config: RunConfig, facts: Mapping[str, Any]) -> Before:
    """Refuses to go on with a run as with another.

    Args:
        record: what ``config.json`` says.
        facts: about the run that is to go on.

    Returns:
        What of the run that is there matters to the one that goes on.

    Raises:
        ConfigError: names the first difference.
    """
    began, now = as_last(record), plain(config)
    changed = {name: began.get(name) for name in sorted(MAY_CHANGE) if began.get(name) != now[name]}
    for name, value in now.items():
        if name not in MAY_DIFFER | MAY_CHANGE and (name not in began or began[name] != value):
            before = began.get(name, "nothing of it")
            raise ConfigError(
                f"{folder} was begun with {name} {before}, now it is {value}: resume with what it was begun with, or "
                "choose another --out"
            )
    _check_codec(folder, record.get("latents"), facts.get("latents"))
    for name in (*OF_THE_DATA, "level_sampler", "recipe", "error_head_of", "start_sha256"):
        if _without_codec(record.get(name)) != _without_codec(facts.get(name)):
            same = "the same data" if name in OF_THE_DATA else "what it was begun with"
            raise ConfigError(
                f"{folder} was begun with {name.replace('_', ' ')} {_short(record.get(name))}, now it is "
                f"{_short(facts.get(name))}: resume with {same}, or choose another --out"
            )
    before, after = record.get("data_std"), facts["data_std"]
    if not isinstance(before, float) or abs(after - before) > APART * before:
        raise ConfigError(
            f"{folder} was begun with data of standard deviation {before}, now it is {after}: resume with the same "
            "data, or choose another --out"
        )
    return Before(changed, before, _decoded_otherwise(folder, record, facts))


def _decoded_otherwise(folder: Path, record: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the images are the same but for rounding, not to the bit. Refuses others, and another order."""
    if "labels_sha256" not in record:  # a run of an earlier version does not say it
        return False
    same = _last(record, "data_sha256") == facts["data_sha256"]
    there, here = ([*map(float, each["data_quarters"].split())] for each in (record, facts))
    others = {k // 4 for k, (a, b) in enumerate(zip(there, here, strict=True)) if abs(a - b) > APART}
    # Of images that are known by their names, a few may be another one's, which stands in for one that is damaged.
    if record["labels_sha256"] != facts["labels_sha256"] or len(others) > (STANDING_IN if same else 0):
        raise ConfigError(
            f"{folder} was begun with other images, of other classes or in another order: resume with the same data, "
            "or choose another --out"
        )
    return not same


def _last(record: Mapping[str, Any], name: str) -> Any:
    """What the run was begun with, or what was noted when it was resumed last."""
    return next((each[name] for each in reversed(record.get("resumed", [])) if name in each), record[name])


def said_of(latents: LatentScale) -> dict[str, Any]:
    """As ``config.json`` has it."""
    return {name: value for name, value in asdict(latents).items() if value is not None}


def as_last(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a run went on with last."""
    config = dict(record.get("config", {}))
    for resumption in record.get("resumed", []):
        config |= resumption.get("changed", {})
    return config


def check_step(folder: Path, step: int, config: RunConfig) -> None:
    """Refuses to go on to a step that the run has passed."""
    if step > config.steps:
        raise RunFolderError(f"{folder} is at step {step} already: --steps {config.steps} would go back")


def _check_codec(folder: Path, before: Any, now: Any) -> None:
    """Refuses latents of another autoencoder; a run or data that do not say of which one may go on."""
    digests = [said.get("codec") if isinstance(said, Mapping) else None for said in (before, now)]
    if None not in digests and digests[0] != digests[1]:
        raise ConfigError(
            f"{folder} was begun with latents of the autoencoder {digests[0]:.12}…, now they are of {digests[1]:.12}…: "
            "resume with the same data, or choose another --out"
        )


def _without_codec(value: Any) -> Any:
    """As JSON gives it back, without what :func:`_check_codec` looks at."""
    plain = json.loads(json.dumps(value))
    return {name: each for name, each in plain.items() if name != "codec"} if isinstance(plain, dict) else plain


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
