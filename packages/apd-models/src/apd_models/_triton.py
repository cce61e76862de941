"""Modulation as operators of their own, which ``torch.compile`` and CUDA graphs take as they are.

One operator does what a chain of a gather, a gated sum, a LayerNorm and a modulation does, in one pass over the tokens,
and keeps for the backward pass its input, its output and two numbers a token. The gradient of the table is a sum over
the tokens of each row, in the order of :class:`Runs`: deterministic, and without a gradient for each token. On a GPU
the work is done by Triton kernels; elsewhere by PyTorch, to the same result but for rounding.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ._modulation import Rows

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Runs:
    """The entries of a map in the order of their rows; one sort serves all blocks of a model.

    Args:
        order: places in the flattened map, those of the first row first, in the order of the tokens.
        offsets: where each row starts in ``order``, and its length.
    """

    order: Int[Tensor, " entries"]
    offsets: Int[Tensor, " ends"]


def runs_of(index: Int[Tensor, "b n"], rows: int) -> Runs:
    """Sorts a map.

    Args:
        index: row of each token, as in :class:`Rows`.
        rows: number of rows of the table.
    """
    entries, order = index.flatten().sort(stable=True)
    return Runs(order, torch.searchsorted(entries, torch.arange(rows + 1, device=index.device)))


def modulate(
    x: Float[Tensor, "b n width"],
    branch: Float[Tensor, "b n width"] | None,
    rows: Rows,
    parts: tuple[int, ...],
    runs: Runs,
) -> tuple[Float[Tensor, "b n width"], Float[Tensor, "..."]]:
    """``new = x + gate branch`` and ``y = LayerNorm(new) scale + shift``.

    ``new`` has the highest precision among ``x``, ``branch`` and the table, and at least float32; ``y`` that of
    autocast where it is on, else that of ``new``.

    Args:
        branch: left out, ``new`` is ``x`` and no gate is read.
        parts: gate, shift and scale in the table, next to each other; a gate alone leaves ``y`` empty.

    Raises:
        ValueError: the parts do not follow each other.
    """
    first, last = parts[0], parts[-1] + 1
    if parts != tuple(range(first, last)):
        raise ValueError(f"gate, shift and scale must follow each other in the table, got parts {parts}")
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else _precision(x, branch, rows.table)
    sample = None if rows.sample is None else rows.sample[:, first:last].expand(len(x), -1, -1)
    new, y, _, _ = _modulate(x, branch, rows.table[:, first:last], sample, rows.index, runs.order, runs.offsets, dtype)
    return (x if branch is None else new), y


def _precision(x: Tensor, branch: Tensor | None, table: Tensor) -> torch.dtype:
    dtype = torch.promote_types(torch.promote_types(x.dtype, table.dtype), torch.float32)
    return dtype if branch is None else torch.promote_types(dtype, branch.dtype)


Four = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("apd_models::modulate", mutates_args=())
def _modulate(
    x: Tensor,
    branch: Tensor | None,
    table: Tensor,
    sample: Tensor | None,
    index: Tensor,
    order: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
) -> Four:
    """``new``, ``y``, and mean and reciprocal standard deviation of ``new``; empty what is not asked for."""
    wide = x.to(_precision(x, branch, table))
    none = wide.new_empty(0)
    new, y, mean, rstd = none, none.to(dtype), none.clone(), none.clone()
    vectors = _vectors(table, sample, index)
    if branch is not None:
        wide = new = torch.addcmul(wide, vectors[0], branch.to(wide))
    if len(vectors) > 1:
        normal, mean, rstd = torch.native_layer_norm(wide, x.shape[-1:], None, None, EPS)
        y = torch.addcmul(vectors[-2], normal, vectors[-1]).to(dtype)
    return new, y, mean, rstd


@_modulate.register_fake
def _outputs(
    x: Tensor,
    branch: Tensor | None,
    table: Tensor,
    sample: Tensor | None,
    index: Tensor,
    order: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
) -> Four:
    of = {"dtype": _precision(x, branch, table), "device": x.device}
    normed = table.shape[1] > 1
    new = torch.empty(0 if branch is None else x.shape, **of)
    mean, rstd = (torch.empty((*x.shape[:-1], 1) if normed else 0, **of) for _ in range(2))
    return new, torch.empty(x.shape if normed else 0, dtype=dtype, device=x.device), mean, rstd


@_modulate.register_kernel("cuda")
def _on_gpu(
    x: Tensor,
    branch: Tensor | None,
    table: Tensor,
    sample: Tensor | None,
    index: Tensor,
    order: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
) -> Four:
    from ._triton_kernels import forward

    outputs = _outputs(x, branch, table, sample, index, order, offsets, dtype)
    if x.numel():
        forward(x.contiguous(), _contiguous(branch), _in_rows(table), _in_rows(sample), index, outputs, EPS)
    return outputs


@torch.library.custom_op("apd_models::modulate_backward", mutates_args=())
def _modulate_backward(
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
) -> Four:
    """Gradients by ``x`` (empty without a norm: it is ``by_new``), the branch, the table and the samples' vectors."""
    none = mean.new_empty(0)
    by_x, by_branch, by_sample = none, none.clone(), none.clone()
    vectors = _vectors(table, sample, index)
    total, by_vectors = by_new, []
    if len(vectors) > 1:
        by_y, wide = by_y.to(mean), new.to(mean)
        by_vectors = [by_y, by_y * ((wide - mean) * rstd)]
        by_x = torch.ops.aten.native_layer_norm_backward(
            by_y * vectors[-1], wide, wide.shape[-1:], mean, rstd, None, None, [True, False, False]
        )[0]
        total = by_x = by_x if branch is None else by_x.add_(by_new)
    if branch is not None:
        by_vectors.insert(0, total * branch)
        by_branch = (total * vectors[0]).to(branch)
    by_table = torch.stack([_sums(each, index, order, offsets) for each in by_vectors], 1)
    if sample is not None:
        by_sample = torch.stack([each.sum(1) for each in by_vectors], 1)
    return by_x, by_branch, by_table, by_sample


