"""Images in one ``.npz``, as evaluation tools since ADM (Dhariwal & Nichol 2021, arXiv:2105.05233) read them."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


def write_npz(file: str | Path, images: Iterable[np.ndarray], count: int, labels: Sequence[int] | None = None) -> None:
    """Writes images one after the other; never more than one of them is held in memory.

    ``arr_0`` is ``(count, height, width, 3)`` in uint8, ``arr_1`` the labels in int64, where there are any. The file is
    not compressed, as those of ``numpy.savez`` are not, and may be larger than 4 GiB.

    Args:
        images: grey ``(height, width)`` or RGB ``(height, width, 3)``, uint8, all of one size; at least one. Grey is
            written in all three channels.
        count: how many they are.

    Raises:
        ValueError: other images than said, or another number of them or of labels.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if labels is not None and len(labels) != count:
        raise ValueError(f"there must be a label for each of {count} images, got {len(labels)}")
    shape: tuple[int, ...] | None = None
    written = 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            for image in images:
                if written == count:
                    raise ValueError(f"there must be {count} images, got more")
                pixels = _rgb(image)
                if shape is None:
                    shape = pixels.shape
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                    np.lib.format.write_array_header_1_0(entry, header)
                if pixels.shape != shape:
                    raise ValueError(f"images must be of one size, got {shape[:2]} and {pixels.shape[:2]}")
                entry.write(np.ascontiguousarray(pixels).data)
                written += 1
        if written != count:
            raise ValueError(f"there must be {count} images, got {written}")
        if labels is not None:
            with archive.open("arr_1.npy", "w") as entry:
                np.lib.format.write_array(entry, np.asarray(labels, dtype=np.int64), allow_pickle=False)


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"images are uint8, grey or with three channels, got {image.dtype} of shape {image.shape}")
    return np.broadcast_to(image[..., None], (*image.shape, 3)) if image.ndim == 2 else image
