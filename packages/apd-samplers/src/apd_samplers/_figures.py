"""Figures of training maps and of generations. Need matplotlib (``apd-samplers[plots]``), imported when one is drawn.

Figures own their canvas: pyplot, its global state and its windows are not touched.
"""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

MAPS = 8
"""Maps shown along a generation."""


def description_figure(
    title: str,
    means: Float[Tensor, " bins"],
    marginal: Float[Tensor, " bins"],
    mean: Float[Tensor, " m"],
    spread: Float[Tensor, " m"],
    covered: tuple[Float[Tensor, " k"], Float[Tensor, " k"], float] | None,
    file: str | Path | None = None,
) -> Any:
    """What a sampler draws, as ``Description.plot`` shows it.

    Args:
        means, marginal: shares of maps by mean level, and of levels, in bins of equal width over [0, 1].
        mean, spread: of each map.
        covered: places on a path, the distance to the nearest map, and up to where that counts as covered.
    """
    figure = _figure(*((9.5, 7.0) if covered else (13.0, 3.9)))
    figure.suptitle(title if len(title) <= 110 else f"{title[:109]}…", fontsize=10)
    panels = [*figure.subplots(*((2, 2) if covered else (1, 3))).flat]
    for axes, shares, of in ((panels[0], means, "mean level of a map"), (panels[1], marginal, "level of a token")):
        axes.bar([(k + 0.5) / len(shares) for k in range(len(shares))], shares.tolist(), width=0.9 / len(shares))
        axes.axhline(1 / len(shares), color="black", linewidth=1, linestyle=":", label="uniform")
        axes.set(xlim=(0, 1), xlabel=f"{of} (0 clean, 1 noise)", ylabel="share")
        axes.legend(frameon=False)
    from matplotlib.colors import LogNorm

    *_, image = panels[2].hist2d(mean.numpy(), spread.numpy(), bins=40, range=((0, 1), (0, 1)), cmin=1, norm=LogNorm())
    panels[2].set(xlabel="mean level of a map", ylabel="spread, max - min")
    figure.colorbar(image, ax=panels[2], label="maps")
    if covered is not None:
        s, distance, near = covered
        panels[3].plot(s.tolist(), distance.tolist(), marker="o", markersize=3)
        panels[3].axhline(near, color="black", linewidth=1, linestyle=":", label="covered below")
        panels[3].set(
            xlim=(0, 1), xlabel="place on the path, s (0 clean, 1 noise)", ylabel="rms distance to a map drawn"
        )
        panels[3].set_ylim(0, 1.25 * max(near, float(distance.max())))
        panels[3].legend(frameon=False, loc="upper right")
    return _saved(figure, file)


def trace_figure(
    trace_levels: Float[Tensor, "k n"], grid: tuple[int, int] | None = None, file: str | Path | None = None
) -> Any:
    """The noise maps that one sample of a generation passed through: tokens against steps, and maps along the way.

    Args:
        trace_levels: flow levels after 0 to k - 1 steps (0 clean, 1 noise).
        grid: token rows and columns, to show some of the maps as the image lies.
        file: where to save it, in the format of its ending.

    Raises:
        ImportError: without matplotlib.
    """
    levels = trace_levels.detach().cpu()
    steps, tokens = levels.shape
    if grid is not None and grid[0] * grid[1] != tokens:
        raise ValueError(f"a grid of {grid[0]} by {grid[1]} does not hold the {tokens} tokens of the trace")
    figure = _figure(9.5, 4.2 if grid is None else 5.6)
    below, style = figure, {"vmin": 0, "vmax": 1, "cmap": "viridis", "interpolation": "nearest"}
    shown = sorted({round(k * (steps - 1) / (MAPS - 1)) for k in range(MAPS)})
    if grid is not None:
        above, below = figure.subfigures(2, 1, height_ratios=[1, 2.6])
        for axes, step in zip(above.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            axes.imshow(levels[step].reshape(grid).numpy(), **style)
            axes.set_title("start" if step == 0 else f"step {step}", fontsize=9)
            axes.set(xticks=[], yticks=[])
    axes = below.subplots()
    image = axes.imshow(levels.T.numpy(), aspect="auto", **style)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="steps made", ylabel="token" if grid is None else "token, row by row")
    below.colorbar(image, ax=axes, label="flow level (0 clean, 1 noise)")
    return _saved(figure, file)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("figures need matplotlib: pip install apd-samplers[plots]") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: Any, file: str | Path | None) -> Any:
    if file is not None:
        figure.savefig(file, dpi=110)
    return figure
