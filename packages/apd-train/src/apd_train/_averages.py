"""Averages of the weights during training."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

WIDEST = 12**-0.5
"""Relative width of the uniform average, the power function of exponent 0."""

# What DistributedDataParallel, Fabric, torch.compile and activation checkpointing put into the names of parameters.
_WRAPPERS = {"module", "_forward_module", "_orig_mod", "_checkpoint_wrapped_module"}


def power_of_width(sigma_rel: float) -> float:
    """Exponent gamma of the power-function average whose relative standard deviation is ``sigma_rel``.

    The weights of the average follow ``tau^gamma`` on [0, 1], a Beta(gamma + 1, 1) law of variance
    ``(gamma + 1) / ((gamma + 2)² (gamma + 3))``; its root is found here (Karras et al. 2024, arXiv:2312.02696,
    section 3.1).

    Raises:
        ValueError: no power function has this width.
    """
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(f"sigma_rel must be in (0, {WIDEST:.3f}), got {sigma_rel}")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class Ema:
    """Power-function averages of a model's parameters, one for each width.

    After ``n`` steps, step ``k`` has the weight ``(k^(gamma + 1) - (k - 1)^(gamma + 1)) / n^(gamma + 1)``: the window
    grows with the run, so any length has a fitting one, and the initial weights have no part in it (Karras et al. 2024,
    arXiv:2312.02696, section 3.1). From averages of two widths, kept now and then, any other is made after the run, see
    :func:`synthesize`.

    An average is in float32 at least, on the device of its parameter, and sharded as its parameter is. Parameters that
    need no gradient are not copied: they are their own average.

    Args:
        model: as it trains: on its device, and sharded already where it is to be. It may be wrapped; names are those of
            the model inside.
        sigma_rels: standard deviations of the windows relative to the steps so far, in (0, 0.289). The first is what
            is meant where no width is said.

    Attributes:
        sigma_rels: see above.
        steps: that were taken in. Whoever restores :meth:`state_dict` restores this number too.

    Raises:
        ValueError: no width, an impossible one, or one twice.
    """

    def __init__(self, model: nn.Module, sigma_rels: Sequence[float] | float = (0.05, 0.1)) -> None:
        self.sigma_rels = (sigma_rels,) if isinstance(sigma_rels, float) else tuple(sigma_rels)
        self.steps = 0
        keys = [key_of(sigma_rel) for sigma_rel in self.sigma_rels]
        if not keys or len({*keys}) < len(keys):
            raise ValueError(f"sigma_rels must be one or more different widths, got {self.sigma_rels}")
        self._powers = [power_of_width(sigma_rel) for sigma_rel in self.sigma_rels]
        named = parameters_inside(model)
        free = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        self._frozen = {name: parameter.detach() for name, parameter in named.items() if name not in free}
        self._averages = {
            key: {name: _wide(parameter.detach()).clone() for name, parameter in free.items()} for key in keys
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights after one more step.

        Raises:
            ValueError: the model lacks a parameter of the one that the averages were made for.
        """
        named = parameters_inside(model)
        for power, average in zip(self._powers, self._averages.values(), strict=True):
            fresh = 1 - (1 - 1 / (self.steps + 1)) ** (power + 1)
            now = [_wide(_local(parameter)) for parameter in _matching(average, named)]
            torch._foreach_lerp_([_local(tensor) for tensor in average.values()], now, fresh)
        self.steps += 1

    def state_dict(self) -> dict[str, Tensor]:
        """The averages themselves, no copies, under names such as ``"0.05/blocks.0.norm.weight"``."""
        return {f"{key}/{name}": t for key, average in self._averages.items() for name, t in average.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over averages that :meth:`state_dict` gave, sharded as these are.

        Raises:
            ValueError: other names or shapes than those of this model and these widths.
        """
        own = self.state_dict()
        for name in sorted({*own, *state}):
            if name not in own or name not in state:
                raise ValueError(f"the averages {'to load ' if name in own else ''}have no {name!r}")
            if own[name].shape != state[name].shape:
                raise ValueError(f"{name} has the shape {(*own[name].shape,)}, and to load {(*state[name].shape,)}")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def describe(self, sigma_rel: float | None = None) -> str:
        """Says which weights these are, for a model's file: ``"ema(sigma_rel=0.05) at step 2200"``."""
        return f"ema(sigma_rel={self._chosen(sigma_rel)}) at step {self.steps}"

    @contextmanager
    def lent(self, model: nn.Module, sigma_rel: float | None = None) -> Iterator[None]:
        """Within the context, the model's parameters hold the average; after it, what they held before, to the bit.

        They change in place, so that wrapped, sharded and compiled models compute with the average. The module must not
        learn meanwhile. With sharded parameters, every process must enter.
        """
        average = self._averages[self._chosen(sigma_rel)]
        forget_gathered(model)
        parameters = [_local(parameter) for parameter in _matching(average, parameters_inside(model))]
        before = [parameter.clone() for parameter in parameters]
        try:
            with torch.no_grad():
                torch._foreach_copy_(parameters, [_local(tensor) for tensor in average.values()])
            yield
        finally:
            forget_gathered(model)
            with torch.no_grad():
                torch._foreach_copy_(parameters, before)

    def full(self, sigma_rel: float | None = None, *, keep: bool = True) -> dict[str, Tensor]:
        """The average of every parameter, frozen ones included: whole tensors, copied to the CPU.

        With sharded parameters, every process must call this.

        Args:
            keep: false on processes that only help: they hold one tensor at a time, and get none.
        """
        kept: dict[str, Tensor] = {}
        for name, tensor in (self._frozen | self._averages[self._chosen(sigma_rel)]).items():
            gathered = whole(tensor)
            if keep:
                kept[name] = gathered
        return kept

    def _chosen(self, sigma_rel: float | None) -> str:
        """Key of a width."""
        key = next(iter(self._averages)) if sigma_rel is None else key_of(sigma_rel)
        if key not in self._averages:
            raise ValueError(f"there is no average of sigma_rel {key}, only of {', '.join(self._averages)}")
        return key


def key_of(sigma_rel: float) -> str:
    """What a width is called in the names of tensors."""
    return f"{sigma_rel:g}"


def parameters_inside(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by their names in the model inside all wrappers."""
    plain = lambda name: ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    return {plain(name): parameter for name, parameter in model.named_parameters()}


def _matching(average: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> list[Tensor]:
    missing = next((name for name in average if name not in named), None)
    if missing is not None:
        raise ValueError(f"the model has no parameter {missing!r}: it is not the one that is averaged")
    return [named[name].detach() for name in average]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _local(tensor: Tensor) -> Tensor:
    """What this process holds of it; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU; of a sharded tensor, all of it, for which every process must ask."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).to("cpu", copy=True)


def forget_gathered(model: nn.Module) -> None:
    """Frees what FSDP2 gathered: after an evaluation its root stays whole, and would not see what its shards hold."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
