"""The operators of modulation: as PyTorch sees them, and their kernels, interpreted and built without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from apd_models._triton import _modulate, _modulate_backward, modulate, runs_of
from modulation_cases import B, N, example


def checks(*what: str) -> None:
    """In a process of its own: triton is told to interpret before it is imported."""
    script = Path(__file__).parents[1] / "kernel_checks.py"
    done = subprocess.run([sys.executable, "-W", "error", script, *what], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == list(what)


def test_interpreted_kernels_are_the_definition_and_repeat_their_bits() -> None:
    pytest.importorskip("triton")
    checks("values", "autocast", "bits")


@pytest.mark.slow
def test_kernels_build_for_a_gpu() -> None:
    pytest.importorskip("triton")
    checks("builds")


@pytest.mark.slow
def test_the_package_and_its_operators_work_without_triton() -> None:
    code = "\n".join(
        [
            "import sys",
            "sys.modules['triton'] = None",
            "from apd_models._triton import runs_of",
            "from modulation_cases import example, gradients, leaves_of, ours",
            "case = example()",
            "leaves = leaves_of(*case)",
            "print(len(gradients(ours(*case, runs_of(case[2].index, 5)), leaves)))",
        ]
    )
    folder = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert (done.stdout.strip(), done.returncode) == ("3", 0), done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own copies
@pytest.mark.parametrize(("form", "sample"), [((B, N), None), ((B, 1), B), ((1, N), 1), ((1, 1), None)])
@pytest.mark.parametrize("parts", [(0, 1), (2,), (3, 4, 5)], ids=["norm", "sum", "both"])
def test_operators_keep_what_they_promise(form: tuple[int, int], sample: int | None, parts: tuple[int, ...]) -> None:
    """Schema, fakes, autograd and what the compiler makes of them."""
    x, branch, rows = example(form, sample, width=12)
    runs = runs_of(rows.index, len(rows.table))
    within = slice(parts[0], parts[-1] + 1)
    of_sample = None if rows.sample is None else rows.sample[:, within].expand(B, -1, -1).contiguous()
    gated = None if len(parts) == 2 else branch
    given = (x, gated, rows.table[:, within], of_sample, rows.index, runs.order, runs.offsets, torch.bfloat16)
    for leaf in given[:4]:
        if leaf is not None:
            leaf.requires_grad_()
    torch.library.opcheck(_modulate, given)
    with torch.no_grad():
        new, y, mean, rstd = _modulate(*given)
    argument = x if gated is None else new if y.numel() else mean
    detached = [None if each is None else each.detach() for each in (argument, mean, rstd, gated, *given[2:7])]
    torch.library.opcheck(_modulate_backward, (new.clone(), y.clone(), *detached))


@pytest.mark.parametrize("form", [(B, N), (B, 1), (1, N), (1, 1)])
def test_runs_hold_the_tokens_of_each_row_in_order(form: tuple[int, int]) -> None:
    index = torch.randint(4, form, generator=torch.Generator().manual_seed(0))
    runs = runs_of(index, 6)
    flat = index.flatten().tolist()
    each = [[place for place in range(len(flat)) if flat[place] == row] for row in range(6)]
    assert runs.order.tolist() == [place for places in each for place in places]
    assert runs.offsets.tolist() == [sum(map(len, each[:row])) for row in range(7)]


def test_parts_lie_next_to_each_other() -> None:
    x, branch, rows = example()
    with pytest.raises(ValueError, match=r"follow each other in the table, got parts \(2, 4, 5\)"):
        modulate(x, branch, rows, (2, 4, 5), runs_of(rows.index, 5))
