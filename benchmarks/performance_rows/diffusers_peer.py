"""Rows 8 and 9 against diffusers' DiT, run as it is, on the same weights."""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apd_models import DiT, Patchify, tabulated
from apd_models._foreign import from_foreign
from apd_samplers import DDIM, FollowPath, sample
from apd_schedules import Denoiser, NoiseSchedule, synchronous

from . import peers
from .networks import Network
from .protocol import Inputs, Machine, Side, compare
from .report import Line, NotMeasured, line

SHAPES = {"S": (12, 6, 64), "B": (12, 12, 64), "L": (24, 16, 64), "XL": (28, 16, 72)}
"""Depth, heads and their width, as published."""


def both(of: Network, seed: int) -> tuple[Any, DiT, Patchify]:
    """A network of diffusers with weights at random, and ours with the same."""
    from diffusers import DiTTransformer2DModel

    depth, heads, width = SHAPES[of.size]
    network: Any = DiTTransformer2DModel
    theirs = network(
        num_attention_heads=heads,
        attention_head_dim=width,
        in_channels=4,
        out_channels=8,
        num_layers=of.depth or depth,
        sample_size=2 * of.side,
        patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()
    peers.drawn_anew(theirs, seed)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        found = from_foreign(Path(folder), "diffusers")
    return theirs.requires_grad_(False), found.model, found.patchify


def ddim_steps(steps: int) -> tuple[Any, NoiseSchedule]:
    """Their DDIM, and the same log-SNRs as a schedule of steps even in the level."""
    from diffusers import DDIMScheduler

    walk: Any = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
    walk.set_timesteps(steps)
    signal = walk.alphas_cumprod.double()[walk.timesteps.flip(0)]
    log_snr = torch.cat([torch.tensor([40.0]).double(), (signal / (1 - signal)).log()])
    return walk, lambda t: log_snr.to(t)[(t * steps).round().long()]


def against_diffusers(machine: Machine, of: Network, steps: int) -> Iterator[Line | NotMeasured]:
    try:
        theirs, ours, patchify = both(of, machine.seed)
    except ImportError:
        yield NotMeasured("8", f"{of.name}, diffusers", "diffusers is not installed")
        return
    walk, schedule = ddim_steps(steps)
    path = FollowPath(synchronous(of.tokens), schedule, steps)
    theirs, ours = theirs.to(machine.device), ours.to(machine.device)
    exact_theirs, exact_ours = copy.deepcopy(theirs).double(), peers.in_double(ours)

    def draw(generator: torch.Generator) -> Inputs:
        label = torch.randint(10, (of.batch,), generator=generator, device=machine.device)
        return of.normal(machine, generator), label

    @torch.no_grad()
    def their_loop(network: Any, z: Tensor, label: Tensor) -> Tensor:
        x = patchify.to_images(z)
        for t in walk.timesteps:
            eps = network(x, timestep=t.expand(len(x)).to(x.device), class_labels=label).sample[:, :4]
            x = walk.step(eps, t, x).prev_sample
        return patchify.to_tokens(x)

    def our_loop(denoise: Denoiser, z: Tensor, label: Tensor) -> Tensor:
        return sample(denoise, DDIM(), path, z, label=label).tokens

    z, _ = draw(machine.generator(0))
    own = copy.copy(ours)
    for how in ("eager", "compiled"):
        network = theirs if how == "eager" else machine.compile(theirs)
        if how == "compiled":
            own.forward = machine.compile(ours.forward)
        table: Denoiser = tabulated(own, [path.at(step, z) for step in range(steps + 1)])
        sides = [
            Side(
                "table beforehand",
                lambda z, label, table=table: our_loop(table, z, label),
                lambda z, label: their_loop(exact_theirs, z.double(), label),
                tolerance=1e-3,
            ),
            Side(
                "diffusers' DiT",
                lambda z, label, network=network: their_loop(network, z, label),
                lambda z, label: our_loop(exact_ours, z.double(), label),
                tolerance=1e-3,
            ),
        ]
        timings = compare(machine, sides, draw, of.seconds)
        row = "8" if of.batch == 1 else "9"
        yield line(row, f"{of.name}, {steps} steps, {how}", timings, "table beforehand", "diffusers' DiT")
