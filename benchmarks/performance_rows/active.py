"""Rows 10 to 13 of the benchmark: generation in which some tokens rest, and the network leaves them out.

With one-way attention that is exact, and held to the tolerance of all rows. With attention both ways it is not: the
error reported is then the distance of the generated tokens from those of the dense network. At weights at random that
says little, since attention is then spread evenly; :mod:`.trained` measures it on a trained model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from apd_models import ActiveTokens
from apd_samplers import DDIM, AtRandom, DualLoop, FollowPath, InferenceScheduler, Predicted, RoundRobin, sample
from apd_schedules import hold_clean, raster, sequential, staggered, synchronous

from . import peers
from .networks import SCHEDULE, Network, box
from .protocol import Inputs, Machine, Side, Timings, compare
from .report import Line, line

DENSE, ACTIVE = "all tokens", "moving tokens"
ONE_WAY = "one-way attention"
ANY = 1.0
"""Tolerance where the error is what is reported: the tokens must still be nearer to the dense ones than zero is."""


@dataclass(frozen=True, slots=True)
class Run:
    """One way to generate.

    Args:
        name: of the work.
        options: of the model.
        refresh: see :class:`ActiveTokens`.
    """

    name: str
    scheduler: InferenceScheduler[Any]
    options: dict[str, Any]
    refresh: int | None = None

    @property
    def exact(self) -> bool:
        return bool(self.options.get("one_way"))


def measured(machine: Machine, of: Network, run: Run) -> tuple[Timings, str]:
    """Dense and active timings, and the note on what was computed."""
    model = of.model(machine, **run.options)
    exact = peers.in_double(model)

    def draw(generator: Generator) -> Inputs:
        return (of.normal(machine, generator),)

    def generate(denoise: Any, z: Tensor, only_moving: bool) -> Any:
        return sample(denoise, DDIM(), run.scheduler, z, only_moving=only_moving)

    dense = lambda z: generate(model, z, False).tokens
    moving = lambda z: generate(ActiveTokens(model, run.refresh), z, True).tokens
    sides = [
        Side(DENSE, dense, lambda z: generate(exact, z.double(), False).tokens, tolerance=1e-4),
        Side(ACTIVE, moving, lambda z: generate(exact, z.double(), False).tokens, tolerance=1e-4 if run.exact else ANY),
    ]
    timings = compare(machine, sides, draw, of.seconds)
    z = of.normal(machine, machine.generator(50))
    with machine.precision():
        some, whole = generate(ActiveTokens(model, run.refresh), z, True), generate(model, z, False)
    share = some.token_evaluations / whole.token_evaluations
    return timings, f"{run.name}: {100 * share:.0f} % of the tokens go through the network."


def rows(machine: Machine, of: Network, row: str, runs: list[Run], goal: float | None = None) -> Iterator[Line]:
    for run in runs:
        timings, note = measured(machine, of, run)
        yield line(row, f"{of.name}, {run.name}", timings, ACTIVE, DENSE, goal=goal, note=note)


def inpainting(machine: Machine, of: Network, steps: int) -> Iterator[Line]:
    """Row 10."""
    path = hold_clean(synchronous(of.tokens), box(of.side, 1, torch.device("cpu"))[0, :, None])
    walk = FollowPath(path, SCHEDULE, steps)
    every = max(2, steps // 2)
    runs = [
        Run(f"{steps} steps, {ONE_WAY}", walk, {"one_way": True}),
        Run(f"{steps} steps, known tokens as at first", walk, {}),
        Run(f"{steps} steps, all anew every {every}", walk, {}, every),
    ]
    return rows(machine, of, "10", runs, 2.5 if of.batch >= 8 else None)


def dual_loop(machine: Machine, of: Network, outer: int, inner: int = 4, share: float = 0.7) -> Iterator[Line]:
    """Row 11, with a random choice and turns by the clock beside the model's own."""
    at_random = AtRandom(
        lambda like: torch.randn(like.shape, generator=machine.generator(7), device=like.device).to(like)
    )
    each = lambda uncertainty: DualLoop(SCHEDULE, outer, inner, share, uncertainty)
    options = {"error_head": True}
    steps = f"{outer}×{inner} steps"
    runs = [
        Run(f"{steps}, certain tokens ahead", each(Predicted()), options, inner),
        Run(f"{steps}, tokens at random ahead", each(at_random), options, inner),
        Run(f"{outer * inner} steps, a quarter in turn", RoundRobin(SCHEDULE, outer * inner, 4), options, inner),
    ]
    return rows(machine, of, "11", runs)


def finished_early(machine: Machine, of: Network, steps: int) -> Iterator[Line]:
    """Row 12: a wave over the image; tokens behind it are finished, those ahead of it wait."""
    walk = FollowPath(staggered(raster((of.side, of.side), 4, 4), 0.25), SCHEDULE, steps)
    runs = [Run(f"{steps} steps, {ONE_WAY}", walk, {"one_way": True}), Run(f"{steps} steps", walk, {}, 8)]
    return rows(machine, of, "12", runs)


def in_blocks(machine: Machine, of: Network, steps: int) -> Iterator[Line]:
    """Row 13: four parts one after another; for one image, in three orders."""
    cells = raster((of.side, of.side), 2, 2)
    orders = {
        "quarters in raster order": cells,
        "quarters in random order": torch.randperm(4, generator=torch.Generator().manual_seed(machine.seed))[cells],
        "rings from outside": _rings(of.side),
    }
    runs = [
        Run(f"{steps} steps, {name}", FollowPath(sequential(turn), SCHEDULE, steps), {"one_way": True})
        for name, turn in orders.items()
    ]
    return rows(machine, of, "13", runs[: 3 if of.batch == 1 else 1], 2.0 if of.batch >= 8 else None)


def _rings(side: int) -> Tensor:
    """Square rings from the outer one inwards, four where there is room."""
    edge = torch.minimum(torch.arange(side), side - 1 - torch.arange(side))
    return (torch.minimum(edge[:, None], edge) * min(4, side // 2) // (side // 2)).flatten()
