"""Which weights drew an image."""

import hashlib
from pathlib import Path


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights of a model folder, in hexadecimal.

    Raises:
        OSError: there are none, or they cannot be read.
    """
    with (folder / "model.safetensors").open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
