"""Blocks computed again in the backward pass: the same gradients from less memory; compiled, in test_parallel.py."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dit_cases import inputs, random_model


def run(checkpoint: bool, half: bool = False, kernels: bool = False, **options: Any) -> tuple[list[Tensor], int]:
    """Outputs and gradients, and the bytes kept for the backward pass."""
    model = random_model(**options)
    model = model.float() if half else model
    model.checkpoint_activations, model.kernels = checkpoint, kernels
    z, noise, label = inputs(few=4)
    z = z.to(model.head.weight)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            guess = model(z, noise, label)
    total = guess.mean.square().sum() + (0 if guess.log_var is None else guess.log_var.sum())
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [guess.mean, *gradients], sum(size for at, size in kept.items() if at not in own)


CASES: tuple[dict[str, Any], ...] = (
    {},
    {"half": True},
    {"kernels": True},
    {"one_way": True, "position": "rope"},
    {"conditioning": "separable", "error_head": True},
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_the_same_to_the_bit(case: dict[str, Any]) -> None:
    plain, _ = run(False, **case)
    again, _ = run(True, **case)
    assert len(plain) == len(again) > 20
    assert all(map(torch.equal, plain, again))


def test_what_is_kept_grows_by_a_block_s_input_and_not_by_its_inside() -> None:
    _, plain = run(False, depth=2)
    _, deeper_plain = run(False, depth=6)
    _, again = run(True, depth=2)
    _, deeper_again = run(True, depth=6)
    stream = 3 * 6 * 32 * 8  # bytes of the tokens between two blocks
    table = 4 * 6 * 32 * 8  # and of the rows of a block's modulation, for four levels
    assert deeper_again - again <= 4 * (stream + table + 6 * 6 * 8)
    assert deeper_plain - plain > 8 * (deeper_again - again) / 2


def test_nothing_is_computed_again_without_gradients_or_while_watched() -> None:
    model = random_model()
    model.checkpoint_activations = True
    calls: list[int] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    z, noise, label = inputs()
    with torch.no_grad():
        model(z, noise, label)
    assert len(calls) == 2
    shown: list[Tensor] = []
    model(z, noise, label, watch=lambda keys, values: shown.append(keys)).mean.sum().backward()
    assert (len(calls), len(shown)) == (4, 2)
    model(z, noise, label).mean.sum().backward()
    assert len(calls) == 8
