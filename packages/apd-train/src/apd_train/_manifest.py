"""The manifest of a checkpoint: what files it is made of, and how to know them again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ._files import digest, write_text_atomically

MANIFEST = "manifest.json"
_FORMAT = "apd-train/checkpoint"


class DamagedError(ValueError):
    """What is wrong with a checkpoint. The message is one line and names the file."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself.

    Args:
        step: steps done.
        facts: plain numbers and texts, as JSON holds them.
        sizes: of its files, in bytes, by name.
        digests: of its files, by name, see :func:`apd_train._files.digest`.
    """

    step: int
    facts: Mapping[str, Any]
    sizes: Mapping[str, int]
    digests: Mapping[str, str]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``, with a digest of itself."""
    body = {"format": _FORMAT, **asdict(manifest)}
    write_text_atomically(folder / MANIFEST, json.dumps({**body, "digest": _digest(body)}, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Reads ``manifest.json``.

    Raises:
        DamagedError: it is missing, cannot be read, or is not what was written.
    """
    try:
        body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        stated = body.pop("digest")
        whole, kind = stated == _digest(body), body.pop("format")
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing") from None
    except OSError as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise DamagedError(f"{MANIFEST} is damaged: it is not a manifest") from None
    if not whole or kind != _FORMAT:
        raise DamagedError(f"{MANIFEST} is damaged: its digest differs" if not whole else f"{MANIFEST} is a {kind}")
    return Manifest(**body)


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Looks whether all files are there, whole by their sizes, and no other tensors.

    Raises:
        DamagedError: names the first file that is not so.
    """
    for name, size in manifest.sizes.items():
        if not (folder / name).is_file():
            raise DamagedError(f"{name} is missing")
        found = (folder / name).stat().st_size
        if found != size:
            raise DamagedError(f"{name} has {found} bytes instead of {size}")
    strange = {file.name for file in folder.glob("*.safetensors")} - {*manifest.sizes}
    if strange:
        raise DamagedError(f"{min(strange)} does not belong to it")


def check_digest(folder: Path, manifest: Manifest, name: str) -> None:
    """Reads a file.

    Raises:
        DamagedError: it cannot be read, or is not what was written.
    """
    try:
        same = digest(folder / name) == manifest.digests[name]
    except OSError as error:
        raise DamagedError(f"{name} cannot be read: {error.strerror}") from error
    if not same:
        raise DamagedError(f"{name} is damaged: its digest differs")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()
