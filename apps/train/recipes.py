"""Recipes: each a function that returns a complete run. Add a function, and `uv run apps/train NAME` knows it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from apd_samplers import LevelSampler, logit_normal, shared
from apd_train import Animals28, AutoencoderTraining, DataError, ImageSet, TrainConfig

Recipe = Callable[[], TrainConfig] | Callable[[], AutoencoderTraining]


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


IMAGES = "a folder of images, or a zip of one; sub-folders play no part"
LATENTS = "a folder of *.safetensors with latents or moments of 4×32×32, see docs/data.md"


def animals28() -> TrainConfig:
    """Ten kinds of animals as 28×28 silhouettes, embedded in the package: 11 minutes on two CPU cores."""
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


def emoji64_latent() -> TrainConfig:
    """Images of 64×64 as latents of 16×16, a class for each sub-folder: 25 minutes on a CPU core."""
    return TrainConfig(
        data=Given("latents of 16 cells a side: the folder that apps/encode wrote"),
        image_size=16,
        flip=False,
        patch=2,
    )


def emoji64_latent_synchronous() -> TrainConfig:
    """The same, trained on equal levels of all tokens only, to compare with: it can neither order nor inpaint."""
    return replace(emoji64_latent(), levels=synchronous)


def synchronous(grid: tuple[int, int]) -> LevelSampler:
    """One level for all tokens, its logit normal (Esser et al. 2024, arXiv:2403.03206)."""
    return shared(grid[0] * grid[1], logit_normal())


def autoencoder_kl_f4() -> AutoencoderTraining:
    """Autoencoder of images of 64×64, latents of 4×16×16 with a normal distribution: 45 minutes on a CPU core."""
    return AutoencoderTraining(data=Given(IMAGES), image_size=64)


def autoencoder_vq_f4() -> AutoencoderTraining:
    """Autoencoder of images of 64×64, latents of 4×16×16 with a codebook of 1,024: for two CPU cores."""
    return replace(autoencoder_kl_f4(), codes=1024, code_weight=1.0)


def autoencoder_kl_f8() -> AutoencoderTraining:
    """Autoencoder of images of 256×256, latents of 4×32×32 with a normal distribution: for one GPU."""
    return AutoencoderTraining(
        data=Given(IMAGES),
        image_size=256,
        widths=(128, 256, 512, 512),
        blocks=(2, 2, 2, 2),
        features_side=224,
        steps=200_000,
        batch_size=32,
        learning_rate=2e-4,
        warmup_steps=2000,
        log_every=100,
        evaluate_every=5000,
    )


def autoencoder_vq_f4_large() -> AutoencoderTraining:
    """Autoencoder of images of 256×256, latents of 3×64×64 with a codebook of 8,192, its widths and codebook those of
    the AsyncPatch paper: for one GPU."""
    return replace(
        autoencoder_kl_f8(),
        channels=3,
        widths=(128, 256, 512),
        blocks=(2, 2, 2),
        codes=8192,
        code_weight=1.0,
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


RECIPES: dict[str, Recipe] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        animals28,
        emoji64,
        emoji64_latent,
        emoji64_latent_synchronous,
        imagenet64,
        imagenet256_latent_b2,
        imagenet256_latent_l2,
        imagenet256_latent_xl2,
        lsun_bedroom_latent,
        autoencoder_kl_f4,
        autoencoder_vq_f4,
        autoencoder_kl_f8,
        autoencoder_vq_f4_large,
    )
}
