"""Where weights are to lie."""

import torch


def usable(device: str | torch.device, refusal: type[ValueError]) -> torch.device:
    """A device that a tensor can be made on.

    Raises:
        refusal: it is none, in one line.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:  # PyTorch without CUDA asserts
        reason = str(error).strip().split("\n")[0]
        raise refusal(f"device {str(device)!r} cannot be used: {reason:.200}") from error
