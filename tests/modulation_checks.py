"""Modulation compiled and interpreted, for a process of its own: ``python modulation_checks.py keeps compiled``."""

import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from apd_models._fused import gated_sum, modulated_norm
from apd_models._modulation import Rows
from apd_models._triton import runs_of
from modulation_cases import B, example, gradients, leaves_of, ours

PARTITIONED = "aot_eager_decomp_partition"  # as inductor up to the point where it writes code


def block(x: Tensor, weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """The shape of a block of a transformer."""
    rows = Rows(table, index)
    for first in (0, 3):
        x = gated_sum(x, modulated_norm(x, rows, first, first + 1) @ weight, rows, first + 2)
    return x


def kept(function: Callable[..., Tensor], *args: Tensor) -> int:
    """Numbers kept for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        function(*args)
    return sum(sizes.values())


def keeps() -> None:
    """A level per token keeps no vectors for it: they are looked up again."""
    generator = Generator().manual_seed(0)
    x, weight, table = (torch.randn(*shape, generator=generator) for shape in [(4, 64, 32), (32, 32), (5, 6, 32)])
    for leaf in (x, weight, table):
        leaf.requires_grad_()
    compiled = torch.compile(block, fullgraph=True, backend=PARTITIONED)
    maps = [torch.randint(5, form, generator=generator) for form in [(4, 64), (4, 1)]]
    per_token, per_sample = (kept(compiled, x, weight, table, index) for index in maps)
    assert per_token < per_sample + x.numel() // 8, (per_token, per_sample)


def compiled(backend: str = PARTITIONED) -> None:
    case = example(sample=B, width=20)
    x, branch, rows = case
    leaves = leaves_of(*case)
    expected = ours(*case, None)
    by_leaf = gradients(expected, leaves)

    def plain(x: Tensor, branch: Tensor, table: Tensor, index: Tensor, sample: Tensor | None) -> tuple[Tensor, ...]:
        return ours(x, branch, Rows(table, index, sample), None)

    def operators(x: Tensor, branch: Tensor, table: Tensor, index: Tensor, sample: Tensor | None) -> tuple[Tensor, ...]:
        return ours(x, branch, Rows(table, index, sample), runs_of(index, len(table)))

    for function in (plain, operators):
        run = torch.compile(function, fullgraph=True, backend=backend)
        found = run(x, branch, rows.table, rows.index, rows.sample)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(found, leaves), by_leaf, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for what in sys.argv[1:]:
        {"keeps": keeps, "compiled": compiled, "inductor": lambda: compiled("inductor")}[what]()
        print(what)
