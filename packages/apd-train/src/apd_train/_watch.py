"""What to watch in training: where in level and in spread the loss is, memory, and how busy the device is."""

import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from apd_samplers import Draw

LEVEL_BINS = 10
"""Cells of the flow level, each a tenth wide."""
SPREAD_BINS = 5
"""Cells of the spread of a map, each a fifth wide."""


@torch.no_grad()
def binned(mean: Float[Tensor, "b n d"], x: Float[Tensor, "b n d"], draw: Draw) -> Float[Tensor, "2 bins"]:
    """Squared errors of the velocity, gathered by noise level and by how far apart the levels of a map lie.

    The error of an element is ``((x̂ - x) / t)²`` with ``t`` its flow level: that of the velocity ``eps - x`` of the
    rectified flow, near 1 for a model that knows nothing of data of unit variance. It does not depend on the run's
    weighting, so two runs can be compared. With ``flow_weighting``, the default, it is what the loss averages.

    Elements that weigh nothing, such as those given as context, are left out, and so are errors that are not finite.
    The numbers stay on the device, and those of steps and of processes may be added up.

    Args:
        mean: the model's guess of the clean tokens.
        x: the clean tokens.
        draw: their noise map, and what they weigh.

    Returns:
        Sums of errors and, below, the number of errors: of each cell of the level, then of each cell of the spread,
        which is the largest less the smallest level of a sample's map. In float32.
    """
    shape = draw.noise.log_snr.shape
    level = draw.noise.flow_level.to(x.device, torch.float32)
    error = ((mean.float() - x.float()) / level).square()
    if shape[-1] == 1:  # one cell a token: its elements go together
        error = error.mean(-1, keepdim=True)
    counts = (draw.weight > 0).expand(error.shape) & error.isfinite()
    error = torch.where(counts, error, 0.0)
    spread = level.flatten(1).amax(1) - level.flatten(1).amin(1)
    by_level = _sums(error[..., None], counts[..., None], _cells(level, LEVEL_BINS))
    of_sample = error.sum((1, 2)), counts.sum((1, 2))
    by_spread = _sums(of_sample[0][:, None], of_sample[1][:, None], _cells(spread, SPREAD_BINS))
    return torch.cat([by_level, by_spread], 1)


def metrics_of(binned: Float[Tensor, "2 bins"]) -> dict[str, float]:
    """The mean of each cell that is not empty, by names that say its bounds: ``loss_level/0.1-0.2``,
    ``loss_spread/0.0-0.2``. Waits for the device.

    Args:
        binned: what :func:`binned` returned, or a sum of such.
    """
    names = [*_names("loss_level", LEVEL_BINS), *_names("loss_spread", SPREAD_BINS)]
    sums, counts = binned.tolist()
    return {name: total / count for name, total, count in zip(names, sums, counts, strict=True) if count}


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: on a GPU by tensors, elsewhere by the process (its resident set)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage's, not raised by what the program that started this one used
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _cells(values: Tensor, bins: int) -> Tensor:
    """True in the one of ``bins`` equal cells of [0, 1] that a value lies in."""
    index = (values * bins).long().clamp(0, bins - 1)
    return index[..., None] == torch.arange(bins, device=values.device)


def _sums(errors: Tensor, counts: Tensor, cells: Tensor) -> Tensor:
    """Plain sums, which unlike scattered additions come out the same each time on a GPU."""
    axes = tuple(range(cells.ndim - 1))
    return torch.stack([(errors * cells).sum(axes), (counts * cells).sum(axes).to(errors)])


def _names(name: str, bins: int) -> list[str]:
    return [f"{name}/{k / bins:.1f}-{(k + 1) / bins:.1f}" for k in range(bins)]
