"""A convolutional autoencoder that knows which pixels it may see."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ._codec import LOG_VAR, Moments, without_hidden

_MASK_WIDTH = 16


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """
    Args:
        image_channels: 1 or 3.
        channels: of the latents.
        widths: channels of the features at each resolution, from the images' own to that of the latents, each half of
            the one before: two, three or four of them, for latents that are 2, 4 or 8 times smaller.
        blocks: residual blocks at each resolution, in the encoder and again in the decoder.
        codes: size of the codebook; None for a normal distribution over latents instead.
    """

    image_channels: int = 3
    channels: int = 4
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 2, 2)
    codes: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= len(self.widths) <= 4:
            raise ValueError(f"an autoencoder has 2 to 4 resolutions, got {len(self.widths)} widths")
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"blocks say how many for each of {len(self.widths)} resolutions, got {len(self.blocks)}")
        if min(self.image_channels, self.channels, *self.widths) < 1 or min(self.blocks) < 0:
            raise ValueError("channels and widths are at least 1, blocks at least 0")
        if self.codes is not None and self.codes < 2:
            raise ValueError(f"a codebook has 2 codes at least, got {self.codes}")

    @property
    def factor(self) -> int:
        """How many times smaller latents are than images, along each side."""
        return 2 ** (len(self.widths) - 1)


class PixelNorm(nn.Module):
    """Features of each pixel at unit mean square, times a gain. It looks at no other pixel: what the autoencoder sees
    of an image stays near."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.rms_norm(x.movedim(1, -1), (x.shape[1],), self.gain.to(x.dtype), 1e-6).movedim(-1, 1)


class MaskModulation(nn.Module):
    """A scale and a shift for each feature and place from which of the pixels there are hidden (FiLM, Perez et al.
    2018, arXiv:1709.07871). Where none are, in reach of the 3×3 window, both are 0 exactly: no layer has a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, _MASK_WIDTH, 3, padding=1, bias=False)
        self.out = nn.Conv2d(_MASK_WIDTH, 2 * width, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "b c h w"], hidden: Float[Tensor, "b 1 h w"] | None) -> Float[Tensor, "b c h w"]:
        if hidden is None:
            return x
        scale, shift = self.out(F.silu(self.look(hidden))).chunk(2, 1)
        return x * (1 + scale) + shift


class ResidualBlock(nn.Module):
    """Two convolutions, the second of features that the mask modulates. It begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = PixelNorm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = PixelNorm(width), nn.Conv2d(width, width, 3, padding=1)
        self.mask = MaskModulation(width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # pyrefly: ignore

    def forward(self, x: Float[Tensor, "b c h w"], hidden: Float[Tensor, "b 1 h w"] | None) -> Float[Tensor, "b c h w"]:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.mask(self.norm2(y), hidden)))


class _Stack(nn.Module):
    """Blocks at one resolution after another, and a layer that leads from one to the next."""

    def __init__(self, widths: tuple[int, ...], blocks: tuple[int, ...], steps: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width) for _ in range(count))
            for width, count in zip(widths, blocks, strict=True)
        )
        self.steps = nn.ModuleList(steps)

    def forward(
        self, x: Float[Tensor, "b _ _ _"], hidden: list[Float[Tensor, "b 1 _ _"] | None]
    ) -> Float[Tensor, "b _ _ _"]:
        """
        Args:
            hidden: the share of each cell that is hidden, at each resolution in turn.
        """
        for i, (stage, at) in enumerate(zip(self.stages, hidden, strict=True)):
            x = x if i == 0 else self.steps[i - 1](x)
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x, at)
        return x


class Autoencoder(nn.Module):
    """Residual convolutional encoder and decoder, both told by feature modulation which pixels are known.

    All of it is local: nothing is normalised or attended to over the image, so a latent depends on the pixels within
    some distance of its cell, and where no hidden pixel is that near, it is what it would be with nothing hidden.

    After Papa et al. 2026 (arXiv:2606.07079), whose autoencoder is trained on masked images and conditioned on the mask
    "in encoder and decoder"; what its layers are is not said there.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        widths, blocks = config.widths, config.blocks
        pairs = list(itertools.pairwise(widths))
        halves: list[nn.Module] = [nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * a, b, 1)) for a, b in pairs]
        doubles: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(b, 4 * a, 1), nn.PixelShuffle(2)) for a, b in reversed(pairs)
        ]
        outputs = config.channels * (2 if config.codes is None else 1)
        self.encoder_in = nn.Conv2d(config.image_channels, widths[0], 3, padding=1)
        self.encoder = _Stack(widths, blocks, halves)
        self.encoder_out = nn.Sequential(PixelNorm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], outputs, 3, padding=1))
        self.decoder_in = nn.Conv2d(config.channels, widths[-1], 3, padding=1)
        self.decoder = _Stack(widths[::-1], blocks[::-1], doubles)
        self.decoder_out = nn.Sequential(
            PixelNorm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], config.image_channels, 3, padding=1)
        )
        self.codebook = None if config.codes is None else nn.Parameter(torch.randn(config.codes, config.channels))

    @property
    def device(self) -> torch.device:
        return self.encoder_in.weight.device

    def moments(self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
        """Of the latents of images with values in [-1, 1]; with a codebook, the latents before they are quantised.

        Args:
            known: pixels that it may see; all by default, which is the same to the bit as all true.
        """
        x = self.encoder_in(_channels_last(without_hidden(images, known)))
        out = self.encoder_out(self.encoder(x, self._hidden(known))).contiguous()
        if self.codebook is not None:
            return Moments(out, None)
        mean, log_var = out.chunk(2, 1)
        return Moments(mean, log_var.clamp(*LOG_VAR))

    def decode(
        self, latents: Float[Tensor, "b k i j"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of latents; with a codebook, of latents that have been quantised."""
        x = self.decoder(self.decoder_in(_channels_last(latents)), self._hidden(known)[::-1])
        return self.decoder_out(x).contiguous()

    def nearest(self, latents: Float[Tensor, "b k i j"]) -> Int[Tensor, "b i j"]:
        """The number of each cell's nearest code."""
        assert self.codebook is not None
        cells = latents.movedim(1, -1).flatten(0, 2)
        parts = [torch.cdist(some, self.codebook).argmin(1) for some in cells.split(8192)]
        return torch.cat(parts).unflatten(0, (len(latents), *latents.shape[2:]))

    def quantised(self, latents: Float[Tensor, "b k i j"]) -> Float[Tensor, "b k i j"]:
        """Each cell's nearest code; without a codebook the latents as they are."""
        return latents if self.codebook is None else self.codebook[self.nearest(latents)].movedim(-1, 1)

    def _hidden(self, known: Bool[Tensor, "b h w"] | None) -> list[Float[Tensor, "b 1 _ _"] | None]:
        """Shares of the cells at each resolution, fine to coarse."""
        shares: list[Tensor | None] = [None if known is None else (~known)[:, None].to(self.encoder_in.weight.dtype)]
        for _ in self.config.widths[1:]:
            finer = shares[-1]
            shares.append(None if finer is None else F.avg_pool2d(finer, 2))
        return shares


def _channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return x.contiguous(memory_format=torch.channels_last)
