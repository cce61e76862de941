"""Which images are never trained on."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from heapq import nsmallest

from jaxtyping import UInt8
from torch import Tensor

from ._image_set import DataError, ImageSet
from ._lazy import Lazy


def hold_out(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet]:
    """Splits into (training, held-out): a rule without a seed.

    In memory, by content: different images are taken in the order of the SHA-256 of their pixels, each with all of its
    copies, as long as the held-out set does not exceed ``count``; if every image has more copies than that, the one
    with the fewest is taken. Copies of an image are thus never on both sides, and another run on the same images holds
    out the same ones.

    Images that are read when needed are taken in the order of the SHA-256 of their names: the path relative to the
    folder or zip file, the key of an LMDB, file and row elsewhere. Copies under other names are not known to be copies.

    Raises:
        DataError: there are not enough different images for both sides.
    """
    if isinstance(images.images, Lazy):
        held = _by_name(images.images, count)
        different = len(images)
    else:
        held, different = _by_content(images.images, count)
    chosen = set(held)
    rest = [i for i in range(len(images)) if i not in chosen]
    if not held or not rest:
        raise DataError(
            f"{len(images)} images ({different} different) are too few: some are held out and some are trained on"
        )
    return images.subset(rest), images.subset(sorted(held))


def _by_name(images: Lazy, count: int) -> list[int]:
    digest = lambda i: hashlib.sha256(images.name(i).encode()).digest()
    return nsmallest(count, range(len(images)), key=digest)


def _by_content(images: Sequence[UInt8[Tensor, "c _h _w"]], count: int) -> tuple[list[int], int]:
    """What is held out, and how many images differ."""
    copies: defaultdict[bytes, list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        digest = hashlib.sha256(str(tuple(image.shape)).encode())
        digest.update(image.contiguous().numpy().tobytes())
        copies[digest.digest()].append(i)
    held: list[int] = []
    for digest in sorted(copies):
        if len(held) + len(copies[digest]) <= count:
            held += copies[digest]
    if not held and len(copies) > 1:
        held = min(copies.values(), key=len)
    return held, len(copies)
