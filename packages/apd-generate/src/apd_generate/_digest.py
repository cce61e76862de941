"""Which weights drew an image."""

import hashlib
from pathlib import Path

_NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors")


def weights_sha256(source: Path) -> str:
    """SHA-256 of the weights of a model's or an autoencoder's folder, or of the file itself, in hexadecimal.

    Raises:
        OSError: there are none, or they cannot be read.
    """
    file = source
    if source.is_dir():
        file = next((source / name for name in _NAMES if (source / name).is_file()), source / _NAMES[0])
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
