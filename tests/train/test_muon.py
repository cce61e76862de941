"""Muon against PyTorch's and against the singular value decomposition. Several processes: test_parallel.py."""

import copy

import pytest
import torch
from torch import Tensor, nn

from apd_train._muon import Muon, newton_schulz

SHAPES = ((24, 8), (8, 8), (8, 24), (5, 7))


def matrices(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def steps_of(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], frozen: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for i, p in enumerate(params):
            gradient = torch.randn(p.shape, generator=generator).to(p)
            p.grad = None if i == frozen else gradient
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [None, 1])
def test_one_process_takes_the_steps_of_pytorchs(dtype: torch.dtype, frozen: int | None) -> None:
    """To the bit, and with the same state, so that either can go on from the other's."""
    ours, theirs = matrices(dtype), matrices(dtype)
    mine = Muon(ours, lr=0.02, momentum=0.9, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    assert all(map(torch.equal, steps_of(mine, ours, frozen), steps_of(other, theirs, frozen)))
    states = copy.deepcopy((mine.state_dict(), other.state_dict()))
    mine.load_state_dict(states[1])
    other.load_state_dict(states[0])
    assert all(map(torch.equal, steps_of(mine, ours), steps_of(other, theirs)))


def test_the_iteration_brings_singular_values_near_one_and_keeps_the_vectors() -> None:
    """In float64, where the quintic's range for singular values from .1 to 1 of the norm is known: about .7 to 1.2."""
    generator = torch.Generator().manual_seed(2)
    for shape in ((12, 5), (5, 12)):
        u, s, vh = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
        found = newton_schulz(u @ torch.diag(s) @ vh, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        inner = u.T @ found @ vh.T
        assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-10
        assert 0.6 < inner.diagonal().min()
        assert inner.diagonal().max() < 1.3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="2D"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(ValueError, match="Muon takes no closure"):
        Muon(matrices(torch.float32), lr=0.1).step(lambda: 0.0)
