"""Whether a set of latents is what it says."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from apd_models import LatentScale, load_codec

from .._data import DataError, ImageSet, source_of
from .._data._arrays import read_safetensors
from .._data._image_set import values
from .._data._latent_set import ASKED, CODEC, RECORD, Shard, read_json, read_latents_record
from .._data._latents import LOG_VAR
from ._moments import Spread, encoded, merged, spread_of
from ._shard import read_header, tensors_digest
from ._squares import squares_of
from ._to_encode import DTYPES, ToEncode, differences, digest_of, load_to_encode

ANEW = 8
"""So many images are encoded anew."""
TOLERANCE = 0.02
"""Root mean square difference of latents that are made anew, in units of their deviation: other hardware, and numbers
of half precision."""


def verify_set(
    folder: Path,
    images: ImageSet | None = None,
    device: str | torch.device = "cpu",
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """What is wrong with a set that :func:`encode_set` made, a line for each fault.

    Reads all of it: the contents of every shard against their digest, that all is finite, that each image is there
    once, and the means and deviations. A few images are encoded anew.

    Args:
        images: that the set is of; without them none is encoded anew.
        device: to encode on.
        on_shard: called with (shards looked at, shards in all).

    Raises:
        DataError: the set is not complete, or is not of these images.
        CodecError: its autoencoder is damaged.
    """
    said, record = read_json(folder / ASKED), read_latents_record(folder)
    asked = {name: value for name, value in said.items() if name != "source"}
    codec = load_codec(folder / CODEC, device)
    faults = [] if codec.digest == said["codec"] else [f"{folder / CODEC} is another autoencoder than it was"]
    wanted = None
    if images is not None:
        wanted = ToEncode(images, codec, bool(said["mirror"]), str(said["dtype"]), int(said["shard"]))
        if differing := differences(asked, wanted.record()):
            raise DataError(f"{folder} is not of these images: {differing}")
    spreads: list[Spread] = []
    for k, shard in enumerate(record.shards):
        numbers = range(int(said["images"]))[k * said["shard"] : (k + 1) * said["shard"]]
        try:
            tensors, spread = _sound(folder / shard.name, shard, numbers, digest_of(asked), record.scale.channels)
            spreads.append(spread)
            if wanted is not None:
                chosen = {i * len(wanted.images) // ANEW for i in range(ANEW)}.intersection(numbers)
                _check_anew(wanted, sorted(chosen), tensors, record.scale)
        except DataError as error:
            faults.append(f"{error}; remove {folder / shard.name} and go on by --resume")
        on_shard(k + 1, len(record.shards))
    if not faults and merged(spreads).scale(codec.digest) != record.scale:
        faults.append(f"{folder / RECORD} has another mean and std than the shards; --resume writes it anew")
    return faults


def load_set_images(folder: Path, data: Path | None = None) -> ImageSet | None:
    """The images that a set is of, for :func:`verify_set`; None where there is nothing at the place that it notes.

    Args:
        data: where they are now, if elsewhere.

    Raises:
        DataError: there is no set, or what is there now cannot be read.
    """
    said = read_json(folder / ASKED)
    if data is None:
        data = Path(said["source"]) if said["source"] else None
        if data is None or not os.path.exists(data):
            return None
    return load_to_encode(source_of(data), int(said["size"]))


def round_trip(wanted: ToEncode, count: int) -> tuple[Float[Tensor, "n c size size"], Float[Tensor, "n c size size"]]:
    """So many of the images, evenly spread, less what cannot be read, and what the autoencoder makes of their
    latents."""
    none = torch.empty(0, wanted.codec.image_channels, wanted.images.size, wanted.images.size)
    images, decoded = [none], [none]
    numbers = sorted({i * len(wanted.images) // count for i in range(count)})
    for squares in squares_of(wanted, [[number] for number in numbers]):
        if squares.entries.numbers:
            images.append(values(squares.pixels))
            decoded.append(wanted.codec.decode(wanted.codec.encode(images[-1])).cpu())
    return torch.cat(images), torch.cat(decoded)


def _sound(
    file: Path, shard: Shard, numbers: range, encoding: str, channels: int
) -> tuple[Mapping[str, Tensor], Spread]:
    """The tensors of a shard, and what it says of their spread; raises :class:`DataError` for what is wrong."""
    header = read_header(file, numbers, encoding)
    tensors, _ = read_safetensors(file)
    if header.shard != shard or tensors_digest(tensors) != shard.digest:
        raise DataError(f"{file} is damaged: its contents are not what was written")
    latents = [tensors[name] for name in ("moments", "latents", "mirrored") if name in tensors]
    if not all(stored.isfinite().all() for stored in latents):
        raise DataError(f"{file} has latents that are not finite")
    found = merged(spread_of(stored, channels) for stored in latents)
    same = found.count == header.spread.count and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
        for one, other in ((found.mean, header.spread.mean), (found.squares, header.spread.squares))
        for a, b in zip(one, other, strict=True)
    )
    if not same:
        raise DataError(f"{file} does not have the mean and spread that it says")
    return tensors, header.spread


def _check_anew(wanted: ToEncode, numbers: list[int], tensors: Mapping[str, Tensor], scale: LatentScale) -> None:
    """Raises :class:`DataError` where an image is not encoded as it was."""
    if not numbers:
        return
    (squares,) = squares_of(wanted, [numbers])
    if not squares.entries.numbers:
        return
    there = tensors["index"].tolist()
    for name, now in encoded(wanted.codec, squares.pixels, wanted.mirror, DTYPES[wanted.dtype]).items():
        for number, one in zip(squares.entries.numbers, now, strict=True):
            if number not in there:
                raise DataError(f"image {number} can be read, and was left out")
            other = tensors[name][there.index(number)]
            gaps = [(a - b).square().mean().sqrt() for a, b in zip(_seen(one, scale), _seen(other, scale), strict=True)]
            if not (gap := float(max(gaps))) <= TOLERANCE:
                raise DataError(f"the {name} of image {number} are not what they were, by {gap:.2g} of their deviation")


def _seen(stored: Float[Tensor, "_k i j"], scale: LatentScale) -> list[Float[Tensor, "k i j"]]:
    """Mean and deviation, at the scale that is trained on."""
    mean, *log_var = stored.float().split(scale.channels)
    std = mean.new_tensor(scale.std)[:, None, None]
    return [mean / std, *((0.5 * each.clamp(*LOG_VAR)).exp() / std for each in log_var)]
