"""Modulated norms and gated sums: plainly, and through the operators, which on a CPU are PyTorch too."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Generator
from torch.utils._python_dispatch import TorchDispatchMode

from apd_models._fused import gated_norm
from apd_models._modulation import Rows
from apd_models._triton import Runs, runs_of
from modulation_cases import B, Case, N, example, gradients, in_float64, leaves_of, ours, reference
from strategies import normals

by_operators = pytest.mark.parametrize("by_operators", [False, True], ids=["plain", "operators"])


def runs_if(by_operators: bool, rows: Rows) -> Runs | None:
    return runs_of(rows.index, len(rows.table)) if by_operators else None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Tokens, a branch and rows of every form: some rows may have no token, and all tokens one row."""
    b, n, u, width = (draw(st.integers(low, top)) for low, top in [(1, 3), (1, 4), (1, 5), (3, 8)])
    form = draw(st.sampled_from([(b, n), (b, 1), (1, n), (1, 1)]))
    index = torch.tensor(draw(st.lists(st.integers(0, u - 1), min_size=form[0] * form[1], max_size=form[0] * form[1])))
    sample = draw(st.sampled_from([None, 1, b]))
    x, branch, table = (draw(normals(*shape, width)) for shape in [(b, n), (b, n), (u, 6)])
    return x, branch, Rows(table, index.view(form), None if sample is None else draw(normals(sample, 6, width)))


@by_operators
@settings(max_examples=25)
@given(cases())
def test_values_and_gradients_are_those_of_the_definition(by_operators: bool, case: Case) -> None:
    leaves = leaves_of(*case)
    expected, found = reference(*case), ours(*case, runs_if(by_operators, case[2]))
    close = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-8)
    close(found, expected)
    close(gradients(found, leaves), gradients(expected, leaves))


@by_operators
@pytest.mark.parametrize(
    ("dtype", "branch_dtype", "wide"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
    ],
)
def test_arithmetic_is_in_float32_at_least(
    by_operators: bool, dtype: torch.dtype, branch_dtype: torch.dtype, wide: torch.dtype
) -> None:
    """Inputs of half precision lose nothing more: the result is that of the same numbers in float64."""
    case = example(sample=B, dtype=dtype, branch_dtype=branch_dtype)
    found = ours(*case, runs_if(by_operators, case[2]))
    assert all(part.dtype == wide for part in found)
    torch.testing.assert_close(
        [part.double() for part in found], [*reference(*in_float64(*case))], rtol=1e-5, atol=1e-5
    )
    leaves = leaves_of(*case)
    by_leaf = gradients(ours(*case, runs_if(by_operators, case[2])), leaves)
    assert [gradient.dtype for gradient in by_leaf] == [leaf.dtype for leaf in leaves]


@by_operators
def test_under_autocast_the_residual_stream_stays_in_float32(by_operators: bool) -> None:
    x, branch, rows = example(branch_dtype=torch.bfloat16)
    runs = runs_if(by_operators, rows)
    with torch.autocast("cpu", torch.bfloat16):
        new, y = gated_norm(x, branch, rows, 2, 3, 4, runs)
    assert new.dtype == torch.float32
    assert y.dtype == (torch.bfloat16 if by_operators else torch.float32)
    torch.testing.assert_close((new, y.float()), gated_norm(x, branch, rows, 2, 3, 4), rtol=1e-2, atol=1e-2)


class Lookups(TorchDispatchMode):
    """Keeps the sizes of what is looked up in tables."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.embedding.default:
            self.found.append(out.numel())
        return out


@pytest.mark.parametrize("form", [(B, N), (B, 1), (1, N), (1, 1)])
def test_a_map_that_does_not_vary_is_not_spread(form: tuple[int, int]) -> None:
    case = example(form, width=16)
    with Lookups() as lookups:
        ours(*case, None)
    assert lookups.found == [form[0] * form[1] * 16] * 6


@by_operators
def test_a_row_without_tokens_has_no_gradient(by_operators: bool) -> None:
    case = example((1, N), rows=9)
    leaves = leaves_of(*case)
    _, _, by_table = gradients(ours(*case, runs_if(by_operators, case[2])), leaves)
    unused = [row for row in range(9) if row not in case[2].index]
    assert unused
    assert (by_table[unused] == 0).all()


@by_operators
def test_tokens_are_a_set(by_operators: bool) -> None:
    """Other places of the tokens change their own results by no bit, and the table's gradient by rounding."""
    x, branch, rows = example(sample=B)
    order = torch.randperm(N, generator=Generator().manual_seed(1))
    mixed = (x[:, order], branch[:, order], Rows(rows.table, rows.index[:, order], rows.sample))
    results = []
    for case in ((x, branch, rows), mixed):
        case = (case[0].detach(), case[1].detach(), case[2])
        leaves = leaves_of(*case)
        found = ours(*case, runs_if(by_operators, case[2]))
        results.append(
            [*found, *torch.autograd.grad(torch.stack([part.square().sum() for part in found]).sum(), leaves)]
        )
    for k, (straight, other) in enumerate(zip(*results, strict=True)):
        if k < 6:
            assert torch.equal(straight[:, order], other)
        else:
            torch.testing.assert_close(straight, other, rtol=1e-4, atol=1e-4)


def checks(*what: str) -> None:
    """In a process of its own, since checked shapes and torch.compile do not live together."""
    script = Path(__file__).parents[1] / "modulation_checks.py"
    done = subprocess.run([sys.executable, script, *what], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == list(what)


@pytest.mark.slow
def test_compiled_is_eager_and_a_level_per_token_is_kept_as_a_level_per_sample() -> None:
    checks("keeps", "compiled")


@pytest.mark.slow
def test_compiled_to_machine_code_is_eager() -> None:
    checks("inductor")
