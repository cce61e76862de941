"""Completions by a model of latents: what its autoencoder is shown, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from apd_generate import ImageError, Recipe, complete
from apd_models import (
    CodecError,
    DiT,
    DiTConfig,
    LatentScale,
    Moments,
    Patchify,
    Pretrained,
    without_hidden,
)


@dataclass(frozen=True)
class Pooled:
    """Four channels: the mean of each 4×4 pixels in three colours, and their mean; decoding repeats the colours. What
    it was shown is kept: images, and masks of both ways."""

    factor: int = 4
    channels: int = 4
    image_channels: int = 3
    digest: str = "pooled"
    stats: LatentScale | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    shown: list[Tensor] = field(default_factory=list)
    masks: list[tuple[Tensor | None, Tensor | None]] = field(default_factory=list)

    def moments(self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None) -> Moments:
        return Moments(self.encode(images, known), None)

    def encode(
        self, images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b k i j"]:
        self.shown.append(without_hidden(images, known))
        self.masks.append((known, None))
        small = F.avg_pool2d(self.shown[-1], 4)
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def decode(
        self, latents: Float[Tensor, "b k i j"], known: Bool[Tensor, "b h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        self.masks.append((None, known))
        return latents[:, :3].repeat_interleave(4, -1).repeat_interleave(4, -2)

    def save(self, folder: Path) -> None: ...

    @property
    def told(self) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of encoding and of decoding."""
        of = lambda way: [known for pair in self.masks if (known := pair[way]) is not None]
        return of(0), of(1)


SCALE = LatentScale((0.1, -0.2, 0.3, 0.0), (0.5, 0.25, 1.0, 2.0))


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    """Of latents of 4×8×8: images of 32×32."""
    torch.manual_seed(0)
    model = DiT(DiTConfig((4, 4), 16, width=32, depth=1, heads=2)).eval().requires_grad_(False)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return Pretrained(model, Patchify(8, 8, 4, 2), (), "at random", SCALE)


def an_image(seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def hole() -> Tensor:
    levels = torch.zeros(32, 32)
    levels[10:22, 9:30] = 1
    return levels


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).int()


def run(pretrained: Pretrained, image: Image.Image, levels: Tensor, codec: Any, **how: Any) -> Any:
    return complete(pretrained, Recipe(steps=3), image, levels, [0, 1], codec=codec, **how)


def test_known_pixels_come_back_and_the_rest_is_decoded(pretrained: Pretrained) -> None:
    image, levels = an_image(), hole()
    done = run(pretrained, image, levels, Pooled())
    known = levels == 0
    for made in done.images:
        assert torch.equal(as_tensor(made)[known], as_tensor(image)[known])
        blocks = as_tensor(made)[12:20, 12:28]  # whole cells of the latents, inside the hole
        assert torch.equal(blocks, blocks[::4, ::4].repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert not torch.equal(as_tensor(done.images[0]), as_tensor(done.images[1]))


def test_without_keeping_all_is_the_decoder_s(pretrained: Pretrained) -> None:
    done = run(pretrained, an_image(), hole(), Pooled(), keep=False)
    whole = as_tensor(done.images[0])
    assert torch.equal(whole, whole[::4, ::4].repeat_interleave(4, 0).repeat_interleave(4, 1))


def test_known_latents_are_the_image_s_at_its_own_scale(pretrained: Pretrained) -> None:
    """Tokens that no hidden pixel touches stay at their latents: decoded, they are the means of the image's colours."""
    image, levels = an_image(), hole()
    done = run(pretrained, image, levels, Pooled())
    (window,) = done.windows
    truth = F.avg_pool2d(as_tensor(image).permute(2, 0, 1)[None] / 127.5 - 1, 4)[0]
    for made in window.made:
        torch.testing.assert_close(made[:, ::4, ::4][:, :2], truth[:, :2], rtol=0, atol=1e-5)


def test_hidden_pixels_change_nothing(pretrained: Pretrained) -> None:
    levels, codec = hole(), Pooled()
    one, other = an_image(), an_image()
    other.paste(an_image(9).crop((9, 10, 30, 22)), (9, 10))
    first, second = (run(pretrained, image, levels, codec) for image in (one, other))
    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in second.images]
    assert torch.equal(*codec.shown)
    assert (codec.shown[0][..., levels == 1] == 0).all()


def test_a_soft_mask_starts_from_what_is_there(pretrained: Pretrained) -> None:
    levels, codec = hole() * 0.25, Pooled()
    image = an_image()
    done = run(pretrained, image, levels, codec)
    assert codec.shown[0].abs().amin((0, 1)).max() > 0
    truth = F.avg_pool2d(as_tensor(image).permute(2, 0, 1)[None] / 127.5 - 1, 4)[0]
    soft, hard = done.windows[0].made, run(pretrained, image, hole(), codec).windows[0].made
    error = lambda made: (made[0, :, ::4, ::4] - truth)[:, 3:5, 3:6].square().mean()
    assert error(soft) < 0.5 * error(hard)


def test_tiles_of_a_larger_image(pretrained: Pretrained) -> None:
    pixels = torch.randint(0, 256, (40, 56, 3), generator=Generator().manual_seed(1), dtype=torch.uint8)
    image, levels = Image.fromarray(pixels.numpy()), torch.zeros(40, 56)
    levels[5:35, 5:50] = 1
    done = run(pretrained, image, levels, Pooled(), tile=True)
    assert len(done.windows) > 1
    assert torch.equal(as_tensor(done.images[0])[levels == 0], as_tensor(image)[levels == 0])


def test_how_far_the_hidden_grows_does_not_depend_on_other_seeds(pretrained: Pretrained) -> None:
    pixels = torch.randint(0, 256, (40, 56, 3), generator=Generator().manual_seed(1), dtype=torch.uint8)
    image, levels, asked = Image.fromarray(pixels.numpy()), torch.zeros(40, 56), []
    levels[5:35, 5:50] = 1

    def dilate(pixels: Float[Tensor, "c h w"], known: Bool[Tensor, "h w"]) -> int:
        asked.append(pixels)
        return len(asked) - 1

    some = lambda seeds: complete(
        pretrained, Recipe(steps=3), image, levels, seeds, tile=True, codec=Pooled(), dilate=dilate
    )
    together = some([3, 5])
    assert len(together.windows) > len(asked) == 1
    asked.clear()
    assert torch.equal(as_tensor(some([5]).images[0]), as_tensor(together.images[1]))


def test_an_autoencoder_of_other_latents_is_refused(pretrained: Pretrained) -> None:
    with pytest.raises(ImageError, match="latents of 4 channels: give their autoencoder"):
        complete(pretrained, Recipe(steps=3), an_image(), hole(), [0])
    with pytest.raises(CodecError, match="channels"):
        run(pretrained, an_image(), hole(), Pooled(channels=3))
    without = Pretrained(pretrained.model, pretrained.patchify, (), "at random")
    with pytest.raises(CodecError, match="does not say that it is one of latents"):
        run(without, an_image(), hole(), Pooled())
