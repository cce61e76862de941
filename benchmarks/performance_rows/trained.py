"""What it costs in error to leave out tokens at rest, on a trained model with attention both ways.

Not a matter of time: at each step the network is asked with tokens left out and with none, and its outputs for the
tokens that move are compared; at the end the tokens are compared with those of the dense network.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apd_models import ActiveTokens, DiT, from_pretrained
from apd_samplers import DDIM, AtRandom, Changing, DualLoop, FollowPath, Predicted, RoundRobin, sample
from apd_schedules import NoiseMap, Posterior, flow_from_x, hold_clean, raster, sequential, synchronous

from .networks import SCHEDULE
from .protocol import Machine, relative_error
from .report import Off


def off(machine: Machine, folder: Path, images: int = 16, steps: int = 16) -> Iterator[Off]:
    """Rows 10 to 13 on a model folder: known tokens are those of images that the model makes first."""
    model = from_pretrained(folder, machine.device).model
    of = model.config
    tokens = of.grid[0] * of.grid[1]
    shape = (images, tokens, of.token_dim)
    z = torch.randn(shape, generator=machine.generator(0), device=machine.device)
    label = torch.randint(max(1, of.classes), (images,), generator=machine.generator(1), device=machine.device)
    told: dict[str, Any] = {"label": label} if of.classes else {}
    whole = FollowPath(synchronous(tokens), SCHEDULE, 2 * steps)
    made = sample(model, DDIM(), whole, z, **told).tokens
    row = torch.arange(of.grid[0], device=machine.device)
    near = ((row + 0.5) / of.grid[0] - 0.5).abs() < 0.25
    known = ~(near[:, None] & near[: of.grid[1]]).flatten()
    again = torch.randn(shape, generator=machine.generator(2), device=machine.device)
    ahead = Predicted() if of.error_head else Changing()
    at_random = AtRandom(
        lambda like: torch.randn(like.shape, generator=machine.generator(3), device=like.device).to(like)
    )
    runs: dict[str, tuple[Any, torch.Tensor]] = {
        "inpainting": (FollowPath(hold_clean(synchronous(tokens), known.cpu()[:, None]), SCHEDULE, steps), made),
        "certain tokens ahead": (DualLoop(SCHEDULE, steps // 4, 4, 0.7, ahead), z),
        "tokens at random ahead": (DualLoop(SCHEDULE, steps // 4, 4, 0.7, at_random), z),
        "a quarter in turn": (RoundRobin(SCHEDULE, steps, 4), z),
        "quarters in raster order": (FollowPath(sequential(raster(of.grid, 2, 2)), SCHEDULE, steps), z),
    }
    for name, (walk, begin) in runs.items():
        begin = torch.where(known[:, None], begin, again) if name == "inpainting" else begin
        dense = sample(model, DDIM(), walk, begin, **told)
        for refresh in (2, 4, 8):
            both = Beside(ActiveTokens(model, refresh), model)
            found = sample(both, DDIM(), walk, begin, only_moving=True, **told)
            away = relative_error(found.tokens - begin, dense.tokens - begin)
            yield Off(name, refresh, found.token_evaluations / dense.token_evaluations, both.off(), away)


class Beside:
    """Some tokens' guesses as they are; how far from the whole model's, in its output, is added up."""

    def __init__(self, some: ActiveTokens, whole: DiT) -> None:
        self.some, self.whole = some, whole
        self._away = self._size = torch.zeros(())

    def __call__(self, z: Tensor, noise: NoiseMap, *, moving: Tensor | None = None, **told: Any) -> Posterior:
        found = self.some(z, noise, moving=moving, **told)
        wanted = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if moving is None else moving
        flow = flow_from_x(self.whole(z, noise, **told).mean, z, noise)[wanted]
        self._away = self._away + (flow_from_x(found.mean, z, noise)[wanted] - flow).square().sum()
        self._size = self._size + flow.square().sum()
        return found

    def off(self) -> float:
        """Root mean square of the difference over that of the output, of all steps and the tokens that moved."""
        return float((self._away / self._size).sqrt())
