"""An error head for a model that is trained already."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from lightning_fabric import Fabric

from apd_models import DiT, Patchify, Pretrained, with_error_head

from ._config import ConfigError, TrainConfig
from ._data import ImageSet
from ._execution import DEFAULT, Execution
from ._fit import Trained, braced, say, train
from ._position import Progress
from ._random import generator
from ._run_folder import RunFolder
from ._start import OF_THE_MODEL, to_go_on_with


def fit_error_head(
    pretrained: Pretrained,
    config: TrainConfig,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    execution: Execution = DEFAULT,
    on_message: Callable[[str], None] = say,
) -> Trained:
    """Adds an error head to a model and trains it alone: the model then says how wrong each token's guess is.

    Its other weights stay as they are, to the bit. The run is written as by :func:`fit`; ``heldout_loss`` is the
    model's and does not change.

    Args:
        pretrained: without an error head; not changed.
        config: of the run. What the model is (size, patch, conditioning, …) is read off the model.
        images: best those that the model was trained on: the same are held out, so what is measured on these is true of
            new ones. Classes are those of the model, by name; latents are brought to the scale that it knows.

    Raises:
        ConfigError, DataError, RunFolderError, CheckpointError, DivergedError: see :func:`fit`.
    """
    of, patchify = pretrained.model.config, pretrained.patchify
    if of.error_head:
        raise ConfigError("this model has an error head already")
    known = to_go_on_with(pretrained, images)
    same = {name: getattr(of, name) for name in OF_THE_MODEL}
    config = replace(config, image_size=patchify.height, patch=patchify.patch, **same, error_head=True)

    def make(training: ImageSet, patchify: Patchify, std: float) -> DiT:
        model = with_error_head(pretrained.model, generator(config.seed, "error head"))
        model.requires_grad_(False)
        assert model.error is not None
        model.error.requires_grad_(True)
        return model

    weights = f"{braced(pretrained.weights)}; error head {{}}"
    return train(make, config, known, folder, fabric, on_progress, facts, execution, on_message, weights)
