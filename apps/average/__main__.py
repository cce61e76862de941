"""Average weights over another window, after the run: `uv run apps/average --run runs/animals28 --sigma-rel 0.08 --out
runs/animals28/model-0.08`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    install_import_hook(["apd_schedules", "apd_samplers", "apd_models", "apd_train"], "beartype.beartype")

from rich.console import Console

from apd_models import Pretrained, from_pretrained, save_pretrained
from apd_train import SnapshotError, Synthesis, synthesize
from apd_train.app import UsageError, run_app

MODEL_FILES = {"config.json", "model.safetensors", "codec"}
POOR = 0.05
HEAD, START = "; error head ", ", from ("


@dataclass(frozen=True)
class Options:
    run: Path
    """Folder of a run that kept snapshots of its averages (apps/train --snapshot-every), such as runs/animals28. All
    that is not weights, such as class names, is that of RUN/model."""
    sigma_rel: float
    """Width of the window: the standard deviation of the steps that are averaged, relative to the steps done. More than
    0 and less than 0.289, which is the plain mean of all steps. A wider one smooths more and lags more; which is best
    for a run is found by trying, most often between 0.05 and 0.2."""
    out: Path
    """Model folder to write, whole or not at all; its config.json says which weights it holds."""
    step: int | None = None
    """Step at which the window ends, as if the run had ended there. By default that of the last snapshot."""
    overwrite: bool = False
    """Replace a model that is there already."""


def average(options: Options) -> None:
    check_out(options.out, options.run / "model", options.overwrite)
    pretrained = from_pretrained(options.run / "model")
    try:
        made = synthesize(options.run / "averages", options.sigma_rel, options.step)
    except SnapshotError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:  # of what was asked for
        raise UsageError(f"--{str(error).replace('_', '-', 1)}") from error
    weights = take_over(pretrained, made, options.run)
    of = pretrained
    try:
        save_pretrained(options.out, of.model, of.patchify, of.class_names, weights, of.latents, of.codec)
    except OSError as error:
        raise UsageError(f"{options.out} cannot be written: {error.strerror or error}") from error

    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"weights  {weights}")
    if made.error > POOR:
        console.print(
            f"profile  {made.error:.0%} away from the one asked for: more snapshots, or widths nearer to "
            f"{options.sigma_rel:g} tracked in training, come nearer"
        )
    console.print(f"→ {options.out}")


def take_over(pretrained: Pretrained, made: Synthesis, run: Path) -> str:
    """Puts the weights into the model; returns what its file is to say of them."""
    own = dict(pretrained.model.named_parameters())
    for name, tensor in made.weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise UsageError(f"{run / 'averages'} is of another model than {run / 'model'}: {name} differs")
    pretrained.model.load_state_dict(made.weights, strict=False)
    if len(made.weights) == len(own):
        return "".join((made.description, *pretrained.weights.partition(START)[1:]))
    return f"{pretrained.weights.partition(HEAD)[0]}{HEAD}{made.description}"  # all else was frozen


def check_out(out: Path, source: Path, overwrite: bool) -> None:
    """Refuses to replace anything but a model, and that unless asked; never the run's own."""
    try:
        present = {file.name for file in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise UsageError(f"{out} cannot be a model folder: {error.strerror}") from error
    if out.resolve() == source.resolve():
        raise UsageError(f"{out} is the model that the run left: choose another --out")
    if present - MODEL_FILES:
        raise UsageError(f"{out} holds other files than a model: choose another --out")
    if present and not overwrite:
        raise UsageError(f"{out} already holds a model: pass --overwrite or another --out")


if __name__ == "__main__":
    run_app("apps/average", Options, average, (__doc__ or "").replace("`", ""), sys.argv[1:])
