"""What a training run of an autoencoder is."""

from dataclasses import dataclass
from typing import Literal

from apd_models import AutoencoderConfig

from ._data import DataSource
from ._run_config import ConfigError, check, check_run, rate_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderTraining:
    """A run that trains an :class:`apd_models.Autoencoder` on whole and on masked images, complete.

    The loss is the sum of four parts, each times its weight; see :class:`AutoencoderLoss`.

    Args:
        data: where the images come from; their classes play no part.
        image_size: side of the square images, in pixels.
        held_out: images that are never trained on, at most; never more than a twentieth of all.
        flip: mirror half of the images left and right.
        channels: of the latents.
        widths, blocks: of the network, see :class:`apd_models.AutoencoderConfig`; as many as there are resolutions.
        codes: size of the codebook; None for a normal distribution over latents instead.
        masked: share of samples of which a part is hidden.
        reconstruction_weight: of the mean absolute error, with pixels in [-1, 1].
        features_weight: of the distance in the feature maps of EfficientNet-Lite0. More than 0 needs the package
            apd-metrics (``apd-train[features]``).
        features_side: side that images are resized to for it; at least 32.
        code_weight: of the divergence of the latents' distribution from N(0, 1), in nats an element; with a codebook,
            of the squared distances between latents and codes.
        agreement_weight: of the squared distance between the latents of visible cells and those that they have in the
            whole image, relative to the variance of latents.
        steps, batch_size, learning_rate, rate_schedule, rate_constant_steps, warmup_steps, final_rate: see
            :class:`TrainConfig`.
        weight_decay: on the kernels of convolutions.
        betas: AdamW's.
        clip_norm, ema_sigma_rels, max_skipped, log_every, evaluate_every, seed: see :class:`TrainConfig`.
    """

    data: DataSource
    image_size: int
    held_out: int = 500
    flip: bool = True
    channels: int = 4
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: tuple[int, ...] = (1, 2, 2)
    codes: int | None = None
    masked: float = 0.5
    reconstruction_weight: float = 1.0
    features_weight: float = 0.1
    features_side: int = 64
    code_weight: float = 1e-6
    agreement_weight: float = 0.1
    steps: int = 4000
    batch_size: int = 16
    learning_rate: float = 4e-3
    rate_schedule: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    rate_constant_steps: int = 2000
    warmup_steps: int = 200
    final_rate: float = 0.02
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema_sigma_rels: tuple[float, ...] = (0.05, 0.1)
    max_skipped: int = 10
    log_every: int = 10
    evaluate_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_run(self)
        try:
            factor = self.shape(3).factor
        except ValueError as error:
            raise ConfigError(str(error)) from error
        check(
            self.image_size % factor == 0,
            f"image_size must be a multiple of {factor}, by which latents are smaller, got {self.image_size}",
        )
        check(self.image_size >= 8, f"image_size must be at least 8, for masks of strokes, got {self.image_size}")
        check(0 <= self.masked <= 1, f"masked is a share in [0, 1], got {self.masked}")
        for name in ("reconstruction", "features", "code", "agreement"):
            weight = getattr(self, f"{name}_weight")
            check(weight >= 0, f"{name}_weight must not be negative, got {weight}")
        check(self.features_side >= 32, f"features_side must be at least 32, got {self.features_side}")

    def shape(self, image_channels: int) -> AutoencoderConfig:
        """Of the network."""
        return AutoencoderConfig(image_channels, self.channels, self.widths, self.blocks, self.codes)

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        return rate_of(self, step)
