"""Rows 8, 9 and 14 of the benchmark: generation on fixed maps, and guidance."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from apd_models import DiT, tabulated
from apd_samplers import DDIM, FollowPath, Guidance, classifier_free, input_guidance, on_interval, sample
from apd_schedules import Denoiser, NoiseMap, Posterior, synchronous

from . import peers
from .networks import SCHEDULE, Network, at, box
from .protocol import Inputs, Machine, Side, compare, graphed
from .report import Line, line

BEFOREHAND, FOUND, PER_SAMPLE, PER_TOKEN = "table beforehand", "table", "per sample", "per token"
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def denoisers(model: DiT, walk: FollowPath, z: Tensor, wrap: Wrap) -> dict[str, Denoiser]:
    """Ours and its peers, on one set of weights, with the network's forward pass wrapped."""
    own = copy.copy(model)
    own.forward = wrap(model.forward)
    maps = [walk.at(step, z) for step in range(walk.max_steps + 1)]
    found: dict[str, Denoiser] = {BEFOREHAND: tabulated(own, maps)}
    for name, per_token in ((PER_SAMPLE, False), (PER_TOKEN, True)):
        peer = peers.Peer(model, per_token)
        peer.forward = wrap(peer.forward)
        found[name] = peer
    return found


def replayed(denoise: Denoiser, z: Tensor) -> Denoiser:
    """As a CUDA graph."""
    log_snr = torch.zeros(*z.shape[:2], 1, device=z.device)
    run = graphed(lambda z, log_snr: denoise(z, NoiseMap(log_snr)).mean, (z, log_snr))
    return lambda z, noise: Posterior(run(z, noise.log_snr.expand_as(log_snr)))


def alone(machine: Machine, of: Network, steps: int) -> Iterator[Line]:
    """Row 8."""
    model, walk = of.model(machine), FollowPath(synchronous(of.tokens), SCHEDULE, steps)
    draw = lambda generator: (of.normal(machine, generator),)
    (z,) = draw(machine.generator(0))
    exact = denoisers(peers.in_double(model), walk, z.double(), lambda forward: forward)
    reference = lambda z: sample(exact[PER_TOKEN], DDIM(), walk, z.double()).tokens

    def side(name: str, denoise: Denoiser) -> Side:
        return Side(name, lambda z: sample(denoise, DDIM(), walk, z).tokens, reference, tolerance=1e-4)

    def lines(how: str, of_each: dict[str, Denoiser], goals: dict[str, float]) -> Iterator[Line]:
        timings = compare(machine, [side(*each) for each in of_each.items()], draw, of.seconds)
        for peer in list(of_each)[1:]:
            what = f"{of.name}, {steps} steps, {how}"
            yield line("8", what, timings, BEFOREHAND, peer, goal=goals.get(peer))

    eager = denoisers(model, walk, z, lambda forward: forward)
    yield from lines("eager", {BEFOREHAND: eager.pop(BEFOREHAND), FOUND: model, **eager}, {})
    compiled = denoisers(model, walk, z, machine.compile)
    yield from lines("compiled", compiled, {})
    if machine.gpu:
        with torch.no_grad(), machine.precision():
            graphs = {name: replayed(denoise, z) for name, denoise in compiled.items()}
        yield from lines("compiled, as CUDA graphs", graphs, {PER_SAMPLE: 1.2})


def guided_batch(machine: Machine, of: Network, steps: int, low: float = 0.35) -> Iterator[Line]:
    """Row 9. Guidance asks for both guesses in one call, ours and the peers' alike."""
    model, walk = of.model(machine, classes=10), FollowPath(synchronous(of.tokens), SCHEDULE, steps)
    whole = classifier_free(2.0, {"label": torch.full((of.batch,), model.null_label, device=machine.device)})

    def draw(generator: Generator) -> Inputs:
        label = torch.randint(10, (of.batch,), generator=generator, device=machine.device)
        return of.normal(machine, generator), label

    exact = denoisers(peers.in_double(model), walk, draw(machine.generator(0))[0].double(), lambda forward: forward)

    def side(name: str, denoise: Denoiser, guidance: Guidance) -> Side:
        run = lambda z, label: sample(guidance(denoise), DDIM(), walk, z, label=label).tokens
        right = lambda z, label: sample(guidance(exact[PER_TOKEN]), DDIM(), walk, z.double(), label=label).tokens
        return Side(name, run, right, tolerance=1e-4)

    compiled = denoisers(model, walk, draw(machine.generator(0))[0], machine.compile)
    sides = [side(name, denoise, whole) for name, denoise in compiled.items()]
    timings = compare(machine, sides, draw, of.seconds)
    what = f"{of.name} and as many without label, {steps} steps, compiled"
    for peer in (PER_SAMPLE, PER_TOKEN):
        yield line("9", what, timings, BEFOREHAND, peer)
    some = on_interval(whole, low, 1.0)
    ours = compiled[BEFOREHAND]
    timings = compare(machine, [side("on an interval", ours, some), side("throughout", ours, whole)], draw, of.seconds)
    yield line("9", f"{what}, guided above level {low:g}", timings, "on an interval", "throughout")


def one_by_one(denoise: Denoiser, contexts: int) -> Denoiser:
    """Asks for each context of a pooled call by itself."""

    def each(z: Tensor, noise: NoiseMap, label: Tensor) -> Posterior:
        log_snr = noise.log_snr.expand(len(z), -1, -1)
        parts = zip(z.chunk(contexts), log_snr.chunk(contexts), label.chunk(contexts), strict=True)
        means = [denoise(z, NoiseMap(log_snr), label=label).mean for z, log_snr, label in parts]
        return Posterior(torch.cat(means))

    return each


def contexts(machine: Machine, of: Network) -> Iterator[Line]:
    """Row 14: one evaluation of input guidance of classifier-free guidance, three quarters of the tokens known."""
    model = of.model(machine, classes=10)
    exact = peers.Peer(peers.in_double(model), per_token=True)
    null = torch.full((of.batch,), model.null_label, device=machine.device)
    known = box(of.side, of.batch, machine.device)

    def draw(generator: Generator) -> Inputs:
        level = torch.rand(1, generator=generator, device=machine.device).expand(of.batch, of.tokens)
        label = torch.randint(10, (of.batch,), generator=generator, device=machine.device)
        again = of.normal(machine, generator)
        return of.normal(machine, generator), at(torch.where(known, 0.0, level)), label, again

    @torch.no_grad()
    def guess(denoise: Denoiser, z: Tensor, log_snr: Tensor, label: Tensor, again: Tensor) -> Tensor:
        outer = input_guidance(1.0, known[..., None], schedule=SCHEDULE, noise=lambda like: again.to(like))
        guided = outer(classifier_free(2.0, {"label": null})(denoise))
        return guided(z, NoiseMap(log_snr[..., None]), label=label).mean

    def reference(z: Tensor, log_snr: Tensor, label: Tensor, again: Tensor) -> Tensor:
        return guess(exact, z.double(), log_snr.double(), label, again)

    def side(name: str, denoise: Denoiser) -> Side:
        return Side(name, lambda *inputs: guess(denoise, *inputs), reference, tolerance=1e-4)

    sides = [side("one call", model), side("four calls", one_by_one(model, 4))]
    timings = compare(machine, sides, draw, of.seconds)
    goal = 1.3 if machine.gpu and of.batch == 1 else None
    yield line("14", f"{of.name}, eager", timings, "one call", "four calls", goal=goal)
