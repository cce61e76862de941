"""Does the model err as much as it says? Along a path, by noise level."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from evaluate_likelihood import Looked, law_of, look_at
from evaluate_report import Plain, Section
from evaluate_task import Task
from torch import Generator, Tensor

from apd_models import Calibration, Pretrained, calibration
from apd_schedules import NoiseMap, PathLaw, RectifiedFlow
from apd_train.app import UsageError

NOTE = (
    "Errors are mean squares of the flow velocity. actual/predicted is 1 where the model errs as it says, above 1\n"
    "where it errs more. The correlations are over the tokens of a range of levels; exact predictions do not reach 1\n"
    "either. nll below constant: the error head knows more of a token than its noise level tells."
)


def calibration_of(task: Task) -> Section:
    """Predicted and actual errors along each path."""
    looked, options = look_at(task), task.options
    likelihood = options.likelihood
    parts: list[Any] = []
    found: list[dict[str, Any]] = []
    for path in dict.fromkeys(likelihood.path):
        law = law_of(path, task.model.patchify.grid, likelihood.path_cells, likelihood.path_width)
        with task.telling(f"calibration, {path}", "image") as tell:
            try:
                each = calibrate(task.model, looked, law, likelihood.points, options.seed, options.batch, tell)
            except ValueError as error:
                raise UsageError(f"{options.model} cannot be evaluated along the {path} path: {error}") from error
        parts += ["", path, Plain(str(each))]
        found.append({"path": path, "levels": each.record()})
    return Section(
        metric="calibration",
        title="Calibration of the error head",
        head=f"errors of the tokens of {len(looked.x)} {looked.said}, predicted and actual, at {likelihood.points} "
        "noise maps of each",
        parts=(*parts, "", NOTE),
        record={**looked.record, "paths": found},
        facts=looked.facts,
    )


def calibrate(
    pretrained: Pretrained,
    looked: Looked,
    law: PathLaw,
    points: int,
    seed: int,
    batch: int,
    on_batch: Callable[[int, int], None],
) -> Calibration:
    """At ``points`` maps of each image, one in each of as many equal parts of the path. An image's maps and noise do
    not depend on the others."""
    seeded, group = Generator().manual_seed(seed), max(1, batch // points)
    parts: list[Calibration] = []
    for start in range(0, len(looked.x), group):
        rows = slice(start, start + group)
        looks = [_look(law, image, points, seeded) for image in looked.x[rows]]
        x, log_snr, eps = (
            each.to(pretrained.model.device)
            for each in (looked.x[rows], *(torch.stack(each, 1) for each in zip(*looks, strict=True)))
        )
        cond: dict[str, Any] = {} if looked.labels is None else {"label": looked.labels[rows].to(x.device)}
        parts.append(calibration(pretrained.model, x, NoiseMap(log_snr), eps, **cond))
        on_batch(start + len(x), len(looked.x))
    while len(parts) > 1:  # two by two, since a sum copies all that it is of
        parts = [functools.reduce(operator.add, parts[k : k + 2]) for k in range(0, len(parts), 2)]
    return parts[0]


def _look(law: PathLaw, image: Tensor, points: int, seeded: Generator) -> tuple[Tensor, Tensor]:
    """Log-SNRs and noise."""
    seeds = torch.randint(2**63 - 1, (2,), generator=seeded).tolist()
    noise, paths = (Generator().manual_seed(seed) for seed in seeds)
    u = (torch.arange(points) + torch.rand(points, generator=noise, dtype=torch.float64)) / points
    level = law.at(u, law.draw(points, paths)).level
    return RectifiedFlow()(level).to(image), torch.randn(points, *image.shape, generator=noise)
