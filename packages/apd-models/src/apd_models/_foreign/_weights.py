"""The same weights as :class:`apd_models.DiT` keeps them. Every step is exact but for the rounding of ``1 + scale``."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._sizes import Sizes

State = dict[str, Tensor]


def merged(state: State) -> State:
    """Queries, keys and values as one layer; embeddings that are the same in all blocks as one."""
    state = dict(state)
    for name in [name for name in state if ".attention.q." in name]:
        state[name.replace(".q.", ".qkv.")] = torch.cat([state.pop(name.replace(".q.", f".{x}.")) for x in "qkv"])
    first = [name for name in state if name.startswith(("blocks.0.level.", "blocks.0.label."))]
    alike = {name: [key for key in state if key.split(".")[2:] == name.split(".")[2:]] for name in first}
    if all(torch.equal(state[key], state[name]) for name, keys in alike.items() for key in keys):
        for name, keys in alike.items():
            state[name.removeprefix("blocks.0.")] = state[name]
            for key in keys:
                del state[key]
    return state


def rearranged(state: State, sizes: Sizes, negate: bool) -> State:
    """Their order of things in ours.

    * The embedding is a convolution there: its kernel becomes the weight of a linear layer, in the order of a token.
    * The features of the timestep are cosines, sines there; sines, cosines here.
    * Scales are ``1 + scale`` there, whole factors here: the one goes into the bias.
    * Of what the head predicts for each pixel, a learned variance comes last, and is left out.

    Args:
        negate: whether the head predicts the opposite.
    """
    state = dict(state)
    state["embed.weight"] = state["embed.weight"].permute(0, 2, 3, 1).flatten(1)
    state["position"] = state["position"][0]
    for name in ("head.weight", "head.bias"):
        kept = state[name].unflatten(0, (sizes.patch**2, sizes.outputs))[:, : sizes.channels].flatten(0, 1)
        state[name] = -kept if negate else kept
    for name, tensor in state.items():
        if name.endswith("level.hidden.weight"):
            state[name] = tensor.roll(tensor.shape[1] // 2, 1)
        if name.endswith("modulation.linear.bias"):
            parts = tensor.unflatten(0, (-1, sizes.width)).clone()
            parts[1::3] += 1
            state[name] = parts.flatten()
    return state


def sincos_column_first(side: int, width: int) -> Float[Tensor, "1 n width"]:
    """Positions of a square grid as DiT and diffusers compute them: sines and cosines of the column, then of the row,
    at rates from 1 down to 1/10,000 radians a token."""
    rate = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(side)[:, None] * rate
    axis = torch.cat([angle.sin(), angle.cos()], -1)
    return torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, 0)], -1).float()[None]
