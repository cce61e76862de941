"""The pictures that a run ends with. Needs matplotlib (``apd-train[apps]``)."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apd_generate import Given, Recipe, Step, generate, hide, picture_grid

from ._autoencoder_grids import autoencoder_grids_of, reconstructions
from ._batches import training_draws
from ._config import TrainConfig
from ._example_masks import example_masks
from ._figures import levels_figure, loss_figure
from ._fit import Trained
from ._fit_autoencoder import TrainedAutoencoder
from ._random import generator
from ._run_folder import RunFolder, read_metrics
from ._view import view_of

GUIDANCE = 2.0
STEPS = 40


def showcase(trained: Trained, config: TrainConfig, folder: RunFolder) -> None:
    """Writes ``loss.png``, ``samples.png``, ``inpainting.png`` and ``levels.png`` into a run's folder."""
    loss_figure(read_metrics(folder.path), folder.path / "loss.png")
    draw_samples(trained).save(folder.path / "samples.png")
    draw_inpainting(trained).save(folder.path / "inpainting.png")
    draw_levels(trained, config, folder)


def showcase_autoencoder(trained: TrainedAutoencoder, folder: RunFolder) -> None:
    """Writes ``loss.png`` and ``reconstructions.png`` into a run's folder."""
    loss_figure(read_metrics(folder.path), folder.path / "loss.png", title="Losses of an autoencoder", of="loss")
    grids = autoencoder_grids_of(trained.held_out)
    reconstructions(grids, trained.network).save(folder.path / "reconstructions.png")


def draw_samples(trained: Trained, columns: int = 8, most_rows: int = 20) -> Image.Image:
    """A row for each class; for an unconditional model, rows without names."""
    names = trained.training.class_names[:most_rows]
    rows = len(names) or 4
    labels = torch.arange(rows).repeat_interleave(columns) if names else None
    recipe = Recipe(steps=STEPS, guidance=GUIDANCE if names else None)
    images = generate(trained.model, trained.patchify, recipe, range(rows * columns), labels).images
    images = view_of(trained.held_out, trained.model.device)(images)
    return picture_grid([[*row] for row in images.split(columns)], names)


def draw_inpainting(trained: Trained, candidates: int = 4) -> Image.Image:
    """Held-out images, what the model is shown of them, and completions from different seeds."""
    masks = example_masks(trained.patchify)
    held_out = trained.held_out
    chosen = [i * len(held_out) // len(masks) for i in range(len(masks))]
    if held_out.class_names:  # a different class in each row, as far as there are
        by_class = torch.argsort(held_out.labels, stable=True)
        chosen = [int(by_class[i]) for i in chosen]
    originals, known = held_out.squares(chosen), torch.stack([*masks.values()])
    labels = held_out.labels[chosen] if held_out.class_names else None
    completions = generate(
        trained.model,
        trained.patchify,
        Recipe(steps=STEPS, guidance=1.0 if trained.model.config.classes else None),
        [seed for seed in range(candidates) for _ in masks],
        None if labels is None else labels.repeat(candidates),
        given=Given(originals, known).repeated(candidates),
    ).images.unflatten(0, (candidates, len(masks)))
    view = view_of(held_out, trained.model.device)
    originals, completions = view(originals), view(completions)
    rows = [
        [original, hide(original, view.known(mask)), *completions[:, i]]
        for i, (original, mask) in enumerate(zip(originals, known, strict=True))
    ]
    return picture_grid(rows, [*masks], ["held out", "shown", *(f"seed {k}" for k in range(candidates))])


def draw_levels(trained: Trained, config: TrainConfig, folder: RunFolder, columns: int = 12) -> None:
    """Writes ``levels.png``."""
    patchify = trained.patchify
    grid = patchify.grid
    drawn = training_draws(config, patchify)(3 * columns, generator(config.seed, "levels figure")).noise.flow_level
    cells = min(4, *grid)
    steps = 8 * cells * cells
    visited: list[Float[Tensor, " n"]] = []
    emerging: list[Float[Tensor, "c h w"]] = []

    def watch(now: Step) -> None:
        visited.append(now.progress.noise.flow_level[..., 0].reshape(-1))
        emerging.append(patchify.to_images(now.progress.tokens)[0])

    labels = torch.tensor([len(trained.training.class_names) // 2]) if trained.training.class_names else None
    generate(
        trained.model,
        patchify,
        Recipe(order="raster", cells=cells, steps=steps, guidance=None if labels is None else GUIDANCE),
        [0],
        labels,
        leave_out=False,
        on_step=watch,
    )
    moments = torch.linspace(0, steps - 1, columns).round().long().tolist()
    levels_figure(
        drawn.mean(-1).unflatten(1, grid),
        torch.stack([visited[k] for k in moments]).unflatten(1, grid).cpu(),
        view_of(trained.held_out, trained.model.device)(torch.stack([emerging[k] for k in moments])),
        folder.path / "levels.png",
    )
