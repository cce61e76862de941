"""Which images are never trained on."""

import hashlib
from collections import defaultdict

from ._image_set import DataError, ImageSet


def hold_out(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet]:
    """Splits into (training, held-out) by content: a rule without a seed.

    Different images are taken in the order of the SHA-256 of their pixels, each with all of its copies, as long as the
    held-out set does not exceed ``count``; if every image has more copies than that, the one with the fewest is taken.
    Copies of an image are thus never on both sides, and another run on the same images holds out the same ones.

    Raises:
        DataError: there are not enough different images for both sides.
    """
    copies: defaultdict[bytes, list[int]] = defaultdict(list)
    for i, image in enumerate(images.images):
        digest = hashlib.sha256(str(tuple(image.shape)).encode())
        digest.update(image.contiguous().numpy().tobytes())
        copies[digest.digest()].append(i)
    held: list[int] = []
    for digest in sorted(copies):
        if len(held) + len(copies[digest]) <= count:
            held += copies[digest]
    if not held and len(copies) > 1:
        held = min(copies.values(), key=len)
    chosen = set(held)
    rest = [i for i in range(len(images)) if i not in chosen]
    if not held or not rest:
        raise DataError(
            f"{len(images)} images ({len(copies)} different) are too few: some are held out and some are trained on"
        )
    return images.subset(rest), images.subset(sorted(held))
