"""Figures of a run. Needs matplotlib (``apd-train[apps]``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor


def loss_figure(
    metrics: Sequence[Mapping[str, float | int]],
    file: str | Path,
    title: str = "Weighted squared error",
    of: str = "loss per element",
) -> None:
    """Training and held-out loss against steps, from the lines of ``metrics.jsonl``.

    Args:
        title, of: what the loss is, above and beside it.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, name, marker, width in (
        ("loss", "training, mean of the steps since the last point", "", 0.8),
        ("heldout_loss", "held-out images, averaged weights", "o", 1.5),
    ):
        lines = [line for line in metrics if key in line]
        steps, losses = [line["step"] for line in lines], [line[key] for line in lines]
        axes.plot(steps, losses, label=name, marker=marker, markersize=3, linewidth=width)
    axes.set(xlabel="step", ylabel=of, yscale="log", title=title)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    figure.savefig(file, dpi=110)


def levels_figure(
    drawn: Float[Tensor, "k rows columns"],
    visited: Float[Tensor, "t rows columns"],
    emerging: Float[Tensor, "t c h w"],
    file: str | Path,
) -> None:
    """Noise maps: a sample of those trained on, and those that a generation passes through, with its image.

    Args:
        drawn: levels of training maps, in [0, 1].
        visited: levels along a generation.
        emerging: the image at each of these, values in [-1, 1].
    """
    columns = len(visited)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(1.0 * columns + 1, 1.05 * (rows + 2) + 0.9), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[rows + 0.5, 2.6])[:, 0]
    above.suptitle("Noise maps drawn in training", fontsize=11)
    below.suptitle("Noise maps along one generation in raster order, and its image", fontsize=11)
    shown = None
    for k, axes in enumerate(above.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if k < len(drawn):
            shown = axes.imshow(drawn[k].numpy(), vmin=0, vmax=1, cmap="viridis")
    panel = below.subplots(2, columns, squeeze=False)
    for k in range(columns):
        panel[0, k].imshow(visited[k].numpy(), vmin=0, vmax=1, cmap="viridis")
        picture = ((emerging[k].clamp(-1, 1) + 1) / 2).permute(1, 2, 0).squeeze(-1)
        panel[1, k].imshow(picture.numpy(), vmin=0, vmax=1, cmap="gray")
        for axes in panel[:, k]:
            axes.axis("off")
    if shown is not None:
        bar = above.colorbar(shown, ax=[*above.axes], location="right", fraction=0.03, aspect=12)
        bar.set_label("0 clean … 1 noise")
    figure.savefig(file, dpi=110)
