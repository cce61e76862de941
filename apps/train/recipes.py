"""Recipes: each a function that returns a complete run. Add a function, and `uv run apps/train NAME` knows it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from apd_train import Animals28, DataError, ImageSet, TrainConfig


@dataclass(frozen=True, slots=True)
class Given:
    """Data that the user has to name.

    Args:
        layout: what it looks like.
    """

    layout: str

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        raise DataError(
            f"this recipe's data does not come with the package: name it by --data; expected is {self.layout}"
        )


LATENTS = "a folder of *.safetensors with latents or moments of 4×32×32, see docs/data.md"


def animals28() -> TrainConfig:
    """Ten kinds of animals as 28×28 silhouettes, embedded in the package: 10 minutes on two CPU cores."""
    return TrainConfig(data=Animals28(), image_size=28)


def emoji64() -> TrainConfig:
    """Images of 64×64 in RGB, a class for each sub-folder: 130 million parameters, for one GPU."""
    return TrainConfig(
        data=Given("a folder of images, or a zip of one, with a sub-folder for each class"),
        image_size=64,
        flip=False,
        width=768,
        depth=12,
        heads=12,
        batch_size=256,
        steps=20_000,
        learning_rate=1e-3,
        warmup_steps=500,
        log_every=20,
        evaluate_every=500,
    )


def imagenet64() -> TrainConfig:
    """ImageNet at 64×64: 130 million parameters, for 8 GPUs."""
    layout = "ImageNet's train folder, 1,000 sub-folders such as n01440764 with *.JPEG"
    config = TrainConfig(data=Given(layout), image_size=64, width=768, depth=12, heads=12)
    return _long(config, batch_size=1024)


def imagenet256_latent_b2() -> TrainConfig:
    """ImageNet at 256×256 as latents of 4×32×32, DiT-B/2: 130 million parameters, for one GPU and more."""
    return _latents(width=768, depth=12, heads=12)


def imagenet256_latent_l2() -> TrainConfig:
    """ImageNet at 256×256 as latents of 4×32×32, DiT-L/2: 458 million parameters, for 8 GPUs."""
    return _latents(width=1024, depth=24, heads=16)


def imagenet256_latent_xl2() -> TrainConfig:
    """ImageNet at 256×256 as latents of 4×32×32, DiT-XL/2: 675 million parameters, for 8 GPUs and more."""
    return _latents(width=1152, depth=28, heads=18)


def lsun_bedroom_latent() -> TrainConfig:
    """LSUN bedrooms at 256×256 as latents of 4×32×32, without classes, DiT-L/2: for 8 GPUs."""
    return _latents(width=1024, depth=24, heads=16)


def _latents(width: int, depth: int, heads: int) -> TrainConfig:
    config = TrainConfig(data=Given(LATENTS), image_size=32, patch=2, width=width, depth=depth, heads=heads)
    return _long(config, batch_size=256)


def _long(config: TrainConfig, batch_size: int) -> TrainConfig:
    """A run whose end is open: DiT's learning rate, constant, since the average does what a decay would."""
    return replace(
        config,
        held_out=10_000,
        batch_size=batch_size,
        steps=400_000,
        learning_rate=1e-4,
        warmup_steps=1000,
        rate_schedule="constant",
        log_every=100,
        evaluate_every=5000,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        animals28,
        emoji64,
        imagenet64,
        imagenet256_latent_b2,
        imagenet256_latent_l2,
        imagenet256_latent_xl2,
        lsun_bedroom_latent,
    )
}
