"""Images with what is hidden made up from what is visible."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ._codec import without_hidden


def filled(images: Float[Tensor, "b c h w"], known: Bool[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
    """Smooth content for hidden pixels, from the known ones alone, which stay as they are: the image at half the size
    is filled in and enlarged (push and pull, Gortler et al. 1996, "The Lumigraph"). Grey, 0, where nothing is known.
    """
    shown, weight = without_hidden(images, known), known[:, None].to(images.dtype)
    if max(images.shape[-2:]) == 1:
        return shown
    # Means of the known pixels of each 2×2; windows over the edge count what is there.
    halve = lambda x: F.avg_pool2d(x, 2, ceil_mode=True)
    share = halve(weight)
    coarse = filled(halve(shown) / share.clamp(min=0.25), share[:, 0] > 0)
    smooth = F.interpolate(coarse, images.shape[-2:], mode="bilinear")
    return torch.where(known[:, None], images, smooth)
