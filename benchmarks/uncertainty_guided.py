"""What uneven steps are worth: error against token evaluations on a mixture with easy and hard regions.

A sampler's error is measured in nats an image: by how much the bound of its ancestral chain exceeds that of infinitely
many steps, ``E sum_steps sum_i ½ (SNR' - SNR) d v_i - (I(x; z_clean) - I(x; z_noise))`` with the exact ``v``. The
Kullback-Leibler divergence from the data to the samples is at most that. Chains are drawn in the order of generation
and towards data, so that adaptive schedulers see what they would see when they generate.

    uv run python benchmarks/uncertainty_guided.py

prints the table and writes docs/results/uncertainty-guided.json. With a word after it, it renews the rows of schedulers
in whose name that occurs and keeps the others.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from apd_samplers import (
    AtRandom,
    Changing,
    FollowPath,
    InferenceScheduler,
    RoundRobin,
    UncertaintyGuided,
)
from apd_schedules import (
    GaussianMixtureDenoiser,
    Linear,
    NoiseMap,
    NoiseSchedule,
    RectifiedFlow,
    corrupt,
    step_back,
    synchronous,
)

TOKENS, ELEMENTS, HARD, COMPONENTS = 16, 4, 4, 6
SCHEDULE = RectifiedFlow(clean=7.0, noise=-9.0)  # the noise left, of variance 1/1100, is what counts as clean
OUT = Path(__file__).parents[1] / "docs" / "results" / "uncertainty-guided.json"


def problem(seed: int = 0, small: float = 0.03) -> GaussianMixtureDenoiser:
    """A few tokens of several modes and unit variance (an object), the others nearly flat (its background)."""
    generator = Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    scale = torch.ones(TOKENS, 1, dtype=torch.float64)
    scale[HARD:] = small
    means = randn(COMPONENTS, TOKENS, ELEMENTS)
    means = scale * (means - means.mean(0, keepdim=True))
    size = TOKENS * ELEMENTS
    root = randn(COMPONENTS, size, size) / size**0.5
    each = scale.expand(-1, ELEMENTS).flatten()
    covs = 0.1 * root @ root.mT + 0.02 * torch.eye(size, dtype=torch.float64)
    return GaussianMixtureDenoiser(
        torch.ones(COMPONENTS, dtype=torch.float64), means, each[:, None] * covs * each[None, :]
    )


def information(
    denoise: GaussianMixtureDenoiser, schedule: NoiseSchedule, samples: int, seed: int = 1
) -> tuple[float, float]:
    """``I(x; z_clean) - I(x; z_noise)`` in nats, and its standard error."""
    generator = Generator().manual_seed(seed)
    x = denoise.sample(samples, generator)
    gained = torch.zeros(samples, dtype=torch.float64)
    for level, sign in ((0.0, 1), (1.0, -1)):
        noise = NoiseMap(schedule(torch.full((x.shape[1], 1), level, dtype=torch.float64)))
        eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        given_x = -0.5 * (eps.square() + math.log(2 * math.pi)).sum((1, 2)) - x.shape[2] * noise.sigma.log().sum()
        gained += sign * (given_x - denoise.log_prob(corrupt(x, noise, eps), noise))
    return gained.mean().item(), gained.std().item() / samples**0.5


@dataclass(frozen=True, slots=True)
class Chains:
    """Args:
    committed: nats of each image.
    updates: steps in which each token moved, ``(b, n)``.
    asked: steps for which the scheduler asks for the guess of each token, ``(b, n)``.
    evaluations: network evaluations of each image.
    """

    committed: Tensor
    updates: Tensor
    asked: Tensor
    evaluations: int


@torch.no_grad()
def chains(denoise: GaussianMixtureDenoiser, scheduler: InferenceScheduler[Any], samples: int, seed: int = 2) -> Chains:
    """Ancestral chains towards data, drawn in the order of generation."""
    generator = Generator().manual_seed(seed)
    x = denoise.sample(samples, generator)
    normal = lambda: torch.randn(x.shape, generator=generator, dtype=torch.float64)
    noise, state = scheduler.init(x)
    noise = NoiseMap(noise.log_snr.expand(*x.shape[:2], 1))
    z = corrupt(x, noise, normal())
    committed, updates = torch.zeros(samples, dtype=torch.float64), torch.zeros(x.shape[:2], dtype=torch.long)
    asked = torch.zeros_like(updates)
    moving = getattr(scheduler, "moving", lambda noise, state: torch.ones(x.shape[:2], dtype=torch.bool))
    finished = getattr(scheduler, "finished", lambda noise, state: False)
    evaluations = 0
    while evaluations < scheduler.max_steps and not finished(noise, state):
        posterior = denoise(z, noise)
        evaluations += 1
        asked += moving(noise, state)
        assert posterior.log_var is not None
        target, state = scheduler.next(noise, posterior, state)
        target = NoiseMap(target.log_snr.expand_as(noise.log_snr))
        gain = (target.log_snr.exp() - noise.log_snr.exp())[..., 0]
        committed += 0.5 * x.shape[2] * (gain * posterior.log_var.exp()).sum(1)
        updates += (target.log_snr != noise.log_snr)[..., 0]
        z, noise = step_back(z, x, noise, target, normal()), target
    return Chains(committed, updates, asked, evaluations)


def schedulers(samples: int) -> dict[str, Callable[[int], InferenceScheduler[Any]]]:
    generator = Generator().manual_seed(9)
    normal = lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return {
        "synchronous, equal steps of level": lambda k: FollowPath(synchronous(TOKENS), SCHEDULE, k),
        "synchronous, equal steps of log-SNR": lambda k: FollowPath(
            synchronous(TOKENS), Linear(noise=-9.0, clean=7.0), k
        ),
        "synchronous, equal steps of nats": lambda k: UncertaintyGuided(SCHEDULE, k, pace="nats", together=True),
        "guided, by level, patience 0.5": lambda k: UncertaintyGuided(SCHEDULE, k),
        "guided, by level, patience 1": lambda k: UncertaintyGuided(SCHEDULE, k, patience=1.0),
        "guided, by nats, patience 0": lambda k: UncertaintyGuided(SCHEDULE, k, pace="nats", patience=0.0),
        "guided, by nats, patience 0.5": lambda k: UncertaintyGuided(SCHEDULE, k, pace="nats"),
        "guided, by nats, patience 1": lambda k: UncertaintyGuided(SCHEDULE, k, pace="nats", patience=1.0),
        "lagged, by level, patience 0.5": lambda k: UncertaintyGuided(SCHEDULE, k, lagged=True),
        "lagged, by nats, patience 1": lambda k: UncertaintyGuided(SCHEDULE, k, pace="nats", patience=1.0, lagged=True),
        "from changes, by level, patience 0.5": lambda k: UncertaintyGuided(SCHEDULE, k, Changing()),
        "from changes, by nats, patience 0.5": lambda k: UncertaintyGuided(SCHEDULE, k, Changing(), pace="nats"),
        "lagged, from changes, by level, patience 0.5": lambda k: UncertaintyGuided(
            SCHEDULE, k, Changing(), lagged=True
        ),
        "random, by nats, patience 0.5": lambda k: UncertaintyGuided(SCHEDULE, k, AtRandom(normal), pace="nats"),
        "round robin, 4 groups": lambda k: RoundRobin(SCHEDULE, k, groups=4),
    }


def main(word: str = "", samples: int = 128, steps: tuple[int, ...] = (8, 16, 32, 64)) -> None:
    start = time.perf_counter()
    denoise = problem()
    whole, error = information(denoise, SCHEDULE, 20_000)
    every = schedulers(samples)
    kept = json.loads(OUT.read_text()) if word else {"rows": [], "seconds": 0}
    rows = [row for row in kept["rows"] if word not in row["scheduler"]]
    print(f"information {whole:.3f} ± {error:.3f} nats, {samples} images\n")
    print("| scheduler | network evaluations | moves a token | asked for, a token | excess, nats |")
    print("| --- | --- | --- | --- | --- |")
    for name, make in every.items():
        for k in steps if word in name else ():
            found = chains(denoise, make(k), samples)
            excess = found.committed.mean().item() - whole
            spread = found.committed.std().item() / samples**0.5
            updates, asked = found.updates.double().mean(0), found.asked.double().mean().item()
            rows.append(
                {
                    "scheduler": name,
                    "evaluations": found.evaluations,
                    "updates_hard": updates[:HARD].mean().item(),
                    "updates_easy": updates[HARD:].mean().item(),
                    "updates": updates.mean().item(),
                    "asked": asked,
                    "excess_nats": excess,
                    "standard_error": spread,
                }
            )
            cost = f"{found.evaluations} | {updates.mean():.1f} | {asked:.1f}"
            print(f"| {name} | {cost} | {excess:.2f} ± {spread:.2f} |", flush=True)
    record = {
        "tokens": TOKENS,
        "hard_tokens": HARD,
        "elements": ELEMENTS,
        "images": samples,
        "information_nats": [whole, error],
        "rows": sorted(rows, key=lambda row: list(every).index(row["scheduler"])),
        "torch": torch.__version__,
        "seconds": kept["seconds"] + round(time.perf_counter() - start),
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(" ".join(sys.argv[1:]))
