"""Do steps as long as a token's uncertainty allows save work? Quality against evaluations, tokens and seconds."""

import statistics
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from io import BytesIO
from operator import add
from typing import Any

import torch
from experiment_drawing import BATCH, Drawn, drawn
from experiment_jobs import Job
from experiment_kid import apart, floors, pulled, said_floors, shown_of
from experiment_measures import SIDE, classes, real, said
from experiment_models import Model
from experiment_setting import Setting
from experiment_table import Results, Table, grid, number
from experiment_ways import DENSE, TOGETHER, WAYS, WHICH
from torch import Generator, Tensor

from apd_generate import Recipe, level_colours, picture_grid
from apd_metrics import average
from apd_models import Calibration, Pretrained, calibration
from apd_schedules import NoiseMap, PathLaw, RectifiedFlow, autoregressive_law, raster, shared_law

EVALUATIONS = (4, 8, 16, 32, 64)
"""Of the network, for an image. No guidance, ancestral steps."""
FULL = {"drawn": 240, "turns": 3, "batch": 32, "points": 6}
QUICK = {"drawn": 16, "turns": 2, "batch": 4, "points": 2}
"""Images drawn; batches of each way that are timed, and their images; maps of each held-out image for calibration."""
SHOWN = 32
"""Evaluations of the maps of moves."""
EXPLAINED = """\
KID is of {drawn} images. *Evaluations* are of the network, for each image. *Tokens* went through it, over those that an
image has, in batches of {together} in which the image that needs most decides; a model whose tokens see all looks at
all of them again at every eighth evaluation. *Moves* are the steps in which a token moved: what a network would compute
that knew beforehand which tokens rest. *ms* are milliseconds of a core for an image, of batches of {batch} drawn one
way after the other in turns, on one thread, other jobs beside it; *relative* is to synchronous generation of as many
evaluations. Differences of KID are from it too, of the same seeds. Steps are ancestral, without guidance. One training:
errors are over images.
"""


def jobs(setting: Setting, seeds: int) -> Sequence[Job]:
    """Of one training seed."""
    found = [*(model.job(setting) for model, _ in WHICH.values()), Job("floors/kid", floors)]
    numbers = setting.at(FULL, QUICK)
    timed = {name: numbers[name] for name in ("turns", "batch")}
    evaluations = setting.at(EVALUATIONS, (8, SHOWN))
    for seen, (model, ways) in WHICH.items():
        of, needs = {"model": asdict(model)}, (model.job(setting).name,)
        for way in ways:
            given = {str(each): WAYS[way].given(each) for each in evaluations}
            found.append(Job(_name(seen, way), measure, {**of, "ways": given, "count": numbers["drawn"]}, needs))
        for each in evaluations:
            given = {way: WAYS[way].given(each) for way in ways}
            found.append(Job(f"acceleration/seconds-{seen}-{each}", seconds, {**of, "ways": given, **timed}, needs))
    of, needs = {"model": asdict(DENSE)}, (DENSE.job(setting).name,)
    found.append(Job("acceleration/calibration", calibrated, {**of, "points": numbers["points"]}, needs))
    given = {way: WAYS[way].given(SHOWN) for way in MAPPED}
    found.append(
        Job(
            "acceleration/picture",
            picture,
            {**of, "ways": given, "count": setting.at(8, 2), "of": setting.at(100, 2)},
            needs,
        )
    )
    return found


def measure(
    setting: Setting, model: Mapping[str, Any], ways: Mapping[str, Mapping[str, Any]], count: int
) -> Mapping[str, Any]:
    """Quality and cost of a way to draw, by its number of evaluations."""
    pretrained, found = Model(**model).load(setting), {}
    for evaluations, given in ways.items():
        made = _drawn(pretrained, given, range(count), setting)
        found[evaluations] = {
            "kid": pulled(made.images, setting),
            "evaluations": made.evaluations,
            "through": made.through,
            "moves": float(made.moves.double().mean()),
            "moves_of_each": [round(float(each), 4) for each in made.moves.double().mean(0)],
        }
    return found


