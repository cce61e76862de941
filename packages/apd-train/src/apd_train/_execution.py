"""How a training run is carried out."""

from dataclasses import dataclass, fields

from ._config import ConfigError

TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What may differ from machine to machine and from one start of a run to the next: nothing here changes what is
    learned, but for rounding.

    Args:
        micro_batch: samples that a device computes at once; gradients of a step's micro-batches are added up. By
            default a device's whole share of the batch.
        compile: the transformer's blocks by ``torch.compile``, in place.
        checkpoint_activations: keep only the inputs of blocks for the backward pass and compute the rest again: less
            memory, about a third more time.
        workers: processes that prepare batches; 0 prepares them in the training process.
        checkpoint_every: steps between checkpoints; one more is made at the end and when a signal ends the run.
        keep_last: this many of the newest checkpoints are kept,
        keep_every: and those at multiples of this many steps.
        snapshot_every: steps between snapshots of the averaged weights, for averages of another width afterwards;
            None for none.
        grid_every: steps between pictures of samples and completions; None for none.
        trackers: where metrics and pictures go besides the run's folder, of :data:`TRACKERS`.
    """

    micro_batch: int | None = None
    compile: bool = False
    checkpoint_activations: bool = False
    workers: int = 0
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_every: int | None = None
    snapshot_every: int | None = None
    grid_every: int | None = None
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = 0 if item.name == "workers" else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ConfigError(f"{item.name} must be at least {least}, got {value}")
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ConfigError(
                f"keep_every must be a multiple of checkpoint_every, {self.checkpoint_every}: there is no checkpoint "
                f"at step {self.keep_every}"
            )
        for name in self.trackers:
            if name not in TRACKERS:
                raise ConfigError(f"there is no tracker {name!r}, only {' and '.join(TRACKERS)}")


DEFAULT = Execution()
"""One device, its batches whole."""
