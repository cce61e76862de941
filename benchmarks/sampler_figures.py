"""The figures of docs/samplers.md: what training samplers draw, one description, and traces of generations.

uv run python benchmarks/sampler_figures.py docs/images
"""

import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Generator

import apd_samplers as smp
from apd_samplers import (
    DDIM,
    DualLoop,
    FollowPath,
    InferenceScheduler,
    LevelSampler,
    MostCertainFirst,
    PerSampleNoise,
    UncertaintyGuided,
    describe,
    sample,
)
from apd_schedules import (
    GaussianMixtureDenoiser,
    RectifiedFlow,
    correlated_offsets,
    raster,
    sequential,
    sliding_window,
    staggered,
    synchronous,
)

GRID, COLUMNS = (16, 16), 12
N = GRID[0] * GRID[1]
SAMPLERS: dict[str, LevelSampler] = {
    "shared": smp.shared(N),
    "independent": smp.independent(N),
    "patchwise": smp.patchwise(GRID),
    "async_patch": smp.async_patch(GRID),
    "mean_beta": smp.mean_beta(N, 4.0),
    "truncated_gaussian": smp.truncated_gaussian(N),
    "perlin": smp.perlin(GRID),
    "two_level": smp.two_level(N),
    "clean_context: boxes": smp.clean_context(GRID),
    "clean_context: brush": smp.clean_context(GRID, masks=smp.brush(GRID)),
    "wavefront": smp.wavefront(GRID),
    "elbo_walk": smp.elbo_walk(N),
    "quad, correlated": smp.quad(N, offsets=correlated_offsets(GRID, 3.0)),
    "tent": smp.tent(N),
    "on_path: sliding window": smp.on_path(sliding_window(raster(GRID, 16, 1), 6)),
    "correlated": smp.correlated(GRID, 3.0),
}


def gallery(out: Path) -> None:
    figure, axes = plt.subplots(len(SAMPLERS), COLUMNS, figsize=(9.2, 0.63 * len(SAMPLERS)))
    for row, (name, sampler) in zip(axes, SAMPLERS.items(), strict=True):
        levels = sampler(COLUMNS, Generator().manual_seed(1))[..., 0]
        for place, level in zip(row, levels[levels.mean(1).argsort()], strict=True):
            place.imshow(level.reshape(GRID), vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(left=0.19, right=0.995, top=0.995, bottom=0.005, wspace=0.06, hspace=0.06)
    figure.savefig(out / "samplers.png", dpi=110)


def described(out: Path) -> None:
    path = sequential(raster((8, 8), 4, 4))
    for name, sampler in (("async-patch", smp.async_patch((8, 8))), ("wavefront", smp.wavefront((8, 8)))):
        found = describe(sampler, path=path)
        print(found, "\n")
        found.plot(out / f"describe-{name}.png")


def mixture() -> GaussianMixtureDenoiser:
    """An object in the middle of a flat background: a few tokens of several modes, the others nearly certain."""
    generator = Generator().manual_seed(0)
    rows, columns = torch.arange(8) - 3.5, torch.arange(8) - 3.5
    inside = torch.exp(-((rows[:, None] ** 2 + columns**2) / 6)).flatten().double()
    scale = 0.03 + inside
    means = torch.randn(5, 64, 1, generator=generator, dtype=torch.float64) * scale[:, None]
    covs = torch.diag(0.05 * scale**2).expand(5, 64, 64).clone()
    return GaussianMixtureDenoiser(torch.ones(5, dtype=torch.float64), means, covs)


def traces(out: Path) -> None:
    model, schedule = mixture(), RectifiedFlow(clean=8.0, noise=-9.0)
    schedulers: dict[str, InferenceScheduler[Any]] = {
        "synchronous": FollowPath(synchronous(64), schedule, 40),
        "raster, overlapping": FollowPath(staggered(raster((8, 8), 4, 4), 0.4), schedule, 40),
        "UncertaintyGuided, patience 0": UncertaintyGuided(schedule, 40, patience=0.0),
        "UncertaintyGuided": UncertaintyGuided(schedule, 40),
        "MostCertainFirst": MostCertainFirst(schedule, groups=8, steps_per_group=10, overlap=0.5),
        "DualLoop": DualLoop(schedule, outer=10, inner=4),
    }
    figure, axes = plt.subplots(len(schedulers), 9, figsize=(9.2, 1.02 * len(schedulers)))
    for row, (name, scheduler) in zip(axes, schedulers.items(), strict=True):
        z = PerSampleNoise([0])(torch.empty(1, 64, 1, dtype=torch.float64))
        result = sample(model, DDIM(1.0, PerSampleNoise([1])), scheduler, z, trace=True)
        assert result.trace is not None
        levels = result.trace.flow_level[:, 0, :, 0]
        for k, place in enumerate(row):
            level = levels[round(k * (len(levels) - 1) / 8)]
            place.imshow(level.reshape(8, 8), vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(
            f"{name}\n{result.evaluations} evaluations,\n{result.token_updates.double().mean():.1f} a token",
            rotation=0,
            ha="right",
            va="center",
            fontsize=8,
        )
    figure.subplots_adjust(left=0.22, right=0.995, top=0.99, bottom=0.01, wspace=0.06, hspace=0.1)
    figure.savefig(out / "schedulers.png", dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    gallery(folder)
    described(folder)
    traces(folder)