def seconds(
    setting: Setting, model: Mapping[str, Any], ways: Mapping[str, Mapping[str, Any]], turns: int, batch: int
) -> Mapping[str, Any]:
    """Of an image, way after way in turns, so that whatever else the machine does meets all of them alike. On a CPU the
    core's own: what it does for others in between does not count."""
    pretrained = Model(**model).load(setting)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        for way, given in ways.items():
            start = clock()
            _drawn(pretrained, given, range(turn * batch, (turn + 1) * batch), setting)
            if turn:  # the first one warms up
                taken[way].append((clock() - start) / batch)
    over = lambda way: [one / other for one, other in zip(taken[way], taken[TOGETHER], strict=True)]
    return {
        way: {"seconds": statistics.median(taken[way]), "relative": said(average(torch.tensor(over(way))))}
        for way in ways
    }


def calibrated(setting: Setting, model: Mapping[str, Any], points: int) -> Mapping[str, Any]:
    """Errors that were predicted and made, by noise level, of held-out images."""
    pretrained, known = Model(**model).load(setting), real(setting)
    x = pretrained.patchify.to_tokens(known.images)
    laws: dict[str, PathLaw] = {
        "synchronous": shared_law(x.shape[1]),
        "raster": autoregressive_law(raster(setting.grid, 4, 4)),
    }
    found: dict[str, Any] = {}
    for name, law in laws.items():
        seeded, parts = Generator().manual_seed(0), list[Calibration]()
        for start in range(0, len(x), 50):
            rows = x[start : start + 50]
            labels = {} if known.labels is None else {"label": known.labels[start : start + 50]}
            u = torch.arange(points)[:, None] + torch.rand(points, len(rows), generator=seeded, dtype=torch.float64)
            level = law.at(u.flatten() / points, law.draw(u.numel(), seeded)).level.unflatten(0, u.shape)
            eps = torch.randn(points, *rows.shape, generator=seeded)
            there = lambda tensor: tensor.to(pretrained.model.device)
            noise = NoiseMap(RectifiedFlow()(level).float())
            told = {each: there(value) for each, value in labels.items()}
            parts.append(calibration(pretrained.model, there(rows), noise.to(there(rows)), there(eps), **told))
        found[name] = reduce(add, parts).record()
    return {"images": len(x), "points": points, "levels": found}


MAPPED = ("predicted, patience 1", "changing, patience 1")


def picture(
    setting: Setting, model: Mapping[str, Any], ways: Mapping[str, Mapping[str, Any]], count: int, of: int
) -> Mapping[str, Any]:
    """What was drawn, and how often each of its tokens moved; ``count`` of ``of`` images, and the mean of all moves."""
    pretrained, rows, names = Model(**model).load(setting), [], []
    none = torch.ones(1, setting.size, setting.size)
    drawn_by = {way: _drawn(pretrained, given, range(of), setting) for way, given in ways.items()}
    most = max(float(made.moves.max()) for made in drawn_by.values())  # one scale
    for way, made in drawn_by.items():
        maps = [_map(each / most, setting) for each in (made.moves.double().mean(0), *made.moves[:count])]
        rows += [[none, *made.images[:count]], maps]
        names += [way, f"moves, 0 dark to {most:.0f} light"]
    file = BytesIO()
    picture_grid(rows, names, ["mean"]).save(file, "PNG")
    return {"png": b64encode(file.getvalue()).decode()}


def _map(shares: Tensor, setting: Setting) -> Tensor:
    patches = level_colours(shares.reshape(setting.grid))
    return patches.repeat_interleave(setting.patch, -1).repeat_interleave(setting.patch, -2)


