"""Which images are never trained on."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from itertools import groupby

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

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

    Latents that ``apps/encode`` made are held out where the images that they are of would be.

    Raises:
        DataError: there are not enough different images for both sides.
    """
    if not isinstance(images.images, Lazy):
        digests = [content_digest(image) for image in images.images]
        held, different = _by_digest(digests, count), len(set(digests))
    elif images.images.keys is not None:
        digests = [bytes(key) for key in images.images.keys[images.images.rows]]
        held, different = _by_digest(digests, count), len(set(digests))
    else:
        held, different = _by_name(images.images, count), len(images)
    chosen = set(held)
    rest = [i for i in range(len(images)) if i not in chosen]
    if not held or not rest:
        raise DataError(
            f"{len(images)} images ({different} different) are too few: some are held out and some are trained on"
        )
    return images.subset(rest), images.subset(sorted(held))


def fingerprints(images: ImageSet) -> dict[str, str]:
    """By which images are known again, in their order.

    Returns:
        ``data_sha256``, in hexadecimal, of their content where they are in memory, else of their names;
        ``labels_sha256``; and ``data_quarters``, means of the four quarters of some of the images, spread over the set,
        in three decimals: other images have others, those that another library has decoded hardly.
    """
    quarters = F.adaptive_avg_pool2d(images.squares(spread(images, 16)).mean(1, keepdim=True), 2).flatten()
    return {
        "data_sha256": _digest_of(images),
        "labels_sha256": hashlib.sha256(images.labels.to(torch.int64).cpu().numpy().tobytes()).hexdigest(),
        "data_quarters": " ".join(f"{value:.3f}" for value in quarters.tolist()),
    }


def spread(images: ImageSet, count: int) -> range:
    """So many of the images at most, evenly."""
    return range(0, len(images), -(-len(images) // count))


def _digest_of(images: ImageSet) -> str:
    if not isinstance(images.images, Lazy):
        digests: Iterable[bytes] = map(content_digest, images.images)
    elif images.images.keys is not None:
        digests = (bytes(key) for key in images.images.keys[images.images.rows])
    else:
        digests = (name_digest(images.images.name(i)) for i in range(len(images)))
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest)
    return total.hexdigest()


def content_digest(image: UInt8[Tensor, "c _h _w"]) -> bytes:
    """SHA-256 of an image's shape and pixels."""
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(image.contiguous().numpy().tobytes())
    return digest.digest()


def name_digest(name: str) -> bytes:
    """SHA-256 of an image's name."""
    return hashlib.sha256(name.encode()).digest()


def _by_name(images: Lazy, count: int) -> list[int]:
    return nsmallest(count, range(len(images)), key=lambda i: name_digest(images.name(i)))


def _by_digest(digests: Sequence[bytes], count: int) -> list[int]:
    """Images with the same digest are copies."""
    held: list[int] = []
    for _, copies in groupby(sorted(range(len(digests)), key=digests.__getitem__), key=digests.__getitem__):
        group = [*copies]
        if len(held) + len(group) <= count:
            held += group
    if not held and len(number := Counter(digests)) > 1:
        fewest = min(sorted(number), key=number.__getitem__)
        held = [i for i, digest in enumerate(digests) if digest == fewest]
    return held
