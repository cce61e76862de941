"""Where metrics and pictures go besides the run's own folder. Nothing that happens there stops training."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ._files import write_text_atomically


@runtime_checkable
class Tracker(Protocol):
    """Takes what a run reports. Only the first process has trackers."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, by name; of one step more than once perhaps."""

    def image(self, step: int, name: str, file: Path) -> None:
        """A picture, in a file that stays where it is."""

    def close(self) -> None:
        """Nothing more is coming."""


def tracker(
    name: str, folder: Path, facts: Mapping[str, Any], first_step: int, on_problem: Callable[[str], None]
) -> Tracker:
    """The tracker of a name, which cannot stop training: see :func:`guarded`.

    Args:
        name: ``tensorboard`` or ``wandb``.
        folder: of the run.
        facts: the run's configuration, for trackers that keep it.
        first_step: that is still to be done; of a run that goes on, what was logged from here on is done anew.
        on_problem: is told, once and in one line, if the tracker fails.

    Raises:
        ValueError: there is no such tracker.
    """
    match name:
        case "tensorboard":
            make: Callable[[], Tracker] = lambda: tensorboard(folder / "tensorboard", first_step)
        case "wandb":
            make = lambda: wandb(folder, facts)
        case _:
            raise ValueError(f"there is no tracker {name!r}, only tensorboard and wandb")
    return guarded(name, make, on_problem)


def guarded(name: str, make: Callable[[], Tracker], on_problem: Callable[[str], None]) -> Tracker:
    """A tracker that is switched off by its first exception, also one when it is made."""
    return _Guarded(name, make, on_problem)


def tensorboard(folder: Path, first_step: int = 0) -> Tracker:
    """Event files for TensorBoard. Needs ``apd-train[tensorboard]``.

    Args:
        first_step: what an earlier start of the run logged from this step on is not shown.
    """
    from torch.utils.tensorboard import SummaryWriter

    return _TensorBoard(SummaryWriter(str(folder), purge_step=first_step))


def wandb(folder: Path, facts: Mapping[str, Any], project: str = "apd-train") -> Tracker:
    """A run of Weights & Biases, which goes on where the run's folder does. Needs ``apd-train[wandb]``.

    It never asks: without an API key, the run is written to the folder alone, for ``wandb sync``. The variables of
    wandb's own hold, such as ``WANDB_MODE=offline`` and ``WANDB_PROJECT``.

    Args:
        folder: of the run; its name is the run's. ``wandb/`` is made in it.
        facts: the run's configuration.
    """
    module = import_module("wandb")  # optional, and nowhere where types are checked
    asks = os.environ.get("WANDB_MODE", "online") == "online" and not module.login(prompt=False, verify=False)
    file = folder / "wandb" / "id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(file, secrets.token_hex(8))
    run = module.init(
        project=os.environ.get("WANDB_PROJECT", project),
        name=folder.name,
        id=file.read_text(encoding="utf-8"),
        resume="allow",
        dir=str(folder),
        config=dict(facts),
        mode="offline" if asks else None,
        settings=module.Settings(init_timeout=30, console="off"),  # what a display prints is not worth keeping
    )
    run.define_metric("*", step_metric="step")  # the run's own counter refuses to go back
    return _WandB(module, run)


class _Guarded:
    """See :func:`guarded`."""

    def __init__(self, name: str, make: Callable[[], Tracker], on_problem: Callable[[str], None]) -> None:
        self._name, self._on_problem = name, on_problem
        self._tracker: Tracker | None = None
        self._try(lambda: setattr(self, "_tracker", make()))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._tracker is not None:
            self._try(partial(self._tracker.log, step, metrics))

    def image(self, step: int, name: str, file: Path) -> None:
        if self._tracker is not None:
            self._try(partial(self._tracker.image, step, name, file))

    def close(self) -> None:
        if self._tracker is not None:
            self._try(self._tracker.close)
        self._tracker = None

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except ModuleNotFoundError as error:
            self._switch_off(f'{error.name} is not installed: pip install "apd-train[{self._name}]"')
        except Exception as error:
            self._switch_off(" ".join(f"{type(error).__name__}: {error}".split()))

    def _switch_off(self, problem: str) -> None:
        self._tracker = None
        self._on_problem(f"{self._name} is switched off, training goes on: {problem}")


@dataclass(frozen=True, slots=True)
class _TensorBoard:
    writer: Any

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, file: Path) -> None:
        with Image.open(file) as picture:
            self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True, slots=True)
class _WandB:
    module: Any
    run: Any

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log({"step": step, **metrics})

    def image(self, step: int, name: str, file: Path) -> None:
        self.run.log({"step": step, name: self.module.Image(str(file))})

    def close(self) -> None:
        self.run.finish()
