"""The models that tables compare: small, of one size, trained on a thread each."""

import hashlib
import importlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from experiment_jobs import IN_ALL, Job, StoppedError
from experiment_setting import Setting

from apd_generate import weights_sha256
from apd_models import Pretrained, from_pretrained
from apd_train import Execution, ImageSet, RunFolder, TrainConfig, fit, hold_out, launch, make_fabric, read_metrics

HELD_OUT = 500


@dataclass(frozen=True, slots=True)
class Model:
    """Which model, so that every process can find it.

    Args:
        name: a key of ``MODELS`` in the module: functions from a setting to a :class:`TrainConfig`.
        seed: of its training.
        module: that has ``MODELS``, and ``STARTS`` if any of them start from another model: by name, which.
    """

    name: str
    seed: int = 0
    module: str = "experiment_laws"

    def config(self, setting: Setting) -> TrainConfig:
        recipe = importlib.import_module(self.module).MODELS[self.name]
        return replace(recipe(setting), seed=self.seed)

    @property
    def start(self) -> "Model | None":
        """Whose weights its training begins with."""
        return getattr(importlib.import_module(self.module), "STARTS", {}).get(self.name)

    def folder(self, setting: Setting) -> Path:
        """Of its run; another one for another configuration, and for another start, which is trained by then."""
        told = said_of(self.config(setting))
        if self.start is not None:
            told += f"; start {self.start.load(setting).digest}"
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        return setting.folder / "models" / f"{self.name}-{self.seed}-{digest}"

    def job(self, setting: Setting) -> Job:
        """That trains it, after the one that it starts from."""
        given = {**asdict(self), "config": said_of(self.config(setting))}
        needs = () if self.start is None else (self.start.job(setting).name,)
        return Job(f"models/{self.name}-{self.seed}", train, given, needs)

    def load(self, setting: Setting) -> Pretrained:
        """When it is trained."""
        pretrained = from_pretrained(self.folder(setting) / "model")
        pretrained.model.to("cuda" if torch.cuda.is_available() else "cpu")
        return pretrained


def small(setting: Setting) -> TrainConfig:
    """What all models have in common: two minutes on a core for the animals."""
    return TrainConfig(
        data=setting.source,
        image_size=setting.size,
        patch=setting.patch,
        flip=setting.flip,
        held_out=HELD_OUT,
        width=setting.at(64, 16),
        depth=setting.at(4, 1),
        heads=setting.at(4, 2),
        steps=setting.at(768, 8),
        batch_size=setting.at(64, 16),
        warmup_steps=64,
        evaluate_every=10_000,
        log_every=setting.at(64, 8),
    )


def said_of(config: TrainConfig) -> str:
    """All of the configuration, its sampler of levels by what it makes; the same in every process."""
    side = config.image_size // config.patch
    return re.sub(r"<function (\S+) at 0x[0-9a-f]+>", r"\1", f"{config!r}; levels {config.levels((side, side))!r}")


def train(setting: Setting, name: str, seed: int, module: str, config: str) -> Mapping[str, Any]:
    """Trains a model, or goes on where its training was stopped."""
    model = Model(name, seed, module)
    recipe, folder = model.config(setting), model.folder(setting)
    fabric = make_fabric(1, precision="32-true")  # on every machine
    launch(fabric)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    run = RunFolder(folder, resume=True)
    told = Execution(checkpoint_every=256, keep_last=1)
    trained = fit(
        recipe,
        recipe.data.load(recipe.image_size),
        run,
        fabric,
        execution=told,
        on_message=lambda message: None,
        start=None if model.start is None else model.start.load(setting),
    )
    if trained.steps < recipe.steps:
        raise StoppedError(f"training of {name} was stopped at step {trained.steps} of {recipe.steps}")
    return {
        "steps": trained.steps,
        "heldout_loss": trained.heldout_loss[1],
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "weights_sha256": weights_sha256(run.model),
        IN_ALL: _seconds(run),
    }


def _seconds(run: RunFolder) -> float:
    """That training took, in however many parts."""
    return max((line["seconds"] for line in read_metrics(run.path) if "seconds" in line), default=0.0)


def divided(setting: Setting) -> tuple[ImageSet, ImageSet]:
    """Images that models are trained on, and those that none is, as :func:`apd_train.fit` divides them."""
    images = setting.source.load(setting.size)
    return hold_out(images, min(HELD_OUT, len(images) // 20))
