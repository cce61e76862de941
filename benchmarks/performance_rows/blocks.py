"""Rows 0 and 3 of the benchmark: blocks of the transformer, with a level for each token at random from a grid."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from apd_models import DiT, Patchify, dit_config
from apd_models._modulation import distinct_levels

from . import peers
from .protocol import Machine, Side, Timings, compare, memory
from .report import Line, line

CHECKED = 2
"""Samples whose results are held against float64."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """What to measure at one size.

    Args:
        depth: blocks, of a network of that size.
        grid: number of levels that tokens can have.
        side: tokens a side.
        seconds: for each comparison.
        thorough: eager code, fewer levels and continuous ones too.
    """

    size: str
    batch: int
    depth: int = 1
    grid: int = 1024
    side: int = 16
    seconds: float = 60.0
    thorough: bool = False

    @property
    def name(self) -> str:
        return f"{self.size}, {self.depth} block{'s' * (self.depth > 1)}, N = {self.side**2}, B = {self.batch}"


class Drawn(NamedTuple):
    """Tokens, features of the grid's levels, each token's level and place between two, and what is pulled back."""

    x: Tensor
    features: Tensor
    index: Tensor
    weight: Tensor
    pull: Tensor

    def first(self, few: int) -> "Drawn":
        return Drawn(self.x[:few], self.features, self.index[:few], self.weight[:few], self.pull[:few])


@dataclass(frozen=True, slots=True)
class Way:
    """One way to modulate.

    Args:
        body: from a block, tokens, features and the rest to tokens.
        pick: features and the rest.
        right: the body in its plainest form, for the reference; none for a limit.
        told: what the reference picks, if that is to be found out by the way itself.
        per_sample: whether the features are those of samples or tokens, not of levels.
    """

    name: str
    body: Callable[..., Tensor]
    pick: Callable[[Drawn], tuple[Tensor, ...]]
    right: Callable[..., Tensor] | None = None
    per_sample: bool = False
    told: Callable[[Drawn], tuple[Tensor, ...]] | None = None


def _gathered(block: Any, x: Tensor, features: Tensor, index: Tensor) -> Tensor:
    return peers.per_sample_or_token(block, x, features[index])


def _found(drawn: Drawn) -> tuple[Tensor, Tensor]:
    """The rows as they are found where nothing but each token's level is known."""
    grid = torch.linspace(-9.0, 9.0, len(drawn.features), device=drawn.x.device)
    levels = distinct_levels(grid[drawn.index])
    return drawn.features[torch.searchsorted(grid, levels.log_snr)], levels.index


