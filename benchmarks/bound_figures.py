"""The two figures of docs/bound.md.

uv run python benchmarks/bound_figures.py docs/images
"""

import sys
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Generator, Tensor

from apd_schedules import (
    GaussianDenoiser,
    Linear,
    NoiseMap,
    NoiseSchedule,
    Path as LevelPath,
    PathLaw,
    autoregressive_law,
    independent_offsets,
    quad_law,
    sequential,
    shared_law,
    staggered,
    synchronous,
    walk_law,
)

INK, SOFT, WRONG = "#274690", "#9fb3d9", "#c1440e"


def trace(law: PathLaw, count: int, seed: int) -> Tensor:
    """Levels of two tokens along some paths, ``(count, points, 2)``."""
    offsets = law.draw(count, Generator().manual_seed(seed))
    u = torch.linspace(0, 1, 201, dtype=torch.float64) ** 2  # walks start fast
    u = torch.cat([u / 2, 1 - u.flip(0) / 2])
    return torch.stack([law.at(place.expand(count), offsets).level[..., 0] for place in u], 1)


def level_square(file: Path) -> None:
    """Paths through the square of two levels, and the flow that independent levels stand for."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained")
    left, middle, right = panels
    order = torch.arange(2)
    for law, name, colour in (
        (shared_law(2), "synchronous", "black"),
        (autoregressive_law(order), "one after the other", INK),
        (quad_law(independent_offsets(2)), "quad", SOFT),
    ):
        for k, way in enumerate(trace(law, 12 if name == "quad" else 1, 0)):
            left.plot(*way.T, color=colour, lw=1 if name == "quad" else 2, label=name if k == 0 else None)
    left.legend(frameon=False, loc="lower right", fontsize=8)
    left.set_title("monotone paths:\neach is a bound", fontsize=10)
    for way in trace(walk_law(2), 40, 1):
        middle.plot(*way.T, color=SOFT, lw=1)
    middle.set_title("the random walks of theorem 1:\nso is their average", fontsize=10)
    places = torch.linspace(0.1, 0.9, 5)
    grid = torch.cartesian_prod(places, places)
    ones = torch.ones(len(grid))
    right.quiver(*grid.T, ones, ones, color=SOFT, width=0.007, scale=14)
    at = torch.linspace(0.06, 0.94, 8)
    zero, one = torch.zeros(8), torch.ones(8)
    for x, y, dx, dy in ((at, zero, zero, one), (zero, at, one, zero), (at, one, zero, one), (one, at, one, zero)):
        right.quiver(x, y, dx, dy, color=WRONG, width=0.009, scale=16, pivot="mid", clip_on=False)
    right.set_title("independent levels, ordinary weight:\nin and out through the faces", fontsize=10)
    for panel in panels:
        decorate(panel)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def decorate(panel: Axes) -> None:
    panel.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")
    panel.set(xlabel="level of token 1", ylabel="level of token 2")
    panel.plot([0], [0], "o", color="black")
    panel.plot([1], [1], "o", color="black")
    panel.annotate("clean", (0, 0), (6, 6), textcoords="offset points", va="bottom", fontsize=8)
    panel.annotate("noise", (1, 1), (-8, -12), textcoords="offset points", ha="right", fontsize=8)
    panel.set_xticks([0, 0.5, 1])
    panel.set_yticks([0, 0.5, 1])


def step_excess(path: LevelPath, schedule: NoiseSchedule, model: GaussianDenoiser, steps: int) -> tuple[float, float]:
    """Nats a dimension by which generation in equal steps exceeds the likelihood, plain and widened by the variance.

    Exact: the denoiser's mean squared error is its variance, and the mean over data of a step's cost follows from it.
    """
    log_snr = schedule(path(torch.linspace(0, 1, steps + 1, dtype=torch.float64)))
    noise, cleaner = log_snr[1:], log_snr[:-1]
    log_var = model(torch.zeros_like(noise), NoiseMap(noise)).log_var
    assert log_var is not None
    unit = cleaner.exp() * -torch.expm1(noise - cleaner) * log_var.exp()[..., None]
    root = (0.5 * log_snr[[0, -1], :, 0]).exp()
    inner = root[:, :, None] * model.cov * root[:, None, :]
    clean, rest = 0.5 * torch.linalg.slogdet(torch.eye(len(model.cov), dtype=torch.float64) + inner)[1]
    tokens = len(model.cov)
    return (
        float(0.5 * unit.sum() - (clean - rest)) / tokens,
        float(0.5 * torch.log1p(unit).sum() - (clean - rest)) / tokens,
    )


def bound_against_steps(file: Path) -> None:
    """How many steps the discrete bound takes to be tight, with the exact denoiser of a texture."""
    place = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    model = GaussianDenoiser(torch.exp(-torch.cdist(place, place) / 2))
    schedule, turn = Linear(8.0, -8.0), torch.arange(16)
    steps = [16 * 2**k for k in range(9)]
    figure, panel = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for (name, path), colour in zip(
        {
            "synchronous": synchronous(16),
            "staggered": staggered(turn, 0.5),
            "one after another": sequential(turn),
        }.items(),
        ("black", SOFT, INK),
        strict=True,
    ):
        plain, widened = zip(*(step_excess(path, schedule, model, count) for count in steps), strict=True)
        panel.loglog(steps, plain, "o-", color=colour, ms=3, label=name)
        if min(widened) > 1e-9:  # one token at a time, a widened step is exact
            panel.loglog(steps, widened, "o:", color=colour, ms=3, label=f"{name}, own variance")
    panel.loglog(steps, [40 / count for count in steps], "--", color=WRONG, lw=1, label="one over steps")
    panel.set(xlabel="steps", ylabel="nats per dimension above -log p(x)")
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} FOLDER")
    level_square(Path(sys.argv[1]) / "level-square.png")
    bound_against_steps(Path(sys.argv[1]) / "bound-steps.png")
