"""float32 that is float32, whatever is switched on around."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_cudnn: Any = torch.backends.cudnn  # their parts are set at run time
_mkldnn: Any = torch.backends.mkldnn
FASTER = (torch.backends.cuda.matmul, _cudnn.conv, _mkldnn.matmul, _mkldnn.conv)


@contextmanager
def float32_throughout(device: torch.device) -> Iterator[None]:
    """No autocast, and no products in TF32 or bfloat16, which PyTorch allows for convolutions on GPUs by default: with
    them features are off by about 1e-3, differently on each machine."""
    before = [backend.fp32_precision for backend in FASTER]
    try:
        for backend in FASTER:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(FASTER, before, strict=True):
            backend.fp32_precision = "none"  # inherited, as it may have been: later changes of all go on to count
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision
