"""Triton kernels: gate, residual, LayerNorm and modulation in one pass, and sums over the tokens of a row.

Imported when a tensor on a GPU first meets the operators of ``_triton.py``. Tested through Triton's interpreter and
compiled for compute capability 9.0, but not yet run or timed on a GPU. Arithmetic is in float32 at least. A token's
features are one block with a mask, so that any width goes. The order of every sum follows from the map alone, without
atomics: the same inputs give the same bits.
"""

# ruff: noqa: ANN001, ANN202 (arguments of kernels have no Python types)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 256
"""Tokens, in the order of their rows, that one program of the sums walks at most."""
AT_ONCE = 16
"""Tokens that it takes at once."""
COLUMNS = 128
"""Features that it takes."""


@triton.jit
def _vector(lookup, part, row, b, columns, mask, ACC: tl.constexpr):
    """Vector ``part`` of one token: its row of the table, and what its sample adds."""
    _, _, _, table, table_row, table_part, sample, sample_row, sample_part = lookup
    found = tl.load(table + row * table_row + part * table_part + columns, mask, 0).to(ACC)
    if sample is not None:
        found += tl.load(sample + b * sample_row + part * sample_part + columns, mask, 0).to(ACC)
    return found


@triton.jit
def _token(lookup, n, d, BLOCK: tl.constexpr):
    """The token of this program: its number, row, sample, features and where they are."""
    index, index_b, index_n, _, _, _, _, _, _ = lookup
    token = tl.program_id(0).to(tl.int64)
    b = token // n
    row = tl.load(index + b * index_b + token % n * index_n)
    columns = tl.arange(0, BLOCK)
    return token, row, b, columns, columns < d