def record(setting: Setting, seeds: int, results: Results) -> Mapping[str, Any]:
    models: dict[str, Any] = {}
    for seen, (model, ways) in WHICH.items():
        rows = []
        for way in ways:
            of_way, together = results[_name(seen, way)], results[_name(seen, TOGETHER)]
            for asked, found in of_way.items():
                rows.append(
                    {
                        "way": way,
                        "asked": int(asked),
                        **WAYS[way].given(int(asked)),
                        **found,
                        "kid": shown_of(found["kid"]),
                        "minus_synchronous": said(apart(found["kid"], together[asked]["kid"])),
                        **results[f"acceleration/seconds-{seen}-{asked}"][way],
                    }
                )
        models[seen] = {"model": asdict(model), "training": results[model.job(setting).name], "rows": rows}
    return {
        "seeds": [DENSE.seed],
        "features": f"EfficientNet-Lite0 at {SIDE} pixels",
        "numbers": setting.at(FULL, QUICK),
        "floors": results["floors/kid"],
        "tokens": list(setting.grid),
        "models": models,
        "calibration": results["acceleration/calibration"],
    }


def page(record: Mapping[str, Any]) -> str:
    parts = [EXPLAINED.format(together=BATCH, **record["numbers"])]
    for seen, found in record["models"].items():
        parts.append(f"## {HEADINGS[seen]}\n")
        columns = ["way", "evaluations", "KID", "minus synchronous", "tokens", "moves", "ms", "relative"]
        parts.append(grid(columns, [_cells(row) for row in found["rows"]]))
    parts.append(f"{said_floors(record['floors'])}\n")
    parts.append(f"## Moves of each token at {SHOWN} evaluations\n")
    across = record["tokens"][1]
    for row in record["models"]["all"]["rows"]:
        if row["asked"] == SHOWN and row["way"] in MAPPED:
            moves = row["moves_of_each"]
            lines = [" ".join(f"{each:5.2f}" for each in moves[k : k + across]) for k in range(0, len(moves), across)]
            parts.append("\n".join([f"{row['way']}:\n", *(f"    {line}" for line in lines), ""]))
    said_of, levels = record["calibration"], record["calibration"]["levels"]
    parts.append(f"## Errors that were predicted, of {said_of['images']} held-out images\n")
    for law, rows in levels.items():
        cells = [[f"{row['low']:g} to {row['high']:g}", *_errors(row)] for row in rows]
        parts.append(grid([f"flow level, {law}", "predicted", "actual", "actual/predicted", "rank correlation"], cells))
    return "\n".join(parts)


HEADINGS = {
    "all": "Tokens see all tokens. Lagged, those at rest are left out, which is an approximation",
    "one-way": "Tokens see cleaner ones. Those at rest are left out, which changes no number",
}


def _cells(row: Mapping[str, Any]) -> list[str]:
    far = "" if row["way"] == TOGETHER else number(row["minus_synchronous"])
    counts = [f"{row['through']:.1f}", f"{row['moves']:.1f}"]
    taken = [f"{1000 * row['seconds']:.1f}", number(row["relative"])]
    return [row["way"], str(row["evaluations"]), number(row["kid"]), far, *counts, *taken]


def _errors(row: Mapping[str, Any]) -> list[str]:
    ratio = {"value": row["ratio"], "standard_error": row["ratio_error"]}
    rank = row["spearman"]
    return [f"{row['predicted']:.3g}", f"{row['actual']:.3g}", number(ratio), "" if rank is None else f"{rank:.2f}"]


def _drawn(pretrained: Pretrained, given: Mapping[str, Any], seeds: range, setting: Setting) -> Drawn:
    recipe, labels = Recipe.from_dict(given["recipe"]), classes(seeds, setting)
    return drawn(pretrained, recipe, seeds, labels, leave_out=given["leave_out"])


def _name(seen: str, way: str) -> str:
    """Of a job, as in a path."""
    return f"acceleration/{seen}-{way.replace(', ', '-').replace(' ', '-')}"


def steps_per_patch(results: Results) -> bytes:
    return b64decode(results["acceleration/picture"]["png"])


TABLE = Table(
    "acceleration",
    "Steps as each token's uncertainty allows: quality against tokens and seconds",
    jobs,
    record,
    page,
    pictures={"-steps-per-patch": steps_per_patch},
)
