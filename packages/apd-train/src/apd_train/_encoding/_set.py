"""Encodes images into a set of latents, shard by shard."""

import contextlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._data import DataError
from .._data._image_set import PATIENCE
from .._data._latent_set import ASKED, CODEC, RECORD, LatentsRecord, is_encoded, read_json, shard_name
from .._data._reading import faults_of
from .._files import flush
from .._run_folder import RunFolder, RunFolderError, writing
from ._moments import encoded, merged
from ._shard import Header, read_header, write_shard
from ._squares import Entries, Squares, squares_of
from ._to_encode import DTYPES, ToEncode, differences, digest_of

ASIDE = ".part-*"
"""Folders of what processes are writing."""
_OURS = (RECORD, "latents-*.safetensors", ASIDE, CODEC, ASKED)
"""What says that a folder is a set's is removed last."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What has been done.

    Args:
        images: that this process encoded.
        missing: files that other processes have yet to make.
        record: of the set, if it is complete.
    """

    images: int
    missing: tuple[str, ...]
    record: LatentsRecord | None


def encode_set(
    wanted: ToEncode,
    folder: Path,
    batch: int = 32,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
    resume: bool = False,
    overwrite: bool = False,
    source: str = "",
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    on_problem: Callable[[str], None] = lambda problem: None,
) -> Encoded:
    """Encodes images into a folder, which :func:`source_of` then takes for :class:`Latents`.

    What the set is to be is written first, to ``encoding.json``; then the autoencoder, to ``codec/``; then one shard
    after another, each whole or not at all; and ``latents.json`` when all are there. A shard is a function of its
    images: whatever ended a process, another goes on, and it does not matter which of them made which.

    Args:
        batch: images that are encoded together.
        workers: processes that read images ahead.
        part: (i, n): this process makes the shards i, i + n, i + 2n …; processes that make the others may run at the
            same time, on other machines too. Whichever finds all shards there completes the set.
        resume: go on with the set that the folder holds; where there is none, one is begun. One of several parts always
            does.
        overwrite: replace it.
        source: where the images are, as a note.
        on_batch: called with (images done, images to do), of those that this process encodes.
        on_problem: gets the name of each image that cannot be read, and of each shard that has to be made anew, with
            the reason.

    Raises:
        DataError: the folder holds something else, or an image or its latents are none that can be kept.
        WriteError: a file cannot be written.
    """
    i, n = part
    if not 0 <= i < n:
        raise DataError(f"of {n} parts there are those from 0 to {n - 1}, not {i}")
    if overwrite and (resume or n > 1):
        raise DataError("a set is overwritten as a whole, and from its start: neither resumed nor in parts")
    if batch < 1 or workers < 0:
        raise DataError(f"a batch is of 1 image at least, and workers are 0 or more, got {batch} and {workers}")
    asked = wanted.record()
    encoding = digest_of(asked)
    with faults_of(folder):
        _check(folder, asked, resume or n > 1, overwrite)
    with writing(folder), _held(folder, i, n) as aside:
        if overwrite:
            _remove(folder, aside)
        _begin(wanted, folder, aside, {**asked, "source": source})
        _compare(folder, asked)  # another part may have begun it meanwhile
        todo = [k for k in range(i, wanted.shards, n) if not _is_made(folder, wanted, k, encoding, on_problem)]
        images = 0
        for k, entries, latents in _shards(wanted, todo, batch, workers, on_batch, on_problem):
            images += sum(len(each.numbers) for each in entries)
            write_shard(aside / shard_name(k), wanted, encoding, entries, latents)
            _publish(aside / shard_name(k), folder)
        missing, headers = _headers(folder, wanted, encoding)
        record = None if missing else _record(wanted, headers)
        if record is not None:
            _write(record.as_json(), aside / RECORD, folder)
            for other in folder.glob(ASIDE):
                if other != aside and not _in_use(other):  # of a process that was ended
                    shutil.rmtree(other, ignore_errors=True)
        return Encoded(images, tuple(missing), record)


