"""How much memory training is going to take, without taking it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from apd_models import DiT

from ._config import TrainConfig
from ._flops import of_shapes, output_of_shapes
from ._model import make_optimizers


def training_memory(
    config: TrainConfig, model: DiT, samples: int, levels: int, half: bool, checkpointed: bool, shards: int = 1
) -> dict[str, int]:
    """Bytes of each device, by what they hold: ``weights``, ``gradients``, ``optimizer``, ``averages`` and, see
    :func:`activation_bytes`, ``activations``.

    Args:
        shards: devices that divide all but the activations among them.
    """
    trained = _bytes([p for p in model.parameters() if p.requires_grad])
    # AdamW keeps two averages of the gradient, Muon one.
    state = sum(
        (1 if isinstance(optimizer, torch.optim.Muon) else 2) * _bytes(group["params"])
        for optimizer in make_optimizers(config, model)
        for group in optimizer.param_groups
    )
    whole = {
        "weights": _bytes([*model.parameters()]),
        "gradients": trained,
        "optimizer": state,
        "averages": len(config.ema_sigma_rels) * trained,
    }
    activations = activation_bytes(model, samples, levels, half, checkpointed)
    return {**{name: -(-size // shards) for name, size in whole.items()}, "activations": activations}


def activation_bytes(model: DiT, samples: int, levels: int, half: bool = False, checkpointed: bool = False) -> int:
    """Memory of what a forward pass keeps for its backward pass.

    This is what PyTorch keeps on a CPU, uncompiled: tensors are made that have shapes only, and those that are kept
    are added up. With checkpointing, what one block keeps when it is computed again is added.

    Args:
        samples: computed at once.
        levels: distinct noise levels of them, see :func:`training_flops`.
        half: products in bfloat16 (``bf16-mixed``).
        checkpointed: see :attr:`DiT.checkpoint_activations`.
    """
    everything = _kept(model, samples, levels, half, checkpointed=False)
    if not checkpointed:
        return everything
    of, outside = model.config, _kept(model, samples, levels, half, checkpointed=True)
    tables = 4 * of.depth * 6 * levels * of.width  # go into blocks, but not through the hooks by which is counted
    return outside + tables + (everything - outside) // of.depth


def _kept(model: DiT, samples: int, levels: int, half: bool, checkpointed: bool) -> int:
    with FakeTensorMode():
        shadow = of_shapes(model)
        shadow.checkpoint_activations = checkpointed
        weights = {parameter.untyped_storage()._cdata for parameter in shadow.parameters()}
        storages: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage  # tensors that share it count once
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=half):
            output_of_shapes(shadow, samples, levels)
        return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
