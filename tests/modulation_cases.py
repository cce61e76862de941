"""Modulated norms and gated sums from their definitions, and what to try them on."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from apd_models._fused import gated_norm, gated_sum, modulated_norm
from apd_models._modulation import Rows
from apd_models._triton import Runs

Case = tuple[Tensor, Tensor, Rows]
B, N = 2, 5


def reference(x: Tensor, branch: Tensor, rows: Rows) -> tuple[Tensor, ...]:
    """All three functions at parts 0 and 1, 2, and 3 to 5, by definition: a matrix product finds the rows."""
    b, n, width = x.shape
    pick = F.one_hot(rows.index.expand(b, n), len(rows.table)).to(x)
    parts = [pick @ part for part in rows.table.unbind(1)]
    if rows.sample is not None:
        parts = [part + of[:, None] for part, of in zip(parts, rows.sample.unbind(1), strict=True)]

    def norm(x: Tensor) -> Tensor:
        centred = x - x.sum(-1, keepdim=True) / width
        return centred / (centred.square().sum(-1, keepdim=True) / width + 1e-6).sqrt()

    new = x + parts[3] * branch
    return norm(x) * parts[1] + parts[0], x + parts[2] * branch, new, norm(new) * parts[5] + parts[4]


def ours(x: Tensor, branch: Tensor, rows: Rows, runs: Runs | None) -> tuple[Tensor, ...]:
    return (
        modulated_norm(x, rows, 0, 1, runs),
        gated_sum(x, branch, rows, 2, runs),
        *gated_norm(x, branch, rows, 3, 4, 5, runs),
    )


def example(
    form: tuple[int, int] = (B, N),
    sample: int | None = None,
    *,
    width: int = 16,
    rows: int = 5,
    dtype: torch.dtype = torch.float32,
    branch_dtype: torch.dtype | None = None,
) -> Case:
    generator = Generator().manual_seed(0)
    x, branch, table = (torch.randn(*shape, width, generator=generator) for shape in [(B, N), (B, N), (rows, 6)])
    index = torch.randint(rows, form, generator=generator)
    of_sample = None if sample is None else torch.randn(sample, 6, width, generator=generator)
    if dtype == torch.float64:
        table, of_sample = table.double(), None if of_sample is None else of_sample.double()
    return x.to(dtype), branch.to(branch_dtype or dtype), Rows(table, index, of_sample)


def in_float64(x: Tensor, branch: Tensor, rows: Rows) -> Case:
    """The same numbers."""
    sample = None if rows.sample is None else rows.sample.detach().double()
    return x.detach().double(), branch.detach().double(), Rows(rows.table.detach().double(), rows.index, sample)


def leaves_of(x: Tensor, branch: Tensor, rows: Rows) -> list[Tensor]:
    leaves = [x, branch, rows.table] + ([] if rows.sample is None else [rows.sample])
    return [leaf.requires_grad_() for leaf in leaves]


def gradients(outputs: tuple[Tensor, ...], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a random weighting of all outputs."""
    towards = [
        torch.randn(part.shape, generator=Generator().manual_seed(k), dtype=torch.float64).to(part)
        for k, part in enumerate(outputs)
    ]
    return torch.autograd.grad(outputs, leaves, towards)
