"""Rows 5 and 7 of the benchmark: a training step, and what comes after the gradients alone."""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from apd_models import DiT
from apd_samplers import Draw, flow_weighting, loss
from apd_schedules import NoiseMap
from apd_train import Ema

from . import peers
from .networks import Network, at, found, with_levels
from .protocol import Inputs, Machine, Side, compare, memory, spread
from .report import Line, line

CELLS = 256
"""Distinct levels of a batch, as training snaps them."""
RATE = 1e-4
CHECKED = 2
"""Samples whose gradients are held against float64; batches are a multiple of it."""


def loss_of(model: DiT, kind: str) -> Callable[..., Tensor]:
    """The loss, of clean tokens, noise, the level of each token, and for a table its levels and rows."""
    told, peer = with_levels(model), peers.Peer(model, per_token=kind != "per sample")

    def mean_loss(x: Tensor, eps: Tensor, log_snr: Tensor, *rows: Tensor) -> Tensor:
        noise = NoiseMap(log_snr[..., None])
        denoise = (lambda z, noise: told(z, log_snr, *rows)) if kind == "table" else peer
        return loss(denoise, x, Draw(noise, flow_weighting(noise)), eps).mean() / x[0].numel()

    return mean_loss


class Trainer:
    """A copy of the model, its optimizer and the average of its weights.

    Args:
        kind: ``table``, ``per token`` or ``per sample``.
    """

    def __init__(self, machine: Machine, model: DiT, kind: str) -> None:
        self.kind = kind
        self.model = copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, fused=True)
        self.average = Ema(self.model, 0.05)
        self.loss = machine.compile(loss_of(self.model, kind))

    def rows(self, index: Tensor) -> tuple[Tensor, ...]:
        log_snr = at((index + 0.5) / CELLS)
        if self.kind == "per sample":
            return (log_snr[:, :1].expand_as(log_snr),)
        if self.kind == "per token":
            return (log_snr,)
        levels = found(log_snr)
        return log_snr, levels.log_snr, levels.index

    def step(self, x: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        value = self.loss(x, eps, *self.rows(index))
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(self.model)
        return value.detach()

    def gradients(self, *inputs: Tensor) -> list[Tensor]:
        """Of a batch that is a few samples again and again: the same as of those few."""
        x, eps, index = (torch.cat([each[:CHECKED]] * (len(each) // CHECKED)) for each in inputs)
        return _with_gradients(self.loss(x, eps, *self.rows(index)), self.model)

    def exact(self, *inputs: Tensor) -> list[Tensor]:
        """The same by a projection per token, at the present weights, in float64."""
        x, eps, index = (each[:CHECKED] for each in inputs)
        model = peers.in_double(self.model)
        value = loss_of(model, "per token")(x.double(), eps.double(), self.rows(index)[0].double())
        return _with_gradients(value, model)

    def side(self) -> Side:
        return Side(self.kind, self.step, self.exact, self.gradients, tolerance=1e-3)


def _with_gradients(value: Tensor, model: DiT) -> list[Tensor]:
    return [value, *torch.autograd.grad(value, list(model.parameters()), allow_unused=True)]


def training(machine: Machine, of: Network) -> Iterator[Line]:
    """Row 5. Levels are independent, of 256 cells; ours finds the distinct ones in every step."""
    model = of.model(machine)

    def draw(generator: Generator) -> Inputs:
        index = torch.randint(CELLS, (of.batch, of.tokens), generator=generator, device=machine.device)
        return of.normal(machine, generator), of.normal(machine, generator), index

    def products(x: Tensor) -> Tensor:
        inner = model.embed(x)
        for block in model.each_block:
            inner = peers.products(block, inner)
        return inner.sum()

    run = machine.compile(products)
    limit = Side("products", lambda x, eps, index: _with_gradients(run(x), model))
    trainers = [Trainer(machine, model, kind) for kind in ("per sample", "table", "per token")]
    timings = compare(machine, [*(trainer.side() for trainer in trainers), limit], draw, of.seconds)
    kept = {
        trainer.kind: memory(machine, trainer.step, draw(machine.generator(0)), trainer.model.parameters())
        for trainer in trainers
    }
    rate = of.batch / spread(timings.seconds["table"])[0]
    for peer, goal in (("per sample", 1.0), ("per token", 1.25)):
        yield line(
            *("5", f"{of.name}, compiled", timings, "table", peer),
            goal=goal if machine.gpu else None,
            limit=limit.name,
            memory=kept["table"] / kept[peer],
            note=f"The table trains on {rate:.3g} images a second.",
        )


class Update:
    """Optimizer and average, of a model whose gradients are given.

    Args:
        fused: one kernel for AdamW and one call for the average; otherwise ``foreach``, and DiT's loop over parameters.
    """

    def __init__(self, model: DiT, fused: bool) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, fused=fused, foreach=not fused)
        self.average = Ema(self.model, 0.05) if fused else None
        self.slow = copy.deepcopy(self.model).requires_grad_(False)

    def run(self, *gradients: Tensor) -> list[Tensor]:
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        if self.average:
            self.average.update(self.model)
            return [*self.model.parameters(), *self.average.state_dict().values()]
        self._loop()
        return [*self.model.parameters(), *self.slow.parameters()]

    @torch.no_grad()
    def _loop(self) -> None:
        fresh = dict(self.model.named_parameters())
        for name, parameter in self.slow.named_parameters():
            parameter.mul_(0.9999).add_(fresh[name], alpha=1 - 0.9999)


def two_updates(start: DiT, fused: bool, gradients: Sequence[Tensor]) -> list[Tensor]:
    """Parameters and averages after two steps from the same start."""
    fresh = Update(start, fused)
    fresh.run(*gradients)
    return fresh.run(*(-0.5 * each for each in gradients))


def update(machine: Machine, of: Network) -> Iterator[Line]:
    """Row 7. The limit moves 40 bytes a parameter: AdamW reads 16 and writes 12, the average reads 8 and writes 4."""
    model = of.model(machine)
    count = sum(parameter.numel() for parameter in model.parameters())
    source, target = (torch.zeros(5 * count, device=machine.device) for _ in range(2))

    def draw(generator: Generator) -> Inputs:
        normal = lambda like: torch.randn(like.shape, generator=generator, device=machine.device)
        return tuple(map(normal, model.parameters()))

    def side(name: str, fused: bool) -> Side:
        exact = lambda *gradients: two_updates(peers.in_double(model), fused, tuple(peers.doubled(gradients)))
        check = lambda *gradients: two_updates(model, fused, gradients)
        return Side(name, Update(model, fused).run, exact, check)

    ours, theirs = "fused, one average", "foreach, loop of averages"
    limit = Side("copy", lambda *gradients: target.copy_(source))
    timings = compare(machine, [side(ours, True), side(theirs, False), limit], draw, of.seconds)
    what = f"{count / 1e6:.1f} million parameters"
    yield line("7", what, timings, ours, theirs, goal=2.0 if machine.gpu else None, limit="copy")
