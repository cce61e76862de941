"""Sizes of a foreign DiT, read off its weights, and the shapes that all of its weights then have."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .._hub import ModelFolderError

FEATURES = 256
"""Sines and cosines of the timestep."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the shapes of the weights say.

    Args:
        side: tokens a side of the grid, which is square.
        hidden: width of the feed-forward networks.
        rows: of the label embedding; the last is "no label".
        outputs: of the head, for each pixel: as many as channels, or twice that with a learned variance.
    """

    depth: int
    width: int
    channels: int
    patch: int
    side: int
    hidden: int
    rows: int
    outputs: int

    @property
    def variance(self) -> bool:
        """Whether the variance of the noise is learned too."""
        return self.outputs == 2 * self.channels

    def weight(self, module: str) -> tuple[int, ...]:
        """Shape of a module's weight, by our name of it."""
        width, pixels = self.width, self.patch**2
        return {
            "embed": (width, self.channels, self.patch, self.patch),
            "position": (1, self.side**2, width),
            "level.hidden": (width, FEATURES),
            "label": (self.rows, width),
            "modulation.linear": (6 * width, width),
            "head_modulation.linear": (2 * width, width),
            "head": (pixels * self.outputs, width),
            "attention.qkv": (3 * width, width),
            "feed_forward.hidden": (self.hidden, width),
            "feed_forward.out": (width, self.hidden),
        }.get(module, (width, width))


def measured(state: Mapping[str, Tensor], names: Mapping[str, str], depth: int) -> Sizes:
    """
    Args:
        state: by our names, in their shapes.
        names: theirs, for messages.

    Raises:
        ModelFolderError: a weight that does not fit the others.
    """

    def shape(name: str, axes: int) -> tuple[int, ...]:
        found = tuple(state[name].shape)
        if len(found) != axes or 0 in found:
            raise ModelFolderError(f"{names[name]} has shape {found}, which no DiT has")
        return found

    width, channels, patch, _ = shape("embed.weight", 4)
    label = "label.weight" if "label.weight" in state else "blocks.0.label.weight"
    sizes = Sizes(
        depth,
        width,
        channels,
        patch,
        side=math.isqrt(shape("position", 3)[1]),
        hidden=shape("blocks.0.feed_forward.hidden.weight", 2)[0],
        rows=shape(label, 2)[0],
        outputs=shape("head.weight", 2)[0] // patch**2,
    )
    if sizes.outputs not in (channels, 2 * channels):
        raise ModelFolderError(
            f"{names['head.weight']} predicts {sizes.outputs} numbers a pixel of {channels} channels"
        )
    for ours, tensor in state.items():
        module, _, leaf = ours.rpartition(".")
        if ours.startswith("blocks."):
            module = module.split(".", 2)[2]
        expected = sizes.weight(module or leaf)
        expected = expected[:1] if leaf == "bias" else expected
        if tuple(tensor.shape) != expected:
            raise ModelFolderError(f"{names.get(ours, ours)} has shape {tuple(tensor.shape)}, expected {expected}")
    return sizes
