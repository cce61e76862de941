"""Pictures of what an autoencoder can do so far: the same images and masks at every step of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from apd_generate import hide, picture_grid
from apd_models import Autoencoder

from ._autoencoder_loss import reconstruct
from ._data import ImageSet
from ._grids import write_pictures
from ._image_batches import some_known
from ._random import generator

ROWS = 8


@dataclass(frozen=True, slots=True)
class AutoencoderGrids:
    """What the pictures of a run show; :func:`autoencoder_grids_of` chooses it.

    Args:
        originals: held-out images.
        known: which of their pixels the encoder is shown, of each.
    """

    originals: Float[Tensor, "m c h w"]
    known: Bool[Tensor, "m h w"]


def autoencoder_grids_of(held_out: ImageSet) -> AutoencoderGrids:
    """Held-out images spread over the set, each with a mask; neither depends on the run's seed."""
    rows = min(ROWS, len(held_out))
    chosen = [i * len(held_out) // rows for i in range(rows)]
    masks = [some_known(held_out.size, generator(0, "autoencoder grid mask", k)) for k in range(rows)]
    return AutoencoderGrids(held_out.squares(chosen), torch.stack(masks))


@torch.no_grad()
def reconstructions(grids: AutoencoderGrids, model: Autoencoder) -> Image.Image:
    """A row for each image: itself, decoded from the latents of the whole, what is shown of it, and decoded with the
    latents of visible cells made from that alone; those of the other cells are of the whole image."""
    originals, known = (tensor.to(model.device) for tensor in (grids.originals, grids.known))
    whole = reconstruct(model, originals, torch.ones_like(known)).images
    masked = reconstruct(model, originals, known).images
    if not (whole.isfinite().all() and masked.isfinite().all()):
        raise FloatingPointError("the autoencoder puts out what is not finite")
    rows = [
        [image, a, hide(image, mask), b]
        for image, a, mask, b in zip(*(t.cpu() for t in (originals, whole, known, masked)), strict=True)
    ]
    return picture_grid(rows, column_names=["held out", "decoded", "shown", "decoded"])


def draw_autoencoder_grids(
    grids: AutoencoderGrids,
    model: Autoencoder,
    folder: Path,
    step: int,
    should_stop: Callable[[], bool] = lambda: False,
    write: bool = True,
    on_problem: Callable[[str], None] = lambda problem: None,
) -> Mapping[str, Path]:
    """:func:`reconstructions` with the weights that the model has now, as ``reconstructions-00001000.png``; the
    arguments are those of :func:`draw_grids`."""
    if should_stop():
        return {}
    try:
        picture = reconstructions(grids, model)
    except FloatingPointError as error:
        if write:
            on_problem(f"no pictures at step {step}: {error}")
        return {}
    return write_pictures({"reconstructions": picture}, folder, step, on_problem) if write else {}
