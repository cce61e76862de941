"""Gradients in pieces, and their norms. Several processes: test_parallel.py."""

import math

import pytest
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from apd_train._gradients import accumulate, clip_gradients


class Network(nn.Module):
    """Two losses, means over samples, of one parameter each; and two sums over samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2, dtype=torch.float64)
        self.second = nn.Parameter(torch.tensor([0.5, -1.5], dtype=torch.float64))
        self.calls: list[int] = []

    def forward(
        self, x: Float[Tensor, "b 3"], y: Float[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "2"], Float[Tensor, "1 2"]]:
        self.calls.append(len(x))
        losses = (self.first(x) - y).square().mean(), (self.second * y).exp().mean()
        return torch.stack(losses), y.sum(0)[None]


def data(samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(samples, 2, generator=generator, dtype=torch.float64)


def run(micro_batch: int | None, samples: int = 64) -> tuple[Network, Tensor, Tensor]:
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(0)
    network = Network()
    losses, sums = accumulate(fabric, fabric.setup_module(network), data(samples), micro_batch)
    assert not losses.requires_grad
    assert not sums.requires_grad
    return network, losses, sums


@pytest.mark.parametrize(("micro_batch", "pieces"), [(16, [16] * 4), (24, [24, 24, 16]), (1, [1] * 64), (100, [64])])
def test_pieces_give_the_gradients_of_the_whole(micro_batch: int, pieces: list[int]) -> None:
    whole, losses, sums = run(None)
    other, losses_of_pieces, sums_of_pieces = run(micro_batch)
    assert (whole.calls, other.calls) == ([64], pieces)
    torch.testing.assert_close(losses_of_pieces, losses, rtol=1e-13, atol=0)
    torch.testing.assert_close(sums_of_pieces, sums, rtol=1e-12, atol=1e-13)
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-12, atol=1e-15)


def test_the_whole_is_plain_backpropagation() -> None:
    network, losses, _ = run(None)
    torch.manual_seed(0)
    plain = Network()
    plain(*data(64))[0].sum().backward()
    assert torch.equal(losses, plain(*data(64))[0].detach())
    pairs = zip(network.parameters(), plain.parameters(), strict=True)
    assert all(a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad) for a, b in pairs)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_shows_in_the_norm(bad: float) -> None:
    """Even where its own gradient is finite: a constant is added to the loss of the last piece."""

    class Shifted(Network):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            losses, sums = super().forward(x, y)
            return losses + torch.tensor([bad if len(x) == 4 else 0.0, 0.0]), sums

    fabric = Fabric(accelerator="cpu", devices=1)
    network = Shifted()
    losses, _ = accumulate(fabric, fabric.setup_module(network), data(12), 8)
    first, second = clip_gradients([[*network.first.parameters()], [network.second]], 1.0)
    assert not losses[0].isfinite()
    assert losses[1].isfinite()
    assert math.isnan(first)
    assert math.isfinite(second)


def test_groups_are_clipped_each_by_itself() -> None:
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad, c.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]), torch.tensor([0.3, 0.4])
    unused = nn.Parameter(torch.zeros(2))
    assert clip_gradients([[a, unused, b], [c]], 1.0) == pytest.approx([5.0, 0.5])
    assert a.grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-6)
    assert b.grad.tolist() == pytest.approx([0.0, 0.8], abs=1e-6)
    assert torch.equal(c.grad, torch.tensor([0.3, 0.4]))  # to the bit: it was short enough
