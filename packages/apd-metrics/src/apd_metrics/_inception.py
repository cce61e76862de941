"""Inception-v3 as the FID has it (Szegedy et al. 2015, arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500).

This is the TensorFlow graph of 2015-12-05, not the network of torchvision: average pools leave the padding out, the
last block takes a maximum where it should take a mean, and images are resized as TensorFlow 1 did. Its weights
circulate as ``pt_inception-2015-12-05-6726825d.pth``, with the names that are used here.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ._conv_norm import ConvNorm, fold
from ._features import Extractor, Features
from ._resize import bilinear_tf1
from ._weights import load_weights, read_weights

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
MAPS = ("MaxPool_1", "MaxPool_2", "Mixed_6e", "Mixed_7c")

conv1, conv3, conv5 = (partial(ConvNorm, kernel=(side, side)) for side in (1, 3, 5))
row3, column3, row7, column7 = (partial(ConvNorm, kernel=kernel) for kernel in ((1, 3), (3, 1), (1, 7), (7, 1)))
reduced = partial(ConvNorm, kernel=(3, 3), stride=2, same=False)

mean = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
halved = partial(F.max_pool2d, kernel_size=3, stride=2)


class SideBySide(nn.ModuleDict):
    """The channels of several layers that see the same, one after another."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ h w"]:
        return torch.cat([layer(x) for layer in self.values()], 1)


class Mixed(nn.ModuleDict):
    """Branches side by side. What is pooled goes through ``branch_pool`` where there is one, and comes last."""

    def __init__(self, pool: Callable[[Tensor], Tensor], **branches: nn.Module) -> None:
        super().__init__(branches)
        self.pool = pool

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        parts = {"branch_pool": self.pool(x)}
        for name, branch in self.items():
            parts[name] = branch(parts.get(name, x))
        first, *others = parts.values()
        return torch.cat([*others, first], 1)


def rows_and_columns() -> SideBySide:
    return SideBySide({"a": row3(384, 384), "b": column3(384, 384)})


def at_35(inputs: int, pooled: int) -> Mixed:
    return Mixed(
        mean,
        branch1x1=conv1(inputs, 64),
        branch5x5=nn.Sequential(conv1(inputs, 48), conv5(48, 64)),
        branch3x3dbl=nn.Sequential(conv1(inputs, 64), conv3(64, 96), conv3(96, 96)),
        branch_pool=conv1(inputs, pooled),
    )


def from_35_to_17() -> Mixed:
    return Mixed(
        halved,
        branch3x3=reduced(288, 384),
        branch3x3dbl=nn.Sequential(conv1(288, 64), conv3(64, 96), reduced(96, 96)),
    )


def at_17(c: int) -> Mixed:
    return Mixed(
        mean,
        branch1x1=conv1(768, 192),
        branch7x7=nn.Sequential(conv1(768, c), row7(c, c), column7(c, 192)),
        branch7x7dbl=nn.Sequential(conv1(768, c), column7(c, c), row7(c, c), column7(c, c), row7(c, 192)),
        branch_pool=conv1(768, 192),
    )


def from_17_to_8() -> Mixed:
    return Mixed(
        halved,
        branch3x3=nn.Sequential(conv1(768, 192), reduced(192, 320)),
        branch7x7x3=nn.Sequential(conv1(768, 192), row7(192, 192), column7(192, 192), reduced(192, 192)),
    )


def at_8(inputs: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    return Mixed(
        pool,
        branch1x1=conv1(inputs, 320),
        branch3x3=nn.Sequential(conv1(inputs, 384), rows_and_columns()),
        branch3x3dbl=nn.Sequential(conv1(inputs, 448), conv3(448, 384), rows_and_columns()),
        branch_pool=conv1(inputs, 192),
    )


class Inception(nn.ModuleDict):
    """From pixels 0…255 of 299×299 images to 2048 features. ``fc`` is of the classes, and not used."""

    def __init__(self) -> None:
        super().__init__(
            {
                "Conv2d_1a_3x3": reduced(3, 32),
                "Conv2d_2a_3x3": conv3(32, 32, same=False),
                "Conv2d_2b_3x3": conv3(32, 64),
                "MaxPool_1": nn.MaxPool2d(3, 2),
                "Conv2d_3b_1x1": conv1(64, 80),
                "Conv2d_4a_3x3": conv3(80, 192, same=False),
                "MaxPool_2": nn.MaxPool2d(3, 2),
                "Mixed_5b": at_35(192, 32),
                "Mixed_5c": at_35(256, 64),
                "Mixed_5d": at_35(288, 64),
                "Mixed_6a": from_35_to_17(),
                "Mixed_6b": at_17(128),
                "Mixed_6c": at_17(160),
                "Mixed_6d": at_17(160),
                "Mixed_6e": at_17(192),
                "Mixed_7a": from_17_to_8(),
                "Mixed_7b": at_8(1280, mean),
                "Mixed_7c": at_8(2048, maximum),
                "fc": nn.Linear(2048, 1008),
            }
        )

    def forward(self, pixels: Float[Tensor, "b 3 s s"], maps: bool) -> Features:
        x = ((pixels - 128) / 128).contiguous(memory_format=torch.channels_last)
        kept: list[Tensor] = []
        for name, layer in self.items():
            if name == "fc":
                break
            x = layer(x)
            if maps and name in MAPS:
                kept.append(x)
        return Features(x.mean((2, 3)), tuple(kept))


def renamed(name: str) -> str:
    """The name of a tensor in :class:`Inception`, given that in the file: ``_2b`` is layer 1 of a branch, part b."""
    return re.sub(r"(branch\w+)_(\d)([ab]?)\.", lambda m: f"{m[1]}.{int(m[2]) - 1}.{m[3]}{m[3] and '.'}", name)


def inception(file: str | Path, device: str | torch.device = "cpu") -> Extractor:
    """Features of the Inception-v3 that FID and KID are defined with: 2048 numbers, ``pool3``.

    Args:
        file: of weights, as ``.pth`` or ``.safetensors``. The extractor is called ``"inception"`` only if it is
            ``pt_inception-2015-12-05-6726825d.pth`` to the bit (a name that other programs change), and
            ``"inception-unverified-"`` and the first 8 digits of its SHA-256 otherwise.
        device: where to compute.

    Raises:
        WeightsError: the file cannot be read, holds anything but tensors, or not those of this network.
    """
    file = Path(file)
    state, sha256 = read_weights(file)
    with torch.device("meta"):
        network = Inception()
    load_weights(network, {renamed(name): x for name, x in state.items()}, file)
    fold(network)
    return Extractor(
        name="inception" if sha256 == SHA256 else f"inception-unverified-{sha256:.8}",
        size=299,
        dims=2048,
        resize=bilinear_tf1,
        sha256=sha256,
        network=network.to(device),
    )