@_modulate_backward.register_fake
def _backward_outputs(
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
) -> Four:
    by_x = mean.new_empty(by_y.shape)
    by_branch = mean.new_empty(0) if branch is None else branch.new_empty(branch.shape)
    return by_x, by_branch, mean.new_empty(table.shape), mean.new_empty(0 if sample is None else sample.shape)


@_modulate_backward.register_kernel("cuda")
def _backward_on_gpu(
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
) -> Four:
    from ._triton_kernels import backward

    by_new, by_y, new, branch = by_new.contiguous(), by_y.contiguous(), new.contiguous(), _contiguous(branch)
    given = (by_new, by_y, new, mean, rstd, branch, _in_rows(table), _in_rows(sample), index, order, offsets)
    outputs = _backward_outputs(*given)
    if not outputs[0].numel() and not outputs[1].numel():  # no tokens
        return outputs[0], outputs[1], outputs[2].zero_(), outputs[3].zero_()
    backward(*given, outputs)
    return outputs


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Four) -> None:
    x, branch, table, sample, index, order, offsets, _ = inputs
    new, _, mean, rstd = output
    argument = x if branch is None else new if table.shape[1] > 1 else mean
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(argument, mean, rstd, branch, table, sample, index, order, offsets)


def _gradients(ctx: Any, by_new: Tensor, by_y: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: a checkpointed block computes them again for the one time
    by_x, by_branch, by_table, by_sample = _modulate_backward(by_new, by_y, *saved)
    branch, table, sample = saved[3:6]
    return (
        by_x if table.shape[1] > 1 else by_new,
        None if branch is None else by_branch,
        by_table,
        None if sample is None else by_sample,
        *(None, None, None, None),
    )


_modulate.register_autograd(_gradients, setup_context=_keep)


def _vectors(table: Tensor, sample: Tensor | None, index: Tensor) -> list[Tensor]:
    """Of each part, the vector of each token."""
    found = [F.embedding(index, part) for part in table.unbind(1)]
    if sample is None:
        return found
    return [part + of[:, None] for part, of in zip(found, sample.unbind(1), strict=True)]


def _sums(each: Tensor, index: Tensor, order: Tensor, offsets: Tensor) -> Tensor:
    """Sums over the tokens of each row, in the order of the runs."""
    shared = [axis for axis in (0, 1) if index.shape[axis] == 1]
    each = each.sum(shared, keepdim=True) if shared else each
    return F.embedding_bag(order, each.flatten(0, 1), offsets, mode="sum", include_last_offset=True)


def _in_rows(x: Tensor | None) -> Any:
    """The kernels take any strides but that of the last axis."""
    return x if x is None or x.stride(-1) == 1 else x.contiguous()


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
