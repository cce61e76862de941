"""Row 4 of the benchmark: the whole network at the maps of generation and training, against a projection per token."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from apd_schedules import NoiseMap

from . import peers
from .networks import Network, at, box, found, with_levels
from .protocol import Inputs, Machine, Side, compare
from .report import Line, line


def _synchronous(of: Network, machine: Machine, generator: Generator) -> Tensor:
    return torch.rand(1, 1, generator=generator, device=machine.device).expand(of.batch, of.tokens)


def _inpainting(of: Network, machine: Machine, generator: Generator) -> Tensor:
    return torch.where(box(of.side, of.batch, machine.device), 0.0, _synchronous(of, machine, generator))


def _certain_ahead(of: Network, machine: Machine, generator: Generator) -> Tensor:
    level = _synchronous(of, machine, generator)
    certain = torch.rand(of.batch, of.tokens, generator=generator, device=machine.device) < 0.7
    return torch.where(certain, 0.8 * level, level)


def _in_order(of: Network, machine: Machine, generator: Generator) -> Tensor:
    """Half of the tokens done, a quarter under way, a quarter noise."""
    turn = (4 * torch.arange(of.tokens, device=machine.device) // of.tokens).expand(of.batch, -1)
    level = _synchronous(of, machine, generator)
    return torch.where(turn < 2, 0.0, torch.where(turn == 2, level, 1.0))


def _independent(of: Network, machine: Machine, generator: Generator) -> Tensor:
    return torch.rand(of.batch, of.tokens, generator=generator, device=machine.device)


MAPS: dict[str, Callable[[Network, Machine, Generator], Tensor]] = {
    "synchronous": _synchronous,
    "inpainting, 2 levels": _inpainting,
    "certain tokens ahead, 2 levels": _certain_ahead,
    "in order, 3 levels": _in_order,
    "all levels distinct": _independent,
}


def maps(machine: Machine, of: Network) -> Iterator[Line]:
    """Ours finds the distinct levels in each call, as it does where nothing is known of them."""
    model = of.model(machine)
    per_token, exact = peers.Peer(model, per_token=True), peers.Peer(peers.in_double(model), per_token=True)
    plain = lambda z, log_snr: per_token(z, NoiseMap(log_snr[..., None])).mean

    @torch.no_grad()
    def reference(z: Tensor, log_snr: Tensor) -> Tensor:
        return exact(z.double(), NoiseMap(log_snr.double()[..., None])).mean

    for name, levels in MAPS.items():

        def draw(generator: Generator, levels: Callable[..., Tensor] = levels) -> Inputs:
            return of.normal(machine, generator), at(levels(of, machine, generator))

        told = machine.compile(with_levels(model))

        def find_and_tell(z: Tensor, log_snr: Tensor, told: Callable[..., Any] = told) -> Tensor:
            levels = found(log_snr)
            return told(z, log_snr, levels.log_snr, levels.index).mean

        for how, ours, theirs in (
            ("eager", lambda z, log_snr: model(z, NoiseMap(log_snr[..., None])).mean, plain),
            ("compiled", find_and_tell, machine.compile(plain)),
        ):
            sides = [
                Side(label, torch.no_grad()(run), reference, tolerance=1e-4)
                for label, run in (("table", ours), ("per token", theirs))
            ]
            timings = compare(machine, sides, draw, of.seconds)
            yield line("4", f"{of.name}, {name}, {how}", timings, "table", "per token")
