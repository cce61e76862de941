"""Autoencoders of diffusers from local folders and files. Nothing is downloaded, and no pickle is opened."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .._device import usable
from ._codec import Codec, CodecError
from ._diffusers import Kind, built, codec_of

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention as diffusers called them until 2023; many published files still do."""


def with_config(kind: Kind, file: Path, device: str | torch.device) -> Codec:
    """A file of weights with its configuration beside it.

    Raises:
        CodecError: diffusers is not installed, or these are not the configuration and the weights of this kind.
    """
    beside = file.with_name(CONFIG)
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CodecError(f"{beside} cannot be read as JSON: {_line(error)}") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found != kind.name:
        raise CodecError(f"{beside} is not of an {kind.name} of diffusers: _class_name is {found!r}")
    return loaded(kind, config, beside, file, {name: renamed(name) for name in shapes_in(kind, file)}, device)


def loaded(
    kind: Kind,
    config: Mapping[str, Any],
    said_in: Path,
    file: Path,
    names: Mapping[str, str],
    device: str | torch.device,
) -> Codec:
    """An autoencoder in float32, whatever precision its file has.

    Args:
        said_in: where its configuration is from.
        names: diffusers' for each of the file's.
    """
    try:
        network = built(kind, config)
    except CodecError:
        raise
    except Exception as error:  # what is not its configuration fails in ways of its own
        raise CodecError(f"{said_in} does not describe an {kind.name}: {_line(error)}") from error
    device = usable(device, CodecError)
    try:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            state = {new: tensors.get_tensor(old).float() for old, new in names.items()}
        # The products of attention were convolutions of one pixel once.
        state = {name: w.flatten(1) if ".attentions." in name and w.ndim == 4 else w for name, w in state.items()}
        network.load_state_dict(state, assign=True)
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _no_weights(kind, file, error) from error
    return codec_of(kind, network)


def weights_at(source: Path, alone: bool) -> Path:
    """The file of weights that a folder or a file is.

    Args:
        alone: a file without a configuration beside it will do.
    """
    try:
        file = source / WEIGHTS if source.is_dir() else source
        if (
            file.suffix == ".safetensors"
            and file.is_file()
            and (file.with_name(CONFIG).is_file() or (alone and file == source))
        ):
            return file
    except OSError as error:
        raise CodecError(f"{source} cannot be read: {error.strerror}") from error
    nested = [source / name for name in ("vae", "codec", "model") if (source / name / CONFIG).is_file()]
    hint = f"; try {nested[0]}" if nested else ""
    pickles = "; pickles are not opened" if source.suffix == ".bin" or [*source.glob("*.bin")] else ""
    beside = "" if alone else f" with {CONFIG} beside it"
    raise CodecError(
        f"{source} is no autoencoder: expected a folder with {CONFIG} and {WEIGHTS}, or a .safetensors{beside}{hint}"
        f"{pickles}"
    )


def shapes_in(kind: Kind, file: Path) -> dict[str, tuple[int, ...]]:
    """Of the tensors in a file, by name."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
    except (OSError, SafetensorError) as error:
        raise _no_weights(kind, file, error) from error


def renamed(name: str) -> str:
    """In the names of today's diffusers."""
    return re.sub(r"(?<=attentions\.0\.)(query|key|value|proj_attn)\b", lambda old: OLD_NAMES[old[1]], name)


def _no_weights(kind: Kind, file: Path, error: Exception) -> CodecError:
    return CodecError(f"{file} does not hold the weights of this {kind.name}: {_line(error)}")


def _line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.200}"
