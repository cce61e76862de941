"""What a training run of an autoencoder would be, without training."""

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from apd_models import Autoencoder

from ._autoencoder_config import AutoencoderTraining
from ._autoencoder_loss import AutoencoderLoss
from ._data import ImageSet
from ._dry_run import arithmetic_line, batch_line, images_line, length_line, memory_line
from ._execution import Execution
from ._fit_autoencoder import check_execution, check_images, make_autoencoder
from ._image_batches import latent_shape
from ._model import divided_images
from ._parallel import local_batch


def dry_run_autoencoder(
    config: AutoencoderTraining, images: ImageSet, fabric: Fabric, execution: Execution
) -> list[tuple[str, str]]:
    """Name and text of what is worth knowing before a run, as :func:`fit_autoencoder` would carry it out; nothing is
    written.

    Raises:
        ConfigError, DataError: it could not.
    """
    share = local_batch(config.batch_size, fabric.world_size)
    check_execution(execution, fabric)
    check_images(images)
    training, held_out = divided_images(config, images)
    module = make_autoencoder(config, images.channels)
    micro = min(execution.micro_batch or share, share)
    half = fabric.strategy.precision.precision == "bf16-mixed"
    flops, activations = training_cost(config, module, share, half)
    activations = activations if micro == share else training_cost(config, module, micro, half)[1]
    return [
        ("images", images_line(training, held_out)),
        ("masks", f"{100 * config.masked:.0f} % of the samples are hidden in part"),
        ("latents", _latents(config, module.model)),
        ("parameters", _parameters(module.model)),
        ("batch", batch_line(config, share, micro, fabric)),
        ("length", length_line(config, training)),
        ("arithmetic", arithmetic_line(config, flops, fabric)),
        ("memory", memory_line(_memory(config, module, activations))),
    ]


def training_cost(config: AutoencoderTraining, like: AutoencoderLoss, samples: int, half: bool) -> tuple[int, int]:
    """Floating-point operations of a training step, by counting convolutions and matrix products, and the bytes of what
    the forward pass keeps for the backward pass. Nothing is computed, tensors have shapes only.

    Args:
        like: the module that would be trained.
        samples: computed at once; the configuration's share of them is masked.
        half: products in bfloat16 (``bf16-mixed``).
    """
    side, kept = config.image_size, dict[int, torch.UntypedStorage]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # tensors that share it count once
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        module = AutoencoderLoss(Autoencoder(like.model.config), config, like.features)
        x, known = (
            torch.zeros(samples, like.model.config.image_channels, side, side),
            torch.ones(samples, side, side, dtype=torch.bool),
        )
        shape = latent_shape(module.model.config, side)
        eps = torch.zeros(samples, *shape) if config.codes is None else None
        masked = torch.arange(round(config.masked * samples))
        parameters = [mode.from_tensor(parameter) for parameter in module.parameters()]
        weights = {parameter.untyped_storage()._cdata for parameter in parameters}
        with FlopCounterMode(display=False) as counter:
            with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=half):
                parts, _ = module(x, known, eps, masked)
            parts.sum().backward()
        size = sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
    return counter.get_total_flops(), size


def _memory(config: AutoencoderTraining, module: AutoencoderLoss, activations: int) -> dict[str, int]:
    """Bytes of each device, by what they hold."""
    size = lambda of: sum(parameter.numel() * parameter.element_size() for parameter in of.parameters())
    weights = size(module.model)
    features = {} if module.features is None else {"features": size(module.features)}
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer": 2 * weights,  # AdamW's two averages
        "averages": len(config.ema_sigma_rels) * weights,
        **features,
        "activations": activations,
    }


def _latents(config: AutoencoderTraining, model: Autoencoder) -> str:
    of, side = model.config, config.image_size
    channels, rows, columns = latent_shape(of, side)
    fewer = of.image_channels * side * side / (channels * rows * columns)
    code = "with a normal distribution" if of.codes is None else f"each cell the nearest of {of.codes:,} codes"
    return f"{channels}×{rows}×{columns} of {of.image_channels}×{side}×{side}, {fewer:.3g} times fewer numbers; {code}"


def _parameters(model: Autoencoder) -> str:
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0].partition("_")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    return f"{sum(parts.values()):,}: " + ", ".join(f"{part} {count:,}" for part, count in sorted(parts.items()))