def _as_it_is(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return forward


TABLE = Way("table", peers.table, lambda of: (of.features, of.index), _gathered)
FOUND = Way("table, levels found", peers.table, _found, _gathered, told=TABLE.pick)
PER_SAMPLE = Way(
    "per sample",
    peers.per_sample_or_token,
    lambda of: (of.features[of.index[:, 0]],),
    lambda block, x, features: peers.per_sample_or_token(block, x, features[:, None].expand_as(x)),
    per_sample=True,
)
PER_TOKEN = Way(
    "per token",
    peers.per_sample_or_token,
    lambda of: (of.features[of.index],),
    peers.per_sample_or_token,
    per_sample=True,
)
LERP = Way(
    "table of knots",
    peers.lerp_table,
    lambda of: (of.features, of.index.clamp(max=len(of.features) - 2), of.weight),
    peers.lerp_per_token,
)
LERP_PER_TOKEN = Way("knots per token", peers.lerp_per_token, LERP.pick, peers.lerp_per_token)
LIMIT = Way("products", lambda block, x, features: peers.products(block, x), lambda of: (of.features,))


def _pass(blocks: nn.ModuleList, body: Callable[..., Tensor], gradient: bool, compile: Callable[..., Any]) -> Any:
    """Forward through all blocks, and backward to their parameters, to the tokens and to the features."""
    parameters = list(blocks.parameters())

    def forward(x: Tensor, *rest: Tensor) -> Tensor:
        for block in blocks:
            x = body(block, x, *rest)
        return x

    forward = compile(forward)

    def run(pull: Tensor, x: Tensor, features: Tensor, *rest: Tensor) -> list[Tensor]:
        if not gradient:
            with torch.no_grad():
                return [forward(x, features, *rest)]
        free = [x.detach().requires_grad_(), features.detach().requires_grad_()]
        out = forward(*free, *rest)
        return [out, *torch.autograd.grad(out, [*free, *parameters], pull.to(out), allow_unused=True)]

    return run


def _side(way: Way, blocks: nn.ModuleList, gradient: bool, compile: Callable[..., Any]) -> Side:
    run = _pass(blocks, way.body, gradient, compile)

    def timed(*inputs: Tensor) -> list[Tensor]:
        of = Drawn(*inputs)
        return run(of.pull, of.x, *way.pick(of))

    if way.right is None:
        return Side(way.name, timed)
    exact = _pass(peers.in_double(blocks), way.right, gradient, _as_it_is)

    def check(*inputs: Tensor) -> list[Tensor]:
        of = Drawn(*inputs)
        pull = torch.cat([of.pull[:CHECKED], torch.zeros_like(of.pull[CHECKED:])])  # samples do not see each other
        found = run(pull, of.x, *way.pick(of))
        by_sample = 3 if way.per_sample else 2
        return [each[:CHECKED] if k < by_sample else each for k, each in enumerate(found)]

    def reference(*inputs: Tensor) -> list[Tensor]:
        of = Drawn(*inputs).first(CHECKED)
        return exact(of.pull.double(), of.x.double(), *peers.doubled((way.told or way.pick)(of)))

    return Side(way.name, timed, reference, check, 1e-4 if gradient else 1e-5)


class Setting:
    """Blocks and inputs of one size."""

    def __init__(self, machine: Machine, at: Blocks) -> None:
        patchify = Patchify(2 * at.side, 2 * at.side, 4, 2)
        model = peers.drawn_anew(DiT(dit_config(at.size, patchify, depth=at.depth)), machine.seed)
        self.machine, self.at = machine, at
        self.blocks = model.blocks.to(machine.device)
        self.name = at.name
        generator = machine.generator(99)
        self.features = torch.randn(at.grid, model.config.width, generator=generator, device=machine.device)

    def draw(self, generator: Generator, levels: int | None = None) -> Drawn:
        device, shape = self.machine.device, (self.at.batch, self.at.side**2)
        features = self.features[:levels]
        normal = lambda: torch.randn(*shape, features.shape[1], generator=generator, device=device)
        index = torch.randint(len(features), shape, generator=generator, device=device)
        return Drawn(normal(), features, index, torch.rand(shape, generator=generator, device=device), normal())

    def sides(self, ways: Sequence[Way], gradient: bool, compile: Callable[..., Any]) -> list[Side]:
        return [_side(way, self.blocks, gradient, compile) for way in ways]

    def measured(self, sides: Sequence[Side], levels: int | None = None) -> Timings:
        return compare(self.machine, sides, lambda generator: self.draw(generator, levels), self.at.seconds)

    def memory(self, sides: Sequence[Side]) -> dict[str, int]:
        drawn, there = self.draw(self.machine.generator(0)), [self.features, *self.blocks.parameters()]
        return {side.name: memory(self.machine, side.run, drawn, there) for side in sides}


def blocks(machine: Machine, at: Blocks) -> Iterator[Line]:
    """Row 3, and row 3c where all is asked for."""
    setting = Setting(machine, at)
    for gradient in (False, True):
        what = f"{setting.name}, {at.grid} levels, forward{' and backward' * gradient}"
        sides = setting.sides([PER_SAMPLE, TABLE, PER_TOKEN, LIMIT], gradient, machine.compile)
        timings = setting.measured(sides)
        kept = setting.memory(sides[:3]) if gradient else {}
        goals = {PER_SAMPLE: 1 / 1.03 if machine.gpu else 1 / 1.05, PER_TOKEN: 1.25 if gradient else 1.4}
        for peer, goal in goals.items():
            share = kept[TABLE.name] / kept[peer.name] if kept else None
            names = TABLE.name, peer.name
            yield line("3", f"{what}, compiled", timings, *names, goal=goal, limit=LIMIT.name, memory=share)
        if at.thorough:
            timings = setting.measured(setting.sides([PER_SAMPLE, TABLE, PER_TOKEN], gradient, _as_it_is))
            for peer in (PER_SAMPLE, PER_TOKEN):
                yield line("3", f"{what}, eager", timings, TABLE.name, peer.name)
    if at.thorough:
        yield from _fewer_levels(setting)
        yield from _continuous(setting)


def _fewer_levels(setting: Setting) -> Iterator[Line]:
    for levels in (8, 64, 256):
        timings = setting.measured(setting.sides([TABLE, PER_TOKEN], False, setting.machine.compile), levels)
        yield line("3", f"{setting.name}, {levels} levels, forward, compiled", timings, TABLE.name, PER_TOKEN.name)
    timings = setting.measured(setting.sides([TABLE, FOUND], False, setting.machine.compile))
    what = f"{setting.name}, {setting.at.grid} levels, forward, compiled"
    yield line("3", what, timings, FOUND.name, TABLE.name)


def _continuous(setting: Setting) -> Iterator[Line]:
    for gradient in (False, True):
        ways = [TABLE, LERP, LERP_PER_TOKEN]
        timings = setting.measured(setting.sides(ways, gradient, setting.machine.compile))
        what = f"{setting.name}, {setting.at.grid} knots, forward{' and backward' * gradient}, compiled"
        for peer in (TABLE, LERP_PER_TOKEN):
            yield line("3c", what, timings, LERP.name, peer.name)


def equal(machine: Machine, at: Blocks) -> Iterator[Line]:
    """Row 0: the table against itself."""
    setting = Setting(machine, at)
    side = _side(TABLE, setting.blocks, False, machine.compile)
    timings = compare(machine, [side, replace(side, name="the same")], setting.draw, at.seconds)
    yield line("0", f"{setting.name}, forward, compiled", timings, side.name, "the same")
