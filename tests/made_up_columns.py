"""What is measured of a model, made up."""

from typing import Any

import torch
from torch import Generator

from apd_generate import MASK_FAMILIES


def result(shift: float, seed: int) -> dict[str, Any]:
    """Of a model that is worse by ``shift`` in every column."""
    draw = lambda count: torch.randn(count, generator=Generator().manual_seed(seed), dtype=torch.float64)
    pulled = lambda value: {
        "value": value + shift,
        "standard_error": 0.5,
        "pulls": {"images": (draw(9) + shift).tolist(), "reference": draw(7).tolist()},
    }
    each = lambda value: (draw(8) + value + shift).tolist()
    return {
        "kid": pulled(1.0),
        "raster_kid": pulled(2.0),
        "filled": {name: {"distance": each(k), "kid": pulled(3.0 + k)} for k, name in enumerate(MASK_FAMILIES)},
        "bits/dim": {name: each(3.0) for name in ("synchronous", "raster", "quad")},
        "loss": {name: each(4.0) for name in ("shared", "fronts", "context")},
    }


FLOORS = {
    "held_out": {"value": 0.1, "standard_error": 0.01, "images": 500},
    "mean_image": {"value": 9.0, "standard_error": 0.1},
}
