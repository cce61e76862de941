"""What a training run is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from apd_models import DiTConfig
from apd_samplers import (
    LevelSampler,
    Weighting,
    clean_context,
    flow_weighting,
    logit_normal,
    mixture,
    shared,
    truncated_gaussian,
)
from apd_schedules import NoiseSchedule, RectifiedFlow

from ._data import DataSource
from ._run_config import ConfigError, check, check_run, rate_of


def asynchronous(grid: tuple[int, int]) -> LevelSampler:
    """Shared levels for images drawn all at once, uneven ones for every order, clean context for inpainting.

    Uneven maps of ``truncated_gaussian`` cost whole images little, so they are half; but they hardly show nearly clean
    maps, so the shared ones are nearer to clean images by a quarter of a logit. A fiftieth of clean context is enough
    for completions of half an image, and helps orders. After 3,000 steps whole images are as good as those of a model
    trained on one logit-normal level for all, within the error of three trainings on animals and six on emoji. Raster
    order and completions are the best of all mixtures on animals and nearly so on emoji, where plain shared levels are
    a little better; these are worse in many steps on animals (docs/results.md, table mixtures).
    """
    tokens = grid[0] * grid[1]
    whole, uneven = shared(tokens, logit_normal(-0.25)), truncated_gaussian(tokens)
    return mixture([(0.49, whole), (0.49, uneven), (0.02, clean_context(grid))])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A run, complete. What depends on the data (channels, classes, data scale) is read off the data.

    Args:
        data: where the images come from.
        image_size: side of the square images, in pixels.
        held_out: images that are never trained on, at most; never more than a twentieth of all.
        flip: mirror half of the images left and right.
        patch: side of a token, in pixels.
        width, depth, heads: of the transformer.
        conditioning, position, one_way: see :class:`apd_models.DiTConfig`.
        element_levels: give each pixel a level of its own. In a share of the maps, ``known_pixels``, those under a
            random mask are clean: the model learns to complete patches that are known in part.
        known_pixels: see ``element_levels``.
        error_head: also learn how wrong each token's guess is (``Posterior.log_var``); nothing else that is learned
            changes by it.
        label_drop: share of samples trained without their label, for classifier-free guidance.
        schedule: log-SNR of a level.
        levels: token rows and columns to the sampler of training levels.
        level_bins: levels of a batch are gathered in so many cells of [0, 1], see ``apd_samplers.snap``.
        weighting: of the squared error by level.
        steps: optimizer steps.
        batch_size: samples a step, over all devices.
        learning_rate: at its peak, of both optimizers: Muon on the matrices of the blocks, AdamW on the rest.
        rate_schedule: how the learning rate goes on after the growth to its peak: down to ``final_rate`` of the peak
            along a cosine, constant, or constant for ``rate_constant_steps`` and then falling with the root of the
            steps.
        warmup_steps: of linear growth to the peak, a tenth of all steps at most.
        weight_decay: on matrices.
        betas: AdamW's.
        momentum: Muon's.
        clip_norm: largest norm of the gradient.
        ema_sigma_rels: widths of the averages of the weights, relative to the run's length; see :class:`Ema`. The model
            folder, the held-out loss and all pictures are of the first.
        max_skipped: steps in a row whose gradient is not finite and that are skipped; one more ends the run.
        log_every: steps between lines of metrics.
        evaluate_every: steps between evaluations of the held-out loss.
        seed: of everything random in the run.
    """

    data: DataSource
    image_size: int
    held_out: int = 500
    flip: bool = True
    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    conditioning: Literal["token", "separable", "joint"] = "token"
    position: Literal["learned", "rope"] = "learned"
    one_way: bool = False
    element_levels: bool = False
    known_pixels: float = 0.3
    error_head: bool = False
    label_drop: float = 0.1
    schedule: NoiseSchedule = field(default_factory=RectifiedFlow)
    levels: Callable[[tuple[int, int]], LevelSampler] = asynchronous
    level_bins: int = 256
    weighting: Weighting = flow_weighting
    steps: int = 2200
    batch_size: int = 64
    learning_rate: float = 8e-3
    rate_schedule: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    rate_constant_steps: int = 2000
    warmup_steps: int = 200
    final_rate: float = 0.02
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float = 0.9
    clip_norm: float = 1.0
    ema_sigma_rels: tuple[float, ...] = (0.05, 0.1)
    max_skipped: int = 10
    log_every: int = 10
    evaluate_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_run(self)
        check(0 <= self.momentum < 1, f"momentum lies in [0, 1), got {self.momentum}")
        for name in ("patch", "width", "depth", "heads", "level_bins"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        check(0 <= self.known_pixels <= 1, f"known_pixels is a share in [0, 1], got {self.known_pixels}")
        check(0 <= self.label_drop <= 1, f"label_drop is a share in [0, 1], got {self.label_drop}")
        try:
            self.shape((1, 1), 1)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        check(
            self.image_size % self.patch == 0,
            f"image_size must be a multiple of the patch of {self.patch} pixels, got {self.image_size}",
        )
        check(
            self.image_size > self.patch,
            f"this needs at least two tokens: image_size must be above the patch, {self.patch}, got {self.image_size}",
        )

    def shape(self, grid: tuple[int, int], token_dim: int, **read_off_data: Any) -> DiTConfig:
        """Of the transformer, without the error head."""
        return DiTConfig(
            grid,
            token_dim,
            self.width,
            self.depth,
            self.heads,
            conditioning=self.conditioning,
            position=self.position,
            one_way=self.one_way,
            element_levels=self.element_levels,
            **read_off_data,
        )

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        return rate_of(self, step)
