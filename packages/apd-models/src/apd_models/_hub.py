"""Model folders: ``config.json`` and ``model.safetensors``. Loading one never executes code."""

import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ._codecs import LatentScale
from ._codecs._codec import digest_of
from ._config import DiTConfig
from ._device import usable
from ._dit import DiT
from ._header import sort_metadata
from ._patch import Patchify

CODEC = "codec"
"""Folder, within that of a model of latents, of their autoencoder."""

FORMAT = "apd-models/dit"
VERSION = 1


class ModelFolderError(ValueError):
    """A folder does not hold a model that this library can load. The message is one line."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A model and what is needed to use it.

    Args:
        model: in evaluation mode, its weights frozen.
        patchify: from its tokens to images with values in [-1, 1], or to standardised latents.
        class_names: in the order of its labels; empty for an unconditional model.
        weights: which weights these are, such as ``"ema(sigma_rel=0.05) at step 3000"``.
        latents: how latents were standardised for it; None for a model of pixels, and where the folder does not say.
        codec: the folder of their autoencoder, for :func:`load_codec`; None where the model folder has none.
    """

    model: DiT
    patchify: Patchify
    class_names: tuple[str, ...]
    weights: str
    latents: LatentScale | None = None
    codec: Path | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the model's configuration and weights, in hexadecimal. How they lie in their file does not
        matter."""
        return digest_of(asdict(self.model.config), self.model.state_dict())


def save_pretrained(
    folder: str | Path,
    model: DiT,
    patchify: Patchify,
    class_names: tuple[str, ...],
    weights: str,
    latents: LatentScale | None = None,
    codec: str | Path | None = None,
) -> None:
    """Writes a model folder, whole or not at all; one that is there already is replaced, with all that is in it.

    Args:
        weights: which weights these are (raw, or which average, at which step); kept in both files.
        latents: of a model of latents, how they were standardised.
        codec: folder of their autoencoder, which becomes a part of the model folder; its weights are linked where the
            file system can, else copied.

    Raises:
        FileExistsError: the folder is there, and is neither empty nor one of a model.
        ValueError: the model is in half precision, or is none of these patches and names.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    _check_consistent(model.config, patchify, class_names, latents)
    _check_precision(model, ValueError)
    config = {
        "format": FORMAT,
        "version": VERSION,
        "model": asdict(model.config),
        "patchify": asdict(patchify),
        "class_names": list(class_names),
        "weights": weights,
        **({} if latents is None else {"latents": asdict(latents)}),
    }
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a model folder")
    if folder.exists() and not _is_model(folder):
        raise FileExistsError(f"{folder} holds other things than a model, which would be lost: choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.draft-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        try:
            save_file(tensors, draft / "model.safetensors", metadata={"format": FORMAT, "weights": weights})
            sort_metadata(draft / "model.safetensors")
        except SafetensorError as error:  # of the operating system, in its words
            raise OSError(str(error)) from error
        (draft / "model.safetensors").chmod(0o644)  # as other files; the library keeps it from other users
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if codec is not None:
            shutil.copytree(codec, draft / CODEC, copy_function=_link, ignore=shutil.ignore_patterns(".draft-*"))
        for file in draft.rglob("*"):
            _flush(file)
        if folder.exists():
            old = draft.with_name(draft.name + "-old")
            folder.rename(old)
            try:
                draft.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            draft.rename(folder)
        _flush(folder.parent)
        left = re.compile(rf"\.{re.escape(folder.name)}\.draft-[a-z0-9_]{{8}}(-old)?")
        for other in folder.parent.iterdir():  # of processes that were killed while they wrote this folder
            if left.fullmatch(other.name):
                shutil.rmtree(other, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def from_pretrained(folder: str | Path, device: str | torch.device = "cpu") -> Pretrained:
    """Loads a model folder, for use: to train the model on, ``model.train().requires_grad_(True)``.

    Raises:
        ModelFolderError: the folder is missing, incomplete, damaged or of another kind; or there is no such device.
    """
    folder = Path(folder)
    config = _read_config(folder)
    try:
        shape: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in config["model"].items()
        }
        patchify = Patchify(**config["patchify"])
        class_names, weights = tuple(map(str, config["class_names"])), str(config["weights"])
        said = config.get("latents")
        latents = None if said is None else LatentScale.said(said)
        _check_consistent(DiTConfig(**shape), patchify, class_names, latents)
        with torch.device("meta"):
            model = DiT(DiTConfig(**shape))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ModelFolderError(f"{folder / 'config.json'} does not describe a DiT: {reason:.300}") from error
    device = usable(device, ModelFolderError)
    file = folder / "model.safetensors"
    try:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}
        model.load_state_dict(state, assign=True)
        _check_precision(model, SafetensorError)
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFolderError(f"{file} does not hold the weights of this model: {reason:.200}") from error
    codec = folder / CODEC if (folder / CODEC).is_dir() else None
    return Pretrained(model.eval().requires_grad_(False), patchify, class_names, weights, latents, codec)


def _is_model(folder: Path) -> bool:
    """Whether a folder is empty or of a model, damaged or not: nobody misses it when it is replaced."""
    try:
        of = json.loads((folder / "config.json").read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {entry.name for entry in folder.iterdir()} <= {"config.json", "model.safetensors", CODEC, ".DS_Store"}
    return of == FORMAT


def _link(source: str, target: str) -> None:
    if Path(source).suffix == ".safetensors":  # what is small others may write over in its place
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one that cannot
            pass
    shutil.copyfile(source, target)


def _check_precision(model: DiT, refusal: type[Exception]) -> None:
    precisions = sorted({str(tensor.dtype) for tensor in model.state_dict().values()})
    if precisions not in (["torch.float32"], ["torch.float64"]):
        raise refusal(f"weights are in float32 throughout, and these in {', '.join(precisions)}: model.float()")


def _check_consistent(
    config: DiTConfig, patchify: Patchify, class_names: tuple[str, ...], latents: LatentScale | None
) -> None:
    if len(class_names) != config.classes:
        raise ValueError(f"{len(class_names)} class names for a model of {config.classes} classes")
    if (patchify.grid, patchify.token_dim) != (config.grid, config.token_dim):
        raise ValueError(
            f"patchify makes {patchify.grid} tokens of {patchify.token_dim}, the model takes {config.grid} of "
            f"{config.token_dim}"
        )
    if latents is not None and latents.channels != patchify.channels:
        raise ValueError(f"latents standardised in {latents.channels} channels, for a model of {patchify.channels}")


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        nested = f"; try {folder / 'model'}" if (folder / "model" / "config.json").is_file() else ""
        missing = not file.is_file()
    except OSError as error:
        raise ModelFolderError(f"{folder} cannot be read: {error.strerror}") from error
    if missing:
        raise ModelFolderError(f"{folder} holds no model: there is no config.json in it{nested}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} cannot be read as JSON: {error}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise ModelFolderError(f"{file} is not of a model of this kind: format is {found!r}, not {FORMAT!r}{nested}")
    if config.get("version") != VERSION:
        raise ModelFolderError(
            f"{file} has version {config.get('version')!r}, and this library reads version {VERSION}"
        )
    return config


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
