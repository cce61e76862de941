"""Reading weights from files: what is read is what was checked, and nothing in a file is ever run."""

import hashlib
import io
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn


class WeightsError(ValueError):
    """A file does not hold the weights that were asked for. The message is one line."""


def read_weights(file: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors of a ``.safetensors`` file or of a state dict saved by PyTorch, in float32, and the file's SHA-256.

    Counts of batches, which batch normalisation keeps in training only, are left out.

    Args:
        sha256: the only digest that is right; another file is refused before it is opened as weights.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, found):
        raise WeightsError(f"{file} is another file than expected: its SHA-256 is {found:.12}…, not {sha256:.12}…")
    try:
        if file.suffix == ".safetensors":
            state = safetensors.torch.load(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {name: x.float() for name, x in state.items() if not name.endswith("num_batches_tracked")}, found
    except Exception as error:  # a damaged pickle can raise anything; PyTorch's advice is to trust it, ours is not
        raise WeightsError(
            f"{file} is not a state dict of tensors and nothing else; no other is opened, as a pickle can run code"
        ) from error


def load_weights(network: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Gives ``network``, made on the device ``meta``, exactly these weights, and makes it ready to evaluate."""
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{file} does not hold the weights of this network: {reason:.200}") from error
    network.eval().requires_grad_(False)
