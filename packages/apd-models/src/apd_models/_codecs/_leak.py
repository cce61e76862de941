"""How much latents of what is visible move when the rest of the image is hidden, by distance from it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ._codec import Codec, CodecError, check_images
from ._latent_scale import LatentScale


@dataclass(frozen=True, slots=True)
class Moved:
    """How far latents moved, in standard deviations of their channel.

    Args:
        rms: root mean square over channels and cells, at distance 1, 2, … from what is hidden.
        largest: of the absolute values there.
    """

    rms: tuple[float, ...]
    largest: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Leak:
    """How much the latents of cells that are known whole move, by their chessboard distance in cells from the nearest
    cell that is not.

    Args:
        cells: how many there are at distance 1, 2, …, in all images.
        hiding: of images with hidden pixels, against those of the whole images, which a model of latents was trained
            on. Only where an autoencoder does not look that far is it 0.
        changing: of images with hidden pixels, against those of images with the same hidden pixels in which those are
            others. 0 to the bit: they are removed before anything is computed.
        unmasked: of whole images, against those of images with other pixels in the place of those hidden. What comes
            through to one who does not tell the autoencoder which are.
    """

    cells: tuple[int, ...]
    hiding: Moved
    changing: Moved | None = None
    unmasked: Moved | None = None

    def __str__(self) -> str:
        """A table, a row for each distance."""
        columns = {name: moved for name in ("hiding", "changing", "unmasked") if (moved := getattr(self, name))}
        lines = [f"{'distance':>8} {'cells':>7}" + "".join(f" {name + ' rms':>12} {'largest':>9}" for name in columns)]
        for at, cells in enumerate(self.cells):
            values = "".join(f" {moved.rms[at]:12.3g} {moved.largest[at]:9.3g}" for moved in columns.values())
            lines.append(f"{at + 1:8} {cells:7}{values}")
        return "\n".join(lines)


def leak(
    codec: Codec,
    images: Float[Tensor, "b c h w"],
    known: Bool[Tensor, "b h w"],
    instead: Float[Tensor, "b c h w"] | None = None,
    scale: LatentScale | None = None,
) -> Leak:
    """Measures what hidden pixels have to do with the latents of what is visible.

    Whoever chooses something for an image by this number, and must not look at what is hidden in it, gives an image
    without it, such as :func:`filled`.

    Args:
        images: whole, with values in [-1, 1].
        known: False where pixels are hidden.
        instead: images whose pixels take the place of the hidden ones; without them, ``hiding`` is all that is
            measured.
        scale: its standard deviations are the unit; by default those of the latents of ``images``.

    Raises:
        CodecError: nothing is hidden, or no cell is known whole, or the codec cannot take these images, or their
            latents do not vary.
    """
    check_images(codec, images, known)
    whole_cells = known_cells(known, codec.factor)
    distance = _distance(whole_cells).flatten().cpu()
    visible = (distance > 0) & (distance < max(whole_cells.shape[1:]))
    if not visible.any():
        raise CodecError("expected an image of which a part is hidden and a cell is known whole, got none")
    at, cells = distance[visible] - 1, distance[visible].bincount()[1:]

    whole = codec.encode(images)
    std = whole.cpu().double().std((0, 2, 3)) if scale is None else torch.tensor(scale.std, dtype=torch.float64)
    if len(std) != codec.channels:
        raise CodecError(f"expected a scale of {codec.channels} channels, got {len(std)}")
    if not (std > 0).all():
        raise CodecError("the latents of these images are constant, or not finite, in a channel: say their scale")

    def moved(a: Float[Tensor, "b k i j"], b: Float[Tensor, "b k i j"]) -> Moved:
        by = ((b.cpu().double() - a.cpu().double()) / std[:, None, None]).movedim(1, -1).flatten(0, 2)[visible]
        squares = by.new_zeros(len(cells)).index_add(0, at, by.square().mean(1))
        largest = by.new_zeros(len(cells)).scatter_reduce(0, at, by.abs().amax(1), "amax")
        return Moved(tuple((squares / cells).sqrt().tolist()), tuple(largest.tolist()))

    seen, counts = codec.encode(images, known), tuple(cells.tolist())
    if instead is None:
        return Leak(counts, moved(whole, seen))
    changed = torch.where(known[:, None], images, instead)
    others_seen, others = codec.encode(changed, known), codec.encode(changed)
    return Leak(counts, moved(whole, seen), moved(seen, others_seen), moved(whole, others))


def dilation(measured: Leak, bound: float) -> int | None:
    """By how many cells what is hidden must grow, so that what is left visible moves by hiding no more than a bound.

    Args:
        bound: of :attr:`Leak.hiding`, root mean square at each distance that is left; 0 for not a bit.

    Returns:
        The smallest such number, 0 where nothing has to grow; None where no cell would be left.

    Raises:
        ValueError: the bound is negative.
    """
    if not bound >= 0:
        raise ValueError(f"a bound is 0 or more, got {bound}")
    grow = len(measured.cells)
    while grow and measured.hiding.rms[grow - 1] <= bound:
        grow -= 1
    return grow if grow < len(measured.cells) else None


def known_cells(known: Bool[Tensor, "b h w"], factor: int, dilate: int = 0) -> Bool[Tensor, "b i j"]:
    """Which cells of latents are known whole, and by more than ``dilate`` cells away from all that are not.

    Args:
        known: pixels, height and width multiples of ``factor``.
        dilate: by how many cells what is hidden grows, along rows, columns and diagonals.

    Raises:
        ValueError: sides that are no multiples of the factor, a negative ``dilate``, or a mask not of booleans.
    """
    if known.dtype != torch.bool:
        raise ValueError(f"expected which pixels are known in booleans, got {known.dtype}")
    _, height, width = known.shape
    if height % factor or width % factor or dilate < 0:
        raise ValueError(
            f"expected sides that are multiples of {factor} and dilate ≥ 0, got {height}×{width}, {dilate}"
        )
    hidden = F.max_pool2d((~known).float()[:, None], factor)
    return F.max_pool2d(hidden, 2 * dilate + 1, 1, dilate)[:, 0] == 0


def _distance(whole: Bool[Tensor, "b i j"]) -> Int[Tensor, "b i j"]:
    """Chessboard distance of each cell from the nearest that is not ``whole``; the longer side where there is none."""
    near = (~whole).float()[:, None]
    distance = torch.zeros_like(whole, dtype=torch.int64)
    for _ in range(max(whole.shape[1:])):
        distance += near[:, 0] == 0
        near = F.max_pool2d(near, 3, 1, 1)
    return distance