@triton.jit
def _forward(x, branch, new, y, mean, rstd, lookup, n, d, eps, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """One token: ``new = x + gate branch``, ``y = LayerNorm(new) scale + shift``."""
    token, row, b, columns, mask = _token(lookup, n, d, BLOCK)
    at = token * d + columns
    value = tl.load(x + at, mask, 0).to(ACC)
    part = 0
    if branch is not None:
        gate = _vector(lookup, 0, row, b, columns, mask, ACC)
        value += gate * tl.load(branch + at, mask, 0).to(ACC)
        tl.store(new + at, value, mask)
        part = 1
    if y is not None:
        shift = _vector(lookup, part, row, b, columns, mask, ACC)
        scale = _vector(lookup, part + 1, row, b, columns, mask, ACC)
        centre = tl.sum(value, 0) / d
        value = tl.where(mask, value - centre, 0)
        inverse = 1 / tl.sqrt(tl.sum(value * value, 0) / d + eps)
        tl.store(y + at, (value * inverse * scale + shift).to(y.dtype.element_ty), mask)
        tl.store(mean + token, centre)
        tl.store(rstd + token, inverse)


@triton.jit
def _backward(
    by_new, by_y, new, branch, mean, rstd, by_x, by_branch, lookup, n, d, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    """One token: the gradients by ``new``, which is that by ``x`` too, and by the branch."""
    token, row, b, columns, mask = _token(lookup, n, d, BLOCK)
    at = token * d + columns
    total = tl.zeros((BLOCK,), ACC)
    part = 0
    if branch is not None:
        total += tl.load(by_new + at, mask, 0).to(ACC)
        part = 1
    if by_y is not None:
        inverse = tl.load(rstd + token)
        normal = (tl.load(new + at, mask, 0).to(ACC) - tl.load(mean + token)) * inverse
        scale = _vector(lookup, part + 1, row, b, columns, mask, ACC)
        by_normal = scale * tl.load(by_y + at, mask, 0).to(ACC)  # zero beyond the width
        along = tl.sum(by_normal * normal, 0) / d
        total += inverse * (by_normal - tl.sum(by_normal, 0) / d - normal * along)
        tl.store(by_x + at, total, mask)
    if branch is not None:
        gate = _vector(lookup, 0, row, b, columns, mask, ACC)
        tl.store(by_branch + at, (gate * total).to(by_branch.dtype.element_ty), mask)


@triton.jit
def _start(offsets, segment, spread):
    """Where a segment starts in the walk; without offsets all are of one size."""
    if offsets is None:
        return segment.to(tl.int64) * spread
    else:
        return tl.load(offsets + segment) * spread


@triton.jit
def _partial_sums(
    by_new, by_y, new, branch, mean, rstd, out, walk, segments, parts, d,
    ACC: tl.constexpr, CHUNK: tl.constexpr, AT_ONCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums over those tokens of one segment that lie in one chunk of the walk.

    A segment has a slot for each chunk that it meets, numbered chunk + segment: a binary search tells which is which.
    """
    order, offsets, spread, entry_stride, spread_stride = walk
    slot = tl.program_id(0)
    segment = tl.zeros((), tl.int32)
    end = segment + segments
    while end - segment > 1:
        middle = (segment + end) // 2
        if _start(offsets, middle, spread) // CHUNK + middle <= slot:
            segment = middle
        else:
            end = middle
    chunk = slot - segment
    low = tl.maximum(_start(offsets, segment, spread), chunk * CHUNK)
    high = tl.minimum(_start(offsets, segment + 1, spread), (chunk + 1) * CHUNK)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    by_gate = tl.zeros((COLUMNS,), ACC)
    by_shift = tl.zeros((COLUMNS,), ACC)
    by_scale = tl.zeros((COLUMNS,), ACC)
    for first in range(low, high, AT_ONCE):
        place = first + tl.arange(0, AT_ONCE)
        here = place < high
        entry = place // spread
        if order is not None:
            entry = tl.load(order + entry, here, 0)
        token = entry * entry_stride + place % spread * spread_stride
        at = token[:, None] * d + columns[None, :]
        mask = here[:, None] & inside[None, :]
        if branch is not None:
            by_gate += tl.sum(tl.load(by_new + at, mask, 0).to(ACC) * tl.load(branch + at, mask, 0).to(ACC), 0)
        if by_y is not None:
            centre = tl.load(mean + token, here, 0)[:, None]
            normal = (tl.load(new + at, mask, 0).to(ACC) - centre) * tl.load(rstd + token, here, 0)[:, None]
            weight = tl.load(by_y + at, mask, 0).to(ACC)
            by_shift += tl.sum(weight, 0)
            by_scale += tl.sum(weight * normal, 0)
    out += slot.to(tl.int64) * parts * d
    part = 0
    if branch is not None:
        tl.store(out + columns, by_gate, inside)
        part = 1
    if by_y is not None:
        tl.store(out + part * d + columns, by_shift, inside)
        tl.store(out + (part + 1) * d + columns, by_scale, inside)


@triton.jit
def _total_sums(partial, out, walk, size, ACC: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr):
    """Adds up the slots of one segment, in order."""
    _, offsets, spread, _, _ = walk
    segment = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < size
    total = tl.zeros((COLUMNS,), ACC)
    first = _start(offsets, segment, spread) // CHUNK + segment
    last = _start(offsets, segment + 1, spread) // CHUNK + segment
    for slot in range(first, last + 1):
        total += tl.load(partial + slot * size + columns, inside, 0)
    tl.store(out + segment.to(tl.int64) * size + columns, total, inside)


def forward(
    x: Tensor,
    branch: Tensor | None,
    table: Tensor,
    sample: Tensor | None,
    index: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor],
    eps: float,
) -> None:
    """Fills ``outputs``: ``new``, ``y``, mean and reciprocal standard deviation."""
    b, n, d = x.shape
    new, y, mean, rstd = outputs
    norm = (y, mean, rstd) if y.shape == x.shape else (None, None, None)
    lookup = _lookup(table, sample, index)
    _each_token(_forward, mean.dtype, (b, n, d), x, branch, new, *norm, lookup, n, d, eps)


def backward(
    by_new: Tensor,
    by_y: Tensor,
    new: Tensor,
    mean: Tensor,
    rstd: Tensor,
    branch: Tensor | None,
    table: Tensor,
    sample: Tensor | None,
    index: Tensor,
    order: Tensor,
    offsets: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Fills ``outputs``: the gradients by ``x``, the branch, the table and the samples' vectors."""
    by_x, by_branch, by_table, by_sample = outputs
    normed = table.shape[1] > 1
    b, n, d = by_y.shape if normed else by_new.shape
    known = (by_y if normed else None, new, branch, mean, rstd)
    lookup = _lookup(table, sample, index)
    _each_token(_backward, mean.dtype, (b, n, d), by_new, *known, by_x, by_branch, lookup, n, d)
    # What the norm passes on is the whole gradient of the sum before it.
    known = (by_x if normed else by_new, *known)
    _each_segment(by_table, (b, n, d), known, (order, offsets, *_spread(index, b, n)))
    if sample is not None:
        _each_segment(by_sample, (b, n, d), known, (None, None, n, n, 1))


_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _each_token(kernel: Any, dtype: torch.dtype, shape: tuple[int, int, int], *given: Any) -> None:
    b, n, d = shape
    block = triton.next_power_of_2(d)
    _run(kernel, (b * n,), *given, ACC=_TYPES[dtype], BLOCK=block, num_warps=min(max(block // 256, 1), 8))


def _each_segment(out: Tensor, shape: tuple[int, int, int], known: tuple[Any, ...], walk: tuple[Any, ...]) -> None:
    b, n, d = shape
    segments, parts, _ = out.shape
    partial = out.new_empty(b * n // CHUNK + segments, parts, d)
    sizes = {"ACC": _TYPES[out.dtype], "CHUNK": CHUNK, "COLUMNS": COLUMNS}
    grid = (len(partial), triton.cdiv(d, COLUMNS))
    _run(_partial_sums, grid, *known, partial, walk, segments, parts, d, AT_ONCE=AT_ONCE, **sizes)
    _run(_total_sums, (segments, triton.cdiv(parts * d, COLUMNS)), partial, out, walk, parts * d, **sizes)


def _run(kernel: Any, grid: tuple[int, ...], *given: Any, **options: Any) -> None:
    device = next(each for each in given if isinstance(each, Tensor))
    with torch.cuda.device_of(device):
        # Multiplications and additions fuse: said, since Triton's default is not the same in all its versions.
        kernel[grid](*given, **options, enable_fp_fusion=True)


def _lookup(table: Tensor, sample: Tensor | None, index: Tensor) -> tuple[Any, ...]:
    """Tensors and strides; an axis of size 1 has none, so that a map is spread without a copy."""
    steps = [0 if size == 1 else stride for size, stride in zip(index.shape, index.stride(), strict=True)]
    of_sample = (None, 0, 0) if sample is None else (sample, sample.stride(0), sample.stride(1))
    return (index, *steps, table, table.stride(0), table.stride(1), *of_sample)


def _spread(index: Tensor, b: int, n: int) -> tuple[int, int, int]:
    """How many tokens an entry of the map serves; the distance in tokens of entries, and of the tokens of one."""
    samples, tokens = index.shape
    if samples == b:
        return n // tokens, n // tokens, 1
    return (b, 1, n) if tokens == n else (b * n, 0, 1)
