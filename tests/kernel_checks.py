"""Triton kernels on a CPU, for a process of its own.

``python kernel_checks.py values bits`` interprets them, with small chunks so that sums cross many; ``builds`` compiles
them for a GPU that need not be there.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

if "builds" not in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from apd_models import _triton, _triton_kernels
from apd_models._modulation import Rows
from apd_models._triton import modulate, runs_of
from modulation_cases import B, Case, N, example, gradients, in_float64, leaves_of, ours, reference

HALF = torch.bfloat16


def gated_norm(x: Tensor, branch: Tensor, rows: Rows) -> tuple[Tensor, ...]:
    return modulate(x, branch, rows, (3, 4, 5), runs_of(rows.index, len(rows.table)))


def all_three(x: Tensor, branch: Tensor, rows: Rows) -> tuple[Tensor, ...]:
    return ours(x, branch, rows, runs_of(rows.index, len(rows.table)))


def compare(case: Case, near: float, function: Callable[..., tuple[Tensor, ...]] = gated_norm) -> None:
    wide = in_float64(*case)
    leaves, wide_leaves = leaves_of(*case), leaves_of(*wide)
    found, expected = function(*case), reference(*wide)
    expected = expected[-len(found) :]
    pairs = [*zip(found, expected, strict=True)]
    pairs += zip(gradients(found, leaves), gradients(expected, wide_leaves), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one.double(), other, rtol=near, atol=near)


def values() -> None:
    """Every form of map and samples, widths between powers of two, rows without tokens, one row for all."""
    compare(example(width=48, rows=9, dtype=torch.float64), 1e-9, all_three)
    compare(example((B, 1), B, width=32, dtype=torch.float64), 1e-9)
    compare(example((1, N), 1, width=72, rows=3, dtype=torch.float64), 1e-9)
    compare(example((1, 1), B, width=96, rows=2, dtype=torch.float64), 1e-9)
    compare(example(width=40, rows=1, dtype=torch.float64), 1e-9)
    x, branch, rows = example(sample=B, width=40, dtype=torch.float64)
    assert rows.sample is not None
    across = lambda table: table.detach().mT.contiguous().mT.requires_grad_()
    compare((x, branch, Rows(across(rows.table), rows.index, across(rows.sample))), 1e-9)
    compare(example(sample=B, width=72), 1e-4)
    compare(example(sample=B, width=40, branch_dtype=HALF), 1e-2)
    compare(example((1, N), width=40, dtype=HALF), 1e-2)


def autocast() -> None:
    case = example(sample=B, branch_dtype=HALF)
    new, y = gated_norm(*case)
    with torch.autocast("cpu", HALF):
        new_there, y_there = gated_norm(*case)
    assert torch.equal(new, new_there)
    assert y_there.dtype == HALF
    torch.testing.assert_close(y, y_there.float(), rtol=1e-2, atol=1e-2)


def results(case: Case) -> tuple[Tensor, ...]:
    """Values and gradients of their squares."""
    leaves = leaves_of(*case)
    found = gated_norm(*case)
    return *found, *torch.autograd.grad(torch.stack([part.square().sum() for part in found]).sum(), leaves)


def bits() -> None:
    """The same inputs give the same gradients; so do tokens at other places if those of a row keep their order."""
    x, branch, rows = example((1, N), width=40, rows=2)
    *of_tokens, by_table = results((x, branch, rows))
    order = rows.index[0].argsort(stable=True)
    assert not torch.equal(order, torch.arange(N))
    for places in (torch.arange(N), order):
        moved = (x.detach()[:, places], branch.detach()[:, places], Rows(rows.table, rows.index[:, places]))
        *of_moved, by_table_there = results(moved)
        assert torch.equal(by_table_there, by_table)
        assert all(torch.equal(one[:, places], other) for one, other in zip(of_tokens, of_moved, strict=True))


class NoDevice:
    """Stands for a driver of a GPU of compute capability 9.0."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def builds() -> None:
    """Every kernel in the forms that training uses, at the width of DiT-XL."""
    built = []
    run = JITFunction.run

    def only_build(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel: Any = run(self, *args, grid=grid, warmup=True, **options)
        built.append(self.__name__)
        assert len(kernel.asm["cubin"]) > 1000

    no_device: Any = NoDevice()
    driver.set_active(no_device)
    JITFunction.run = only_build
    for parts, sample in [((0, 1), None), ((2,), None), ((3, 4, 5), None), ((3, 4, 5), B)]:
        x, branch, rows = example(sample=sample, width=1152, branch_dtype=HALF)
        with torch.autocast("cpu", HALF):
            new, y = modulate(
                x.requires_grad_(), branch if len(parts) != 2 else None, rows, parts, runs_of(rows.index, 5)
            )
        (new.sum() + y.sum()).backward()
    assert built.count("_forward") == built.count("_backward") == 4
    assert built.count("_partial_sums") == built.count("_total_sums") == 5


if __name__ == "__main__":
    torch.set_num_threads(1)
    _triton._modulate.register_kernel("cpu")(_triton._on_gpu)
    _triton._modulate_backward.register_kernel("cpu")(_triton._backward_on_gpu)
    for what in sys.argv[1:]:
        if what != "builds":
            for name, size in {"CHUNK": 4, "AT_ONCE": 2, "COLUMNS": 32}.items():
                setattr(_triton_kernels, name, size)
        {"values": values, "autocast": autocast, "bits": bits, "builds": builds}[what]()
        print(what)