def _check(folder: Path, asked: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
    """Raises :class:`DataError` where nothing may be written."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: choose a folder for the set")
    if is_encoded(folder):
        if not resume and not overwrite:
            raise DataError(
                f"{folder} already holds a set of latents: pass --resume to go on with it, --overwrite to replace it, "
                "or another --out"
            )
        if resume:
            _compare(folder, asked)
        if overwrite and (folder / ASKED).is_file():
            read_json(folder / ASKED)  # which refuses a file that only has this name
    elif folder.exists() and (others := sorted(p.name for p in folder.iterdir() if not any(map(p.match, _OURS)))):
        raise DataError(f"{folder} holds {others[0]} and no set of latents: choose another folder, or an empty one")


def _compare(folder: Path, asked: Mapping[str, Any]) -> None:
    if differing := differences(read_json(folder / ASKED), asked):
        raise DataError(
            f"{folder} is another set: {differing}; say the same, or choose another --out, or --overwrite it"
        )


@contextlib.contextmanager
def _held(folder: Path, i: int, n: int) -> Iterator[Path]:
    """A folder inside to write to, empty, which no other process has; it is gone at the end."""
    aside = folder / f".part-{i}-of-{n}"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(RunFolder(aside).held())
        except RunFolderError as error:
            raise DataError(f"part {i}/{n} of this set cannot be begun: {error}") from error
        for path in aside.iterdir():  # of a process that was ended
            _delete(path)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _remove(folder: Path, aside: Path) -> None:
    if any(_in_use(other) for other in folder.glob(ASIDE) if other != aside):
        raise DataError(f"{folder} cannot be overwritten: another process is making a part of it")
    for path in [path for pattern in _OURS for path in folder.glob(pattern) if path != aside]:
        _delete(path)


def _in_use(aside: Path) -> bool:
    try:
        with RunFolder(aside).held():
            return False
    except RunFolderError:
        return True


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _begin(wanted: ToEncode, folder: Path, aside: Path, record: Mapping[str, Any]) -> None:
    """Says what the set is to be, and keeps the autoencoder, where another process has not."""
    if not (folder / ASKED).is_file():
        _write(record, aside / ASKED, folder)
    if not (folder / CODEC).is_dir():
        wanted.codec.save(aside / CODEC)
        for path in (aside / CODEC).rglob("*"):
            flush(path)
        try:
            _publish(aside / CODEC, folder)
        except OSError:
            if not (folder / CODEC).is_dir():  # else another process was first
                raise


def _is_made(folder: Path, wanted: ToEncode, number: int, encoding: str, on_problem: Callable[[str], None]) -> bool:
    file = folder / shard_name(number)
    if not file.is_file():
        return False
    try:
        read_header(file, wanted.numbers(number), encoding)
    except DataError as error:
        on_problem(f"{error}: it is made anew")
        return False
    return True


def _shards(
    wanted: ToEncode,
    numbers: Sequence[int],
    batch: int,
    workers: int,
    on_batch: Callable[[int, int], None],
    on_problem: Callable[[str], None],
) -> Generator[tuple[int, list[Entries], list[dict[str, Tensor]]], None, None]:
    """The number of each shard, its images and their latents, by batches."""
    batches = {}
    for k in numbers:
        of = wanted.numbers(k)
        batches[k] = [of[first : first + batch] for first in range(0, len(of), batch)]
    total, done = sum(len(wanted.numbers(k)) for k in numbers), 0
    together = [each for k in numbers for each in batches[k]]
    left_out = lambda problem: on_problem(f"left out {problem}")
    unreadable = 0
    with contextlib.closing(squares_of(wanted, together, workers, torch.cuda.is_available(), left_out)) as squares:
        for k in numbers:
            entries, latents = [], []
            for each in batches[k]:
                try:
                    found = next(squares)
                except OSError as error:
                    reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                    raise DataError(f"the images cannot be read: {reason[0]}") from error
                unreadable = 0 if found.entries.numbers else unreadable + len(each)
                if unreadable >= PATIENCE:
                    raise DataError(
                        f"{unreadable} images in a row cannot be read, the last {found.entries.skipped[-1][1]}: is "
                        "the data still there? Go on by --resume"
                    )
                entries.append(found.entries)
                latents.append(_latents(wanted, found))
                done += len(each)
                on_batch(done, total)
            yield k, entries, latents


def _latents(wanted: ToEncode, squares: Squares) -> dict[str, Tensor]:
    pixels = squares.pixels
    if len(pixels):
        return encoded(wanted.codec, pixels, wanted.mirror, DTYPES[wanted.dtype])
    grey = pixels.new_full((1, *pixels.shape[1:]), 128)  # few autoencoders take none
    return {
        name: tensor[:0] for name, tensor in encoded(wanted.codec, grey, wanted.mirror, DTYPES[wanted.dtype]).items()
    }


def _headers(folder: Path, wanted: ToEncode, encoding: str) -> tuple[list[str], list[Header]]:
    """Names of the files that are not there or not complete, and what the others say."""
    missing, headers = [], []
    for k in range(wanted.shards):
        try:
            headers.append(read_header(folder / shard_name(k), wanted.numbers(k), encoding))
        except DataError:
            missing.append(shard_name(k))
    return missing, headers


def _record(wanted: ToEncode, headers: Sequence[Header]) -> LatentsRecord:
    if not any(header.shard.images for header in headers):
        raise DataError("none of the images can be read")
    return LatentsRecord(
        merged(header.spread for header in headers).scale(wanted.codec.digest),
        wanted.images.class_names,
        wanted.images.size // wanted.codec.factor,
        wanted.images.size,
        tuple(reason for header in headers for reason in header.skipped),
        tuple(header.shard for header in headers),
    )


def _write(record: Mapping[str, Any], file: Path, folder: Path) -> None:
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    _publish(file, folder)


def _publish(path: Path, folder: Path) -> None:
    """Moves what has been written aside to where it belongs, when it is on the disk."""
    flush(path)
    path.replace(folder / path.name)
    flush(folder)
