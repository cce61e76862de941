"""Foreign checkpoints from files and folders. Reading one never executes code."""

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .._hub import ModelFolderError

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
PIPELINE, CONFIG, WEIGHTS = "model_index.json", "config.json", "diffusion_pytorch_model"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights by name, and what came with them.

    Args:
        tensors: by their own names; whether they are tensors is not checked yet.
        source: what they are: ``"ema of 0400000.pt"``.
        config: diffusers' ``config.json``; empty where there is none.
        scheduler: diffusers' ``scheduler_config.json``, likewise.
        arguments: those of the training script, where it saved them.
        labels: class names by number, where a pipeline has them.
    """

    tensors: Mapping[str, object]
    source: str
    config: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)


def read(source: Path) -> Checkpoint:
    """A checkpoint file, a folder that holds one, or a folder of diffusers: a transformer or a whole pipeline."""
    if not source.exists():
        raise ModelFolderError(f"{source} does not exist")
    pipeline = source / PIPELINE
    if pipeline.is_file():
        scheduler, labels = source / "scheduler" / "scheduler_config.json", _json(pipeline).get("id2label")
        return replace(
            _read_file(_weights_in(source / "transformer")),
            scheduler=_json(scheduler) if scheduler.is_file() else {},
            labels=labels if isinstance(labels, dict) else {},
        )
    return _read_file(_weights_in(source) if source.is_dir() else source)


def _weights_in(folder: Path) -> Path:
    """The file of weights in a folder: diffusers' by its name, else the only one there."""
    for name in (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.safetensors.index.json", f"{WEIGHTS}.bin"):
        if (folder / name).is_file():
            return folder / name
    kinds = (".safetensors", *PICKLES)
    files = sorted(file for file in folder.iterdir() if file.suffix in kinds) if folder.is_dir() else []
    if len(files) != 1:
        raise ModelFolderError(f"{folder} holds {len(files)} files of weights ({', '.join(kinds)}): name one")
    return files[0]


def _read_file(file: Path) -> Checkpoint:
    beside = file.with_name(CONFIG)
    config = _json(beside) if beside.is_file() else {}
    if "format" in config:
        raise ModelFolderError(f"{file.parent} is a model of this library already: from_pretrained loads it")
    if file.suffix in PICKLES:
        content = _unpickled(file)
        name = next((name for name in ("ema", "model", "state_dict") if isinstance(content.get(name), dict)), None)
        weights, arguments = content if name is None else content[name], content.get("args")
        return Checkpoint(
            {str(name): tensor for name, tensor in weights.items()},
            file.name if name is None else f"{name} of {file.name}",
            config=config,
            arguments=vars(arguments) if isinstance(arguments, argparse.Namespace) else {},
        )
    if file.name.endswith(".index.json"):
        of = _json(file).get("weight_map")
        shards = sorted({Path(str(shard)).name for shard in of.values()}) if isinstance(of, dict) else []
        if not shards or "" in shards:
            raise ModelFolderError(f"{file} does not say in which files the weights are")
        tensors = {name: tensor for shard in shards for name, tensor in _safetensors(file.with_name(shard)).items()}
    elif file.suffix == ".safetensors":
        tensors = _safetensors(file)
    else:
        raise ModelFolderError(f"{file} is none of .safetensors, {', '.join(PICKLES)}")
    return Checkpoint(tensors, f"{file.parent.name}/{file.name}" if config else file.name, config=config)


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelFolderError(f"{file} cannot be read as safetensors: {error}") from error


def _unpickled(file: Path) -> dict[str, Any]:
    """Tensors, numbers, strings, lists and dicts; and the arguments that the training scripts of DiT and SiT save."""
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # what is not a checkpoint fails in ways of its own
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {wanted[1]}" if wanted else f"{type(error).__name__}: {error}".split("\n")[0]
        raise ModelFolderError(
            f"{file} cannot be loaded as weights only ({reason:.200}), and nothing else is: where you trust it, "
            "save its state dict as safetensors"
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{file} holds a {type(content).__name__}, not a checkpoint")
    return content


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{file} does not hold a JSON object")
    return content
