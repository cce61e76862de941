"""What a run has learned so far, as one flat dictionary of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._averages import Ema, forget_gathered, parameters_inside
from ._step import LossModule


@dataclass(frozen=True, slots=True)
class RunState:
    """Model, optimizers and averages of a run: all that a run needs to go on, besides plain numbers.

    Random numbers need no state: each is a function of the seed, a purpose and a counter. The learning rate is a
    function of the step, and other settings of the optimizers belong to the configuration.

    Args:
        model: alone or in a :class:`LossModule`, in any of the wrappers of Fabric, DistributedDataParallel, FSDP2 and
            ``torch.compile``.
        optimizers: over parameters of the model, Fabric's wrappers included. Their state must begin at zero, as that of
            AdamW and Muon does.
        ema: averages of the weights.
    """

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    ema: Ema

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, no copies: what is written into them is what the run goes on with.

        Names depend on the names of the parameters alone: ``model/blocks.0.attention.out.weight``,
        ``optimizer/blocks.0.attention.out.weight/momentum_buffer``, ``ema/0.05/blocks.0.attention.out.weight``. Under
        FSDP2 they are DTensors. An optimizer that has not stepped yet is given its state, all zeros.

        To be called between steps: gradients are left alone, but an optimizer that has no state takes a step of
        length zero.

        Raises:
            ValueError: an optimizer has a parameter that is not the model's.
        """
        named = parameters_of(self.model)
        tensors = {f"model/{name}": parameter.detach() for name, parameter in named.items()}
        name_of: dict[Tensor, str] = {parameter: name for name, parameter in named.items()}
        for optimizer in self.optimizers:
            _begin(optimizer)
            for parameter, state in optimizer.state.items():
                if parameter not in name_of:
                    raise ValueError("an optimizer has a parameter that is not the model's: make it after sharding")
                for key, value in state.items():
                    tensors[f"optimizer/{name_of[parameter]}/{key}"] = value
        return tensors | {f"ema/{name}": tensor for name, tensor in self.ema.state_dict().items()}

    def facts(self) -> dict[str, int]:
        """The plain numbers that go with the tensors."""
        return {"ema_steps": self.ema.steps}

    def set_facts(self, facts: Mapping[str, int]) -> None:
        """Takes back what :meth:`facts` gave; other names are passed over."""
        self.ema.steps = facts["ema_steps"]


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the model inside all wrappers, by their names there. Sharded ones are given as shards."""
    forget_gathered(model)
    return parameters_inside(
        next((module.model for module in model.modules() if isinstance(module, LossModule)), model)
    )


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Makes the state of parameters that have none: by a step of length zero, the one way that all optimizers share."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    fresh = [p for p in parameters if p.requires_grad and p not in optimizer.state]
    if not fresh:
        return
    gradients = [parameter.grad for parameter in parameters]
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.zero_grad()
    for parameter in fresh:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for parameter in fresh:
        for value in optimizer.state[parameter].values():
            value.zero_()
