"""One model, with a prediction of its error."""

from dataclasses import replace

import torch
from torch import Generator

from ._dit import DiT
from ._error_head import ErrorHead


def with_error_head(model: DiT, generator: Generator) -> DiT:
    """The model with an error head that has learned nothing yet; all other weights are shared.

    So a head can be added to a model that is trained already, and a model that is to be trained starts from the same
    weights with and without one.

    Args:
        generator: of the head's initial weights.

    Raises:
        ValueError: the model has an error head already.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if model.error is not None:
        raise ValueError("this model has an error head already")
    with torch.device("meta"):
        other = DiT(replace(model.config, error_head=True))
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # layers draw from the global generator
        torch.manual_seed(seed)
        head = ErrorHead(model.config.width).to(model.head.weight)
    added = {f"error.{name}": tensor for name, tensor in head.state_dict().items()}
    other.load_state_dict({**model.state_dict(), **added}, assign=True)
    trained = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        parameter.requires_grad_(name not in trained or trained[name].requires_grad)
    other.kernels, other.checkpoint_activations = model.kernels, model.checkpoint_activations
    return other.train(model.training)
