"""How much arithmetic training takes, and how much a GPU can do."""

import re

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from apd_models import DiT, Levels
from apd_schedules import NoiseMap

# Tera floating-point operations a second by the makers' data sheets: matrix products of bfloat16 without sparsity,
# and plain float32. The first name that the device's has as a word counts. TF32 is half of bfloat16 on all of these.
_PEAKS = (
    ("B200", 2250.0, 75.0),
    ("GH200", 989.4, 66.9),
    ("H200 NVL", 835.5, 60.0),
    ("H200", 989.4, 66.9),
    ("H100 NVL", 835.5, 60.0),
    ("H100 PCIe", 756.5, 51.2),
    ("H100", 989.4, 66.9),
    ("A100", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("A30", 165.0, 10.3),
    ("A10", 125.0, 31.2),
    ("L40S", 362.0, 91.6),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 30.3),
    ("RTX 6000 Ada", 364.2, 91.1),
    ("RTX A6000", 154.8, 38.7),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.0, 35.6),
    ("MI300X", 1307.4, 163.4),
)


def training_flops(model: DiT, samples: int, levels: int) -> int:
    """Floating-point operations of a forward and a backward pass, by counting matrix products.

    A multiplication and an addition are two operations. Not counted are norms, nonlinearities and optimizers, nor what
    activation checkpointing computes twice: over time, these are the operations of "model FLOPs utilisation" (Chowdhery
    et al. 2022, arXiv:2204.02311). Nothing is computed, tensors have shapes only.

    Args:
        model: its configuration, and which of its parameters are trained.
        samples: in the batch.
        levels: distinct noise levels in the batch; modulation is computed once for each. Where its rows are pairs of
            level and label (``conditioning="joint"``), distinct pairs.
    """
    with FakeTensorMode():
        shadow = of_shapes(model)
        # Attention as plain products, of which the backward pass has twice as many, whatever kernels compute again.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            output_of_shapes(shadow, samples, levels).backward()
    return counter.get_total_flops()


def of_shapes(model: DiT) -> DiT:
    """A model like this one, whole; to be called within ``FakeTensorMode``."""
    shadow = DiT(model.config)
    for own, given in zip(shadow.parameters(), model.parameters(), strict=True):
        own.requires_grad_(given.requires_grad)
    return shadow


def output_of_shapes(model: DiT, samples: int, levels: int) -> Tensor:
    """A number that depends on all that the model puts out for such a batch.

    On fake tensors too, since the rows of its modulation are said and not looked for.
    """
    config = model.config
    tokens = config.grid[0] * config.grid[1]
    label = torch.zeros(samples, dtype=torch.long)
    of_row = torch.zeros(levels, dtype=torch.long) if config.conditioning == "joint" else None
    index = torch.zeros(samples, tokens, dtype=torch.long)
    modulations = model.modulations(Levels(torch.zeros(levels), index, of_row), label)
    noise = NoiseMap(torch.zeros(samples, tokens, config.token_dim if config.element_levels else 1))
    z = torch.zeros(samples, tokens, config.token_dim)
    # No label is given: on a CPU the model would read it. Which one it is changes no shape.
    posterior = model(z, noise, modulations=modulations)
    total = posterior.mean.sum()
    return total if posterior.log_var is None else total + posterior.log_var.sum()


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Floating-point operations a second that a device can do at most, by its data sheet; None where it is not known,
    as of a CPU.

    Args:
        precision: as Fabric names it. ``32-true`` means TF32 where PyTorch may use it for matrix products.
    """
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), precision, torch.get_float32_matmul_precision() != "highest")


def peak_of(name: str, precision: str, tf32: bool = False) -> float | None:
    """:func:`peak_flops` of a GPU of this name, such as ``"NVIDIA H100 80GB HBM3"``.

    Args:
        tf32: matrix products of float32 may round their factors.
    """
    if re.search(r"\b(MIG|Laptop|Mobile|Max-Q)\b", name):  # a part of a GPU, or a slower one of the same name
        return None
    for known, bf16, fp32 in _PEAKS:
        if re.search(rf"\b{known}\b", name):
            peaks = {"bf16-mixed": bf16, "bf16-true": bf16, "32-true": bf16 / 2 if tf32 else fp32}
            return 1e12 * peaks[precision] if precision in peaks else None
    return None


def utilisation(flops: float, peak: float | None, devices: int) -> float | None:
    """Model FLOPs utilisation: the share of what the devices can do at most that the model itself takes up.

    Args:
        flops: of training, a second, over all devices.
        peak: of each device; None where it is not known.
    """
    return None if peak is None else flops / (peak * devices)
