"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193), whose features rank image models more as people do than Inception's
(Stein et al. 2023, arXiv:2306.04675)."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ._features import Extractor, Features
from ._resize import bicubic_antialiased
from ._weights import WeightsError, load_weights, read_weights

NAMES = {  # by the SHA-256 of the published files, dinov2_vit?14_pretrain.pth
    "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9": "dinov2-vit-s-14",
    "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73": "dinov2-vit-b-14",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428": "dinov2-vit-l-14",
}
SIDE, PATCH = 224, 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red, green, blue


class Scaled(nn.Module):
    """A factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x * self.gamma


class Attention(nn.Module):
    """Heads of 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, 64)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm attention and perceptron, each scaled as it is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width)
        self.ls1 = Scaled(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls2 = Scaled(width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class DINOv2(nn.Module):
    """From pixels 0…255 of 224×224 images to the class token after the last norm; maps are of the other tokens, after
    each quarter of the blocks."""

    def __init__(self, width: int, depth: int, positions: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, positions, width))
        self.mask_token = nn.Parameter(torch.empty(1, width))  # of training only
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Float[Tensor, "b 3 s s"], maps: bool) -> Features:
        mean, std = (torch.tensor(numbers, device=pixels.device).view(3, 1, 1) for numbers in (MEAN, STD))
        patches = self.patch_embed["proj"]((pixels / 255 - mean) / std)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).mT], 1) + self.pos_embed
        kept: list[Tensor] = []
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            if maps and (4 * i) % len(self.blocks) < 4:
                kept.append(x[:, 1:].mT.unflatten(-1, patches.shape[2:]))
        return Features(self.norm(x)[:, 0], tuple(kept))


def positions_at(grid: int, embedding: Float[Tensor, "1 n d"]) -> Float[Tensor, "1 m d"]:
    """Embeddings of ``grid × grid`` positions from those of another square grid, the class token's in front.

    Bicubic without a filter, as the published code has it, with its quirk: the places that are looked up are those of
    a grid of ``grid + 0.1`` positions a side.
    """
    side = math.isqrt(embedding.shape[1] - 1)
    if side == grid:
        return embedding
    own, patches = embedding[:, :1], embedding[:, 1:].mT.unflatten(-1, (side, side))
    patches = F.interpolate(patches, scale_factor=(grid + 0.1) / side, mode="bicubic")
    return torch.cat([own, patches.flatten(2).mT], 1)


def dinov2(file: str | Path, device: str | torch.device = "cpu") -> Extractor:
    """Features of a DINOv2 transformer with patches of 14 pixels and without registers: the class token after the last
    norm, 384 (S), 768 (B) or 1024 (L) numbers. FD-DINOv2 (Karras et al. 2023, arXiv:2312.02696) takes L, images resized
    as here.

    Args:
        file: of weights, as ``.pth`` or ``.safetensors``, in the layout of ``dinov2_vitl14_pretrain.pth``. The
            extractor is called ``"dinov2-vit-l-14"`` only if it is that file to the bit (``b`` and ``s`` likewise), and
            ``"dinov2-unverified-"`` and the first 8 digits of its SHA-256 otherwise.
        device: where to compute.

    Raises:
        WeightsError: the file cannot be read, holds anything but tensors, or not those of such a network.
    """
    file = Path(file)
    state, sha256 = read_weights(file)
    positions = state.get("pos_embed", torch.empty(0)).shape
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if len(positions) != 3 or positions[1] < 2 or math.isqrt(positions[1] - 1) ** 2 != positions[1] - 1 or not depth:
        raise WeightsError(f"{file} does not hold the weights of this network: no blocks, or no pos_embed of a square")
    with torch.device("meta"):
        network = DINOv2(positions[2], depth, positions[1])
    load_weights(network, state, file)
    network.pos_embed = nn.Parameter(positions_at(SIDE // PATCH, network.pos_embed), requires_grad=False)
    return Extractor(
        name=NAMES.get(sha256, f"dinov2-unverified-{sha256:.8}"),
        size=SIDE,
        dims=positions[2],
        resize=bicubic_antialiased,
        sha256=sha256,
        network=network.to(device),
    )
