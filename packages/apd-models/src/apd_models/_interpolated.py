"""One model, another grid of tokens."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from ._dit import DiT
from ._fused import at_least_float32


def interpolated(model: DiT, grid: tuple[int, int]) -> DiT:
    """The model for another grid of tokens, its weights shared but for the positions, which are interpolated.

    Learned positions are resized as an image is, bicubically (Dosovitskiy et al. 2021, arXiv:2010.11929), with the
    kernel that leaves planes planes. Rotary ones are scaled to the grid that the model was trained on (Chen et al.
    2023, arXiv:2306.15595).
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    of = model.config
    state = model.state_dict()
    if of.position == "rope":
        config = replace(of, grid=grid, position_grid=of.position_grid or of.grid)
    else:
        config = replace(of, grid=grid)
        image = at_least_float32(state["position"]).T.reshape(1, of.width, *of.grid)
        resized = F.interpolate(image, grid, mode="bicubic", antialias=True)
        state["position"] = resized.flatten(2)[0].T.contiguous().to(state["position"])
    with torch.device("meta"):
        other = DiT(config)
    other.load_state_dict(state, assign=True)
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    other.kernels, other.checkpoint_activations = model.kernels, model.checkpoint_activations
    return other.train(model.training)
