"""What images are compared by, and the real images that they are compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluate_images import Digest, Images, batches_of
from evaluate_options import Comparison
from torch import Tensor

from apd_metrics import (
    Extractor,
    Moments,
    Reference,
    ReferenceFileError,
    WeightsError,
    dinov2,
    efficientnet_lite0,
    extract,
    inception,
    read_reference,
    reference_images,
)
from apd_train.app import UsageError


@dataclass(frozen=True)
class Real:
    """What is compared with.

    Args:
        samples: features of real images, or their moments.
        said: which they are, in words.
        sha256: of the file of a reference, or of the images' pixels.
        ours: the features are those of the images chosen from --data, in their order.
    """

    samples: Tensor | Moments
    said: str
    sha256: str
    ours: bool

    @property
    def record(self) -> dict[str, Any]:
        return {"reference": self.said, "reference_sha256": self.sha256}


def extractor_of(comparison: Comparison, device: str) -> Extractor:
    try:
        if comparison.extractor_weights is None:
            return efficientnet_lite0(comparison.side or 224, device)
        make = inception if comparison.extractor == "inception" else dinov2
        return make(comparison.extractor_weights, device)
    except WeightsError as error:
        raise UsageError(str(error)) from error


def features_said(extractor: Extractor) -> str:
    record = extractor.record()
    return f"{extractor.name}, {extractor.dims} numbers an image; {record['resize']}; weights {extractor.sha256}"


def reference_file_of(file: Path, extractor: Extractor) -> Reference:
    """What its header says; its images are preferred to its statistics, which tell less."""
    try:
        reference = read_reference(file)
        if not reference.images:
            reference.require(extractor.record())
    except ReferenceFileError as error:
        raise UsageError(str(error)) from error
    return reference


def real_of(
    extractor: Extractor, file: Reference | None, images: Images | None, tell: Callable[[int, int], None]
) -> Real:
    """Takes features of the reference, be it a file or the images chosen from --data."""
    if file is None:
        assert images is not None
        digest, total = Digest(), len(images.chosen)
        features = extract(extractor, digest.through(batches_of(images.chosen)), lambda done: tell(done, total))
        return Real(features, f"{total} {images.part} images of {images.name}", digest.hex, True)
    if not file.images:
        assert file.samples is not None
        kind = "statistics" if isinstance(file.samples, Moments) else f"features of {len(file.samples)} images"
        return Real(file.samples, f"{kind} in {file.file}", file.sha256, False)
    try:
        features = extract(extractor, reference_images(file.file), lambda done: tell(done, file.images))
    except ReferenceFileError as error:
        raise UsageError(str(error)) from error
    return Real(features, f"{file.images} images in {file.file}", file.sha256, False)


def some_others(images: Images, count: int, seed: int) -> list[int] | None:
    """Indices of so many real images that are not among those chosen, drawn at random; None where there are not as
    many."""
    if images.rest is None or len(images.rest) < count:
        return None
    order = torch.randperm(len(images.rest), generator=torch.Generator().manual_seed(seed))
    return order[:count].tolist()
