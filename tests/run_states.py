"""Tiny runs in the middle of learning, a function of the seed and of the steps done."""

import torch
from torch import Tensor

from apd_models import DiT, DiTConfig
from apd_train import TrainConfig
from apd_train._averages import Ema
from apd_train._model import make_optimizers
from apd_train._state import RunState
from tiny_runs import TINY

CONFIG = TrainConfig(**TINY)  # pyrefly: ignore[bad-argument-type]


def some_model(seed: int = 0, depth: int = 1) -> DiT:
    torch.manual_seed(seed)
    return DiT(DiTConfig((2, 2), token_dim=3, width=8, depth=depth, heads=2, classes=2))


def some_state(seed: int = 0) -> RunState:
    model = some_model(seed)
    return RunState(model, make_optimizers(CONFIG, model), Ema(model, (0.05, 0.1)))


def learn(state: RunState, steps: range) -> None:
    """Steps along gradients that depend on the step alone."""
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for parameter in state.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.ema.update(state.model)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
