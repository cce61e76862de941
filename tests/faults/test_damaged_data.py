"""Images that are none, in each kind of place, and pickles in place of weights."""

import json
import os
import pickle
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from apd_train._manifest import Manifest, digest, read_manifest, write_manifest
from faults.runs import assert_same, metrics, newest, options
from faults.starts import Start, Starts
from image_files import encoded, pixels, write_lsun

BAD = {
    "cats/a-truncated.jpg": encoded(pixels(99, 64, 64, 3), "JPEG")[:-700],
    "cats/b-empty.png": b"",
    "dogs/c-text.png": b"these are words\n",
    "dogs/d-header.png": encoded(pixels(98, 8, 8))[:20],
}


def put(folder: Path, entries: dict[str, bytes]) -> Path:
    for name, content in entries.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def good(data: Path) -> dict[str, bytes]:
    """The forty images, by their paths."""
    return {str(file.relative_to(data)): file.read_bytes() for file in sorted(data.rglob("*.png"))}


def as_folder(place: Path, entries: dict[str, bytes]) -> Path:
    return put(place / "images", entries)


def as_zip(place: Path, entries: dict[str, bytes]) -> Path:
    file = place / "images.zip"
    place.mkdir(exist_ok=True)
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    return file


def as_lmdb(place: Path, entries: dict[str, bytes]) -> Path:
    folder = place / "lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for name, content in entries.items():
            if content:  # an LMDB cannot hold nothing under the name of a key in some versions
                transaction.put(name.encode(), content)
    return folder


@pytest.mark.parametrize("kind", [as_folder, as_zip, as_lmdb])
def test_what_is_no_image_is_named_and_left_out(
    start: Starts, good: dict[str, bytes], tmp_path: Path, kind: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    """And the rest is trained on as if it had been alone."""
    clean, damaged = kind(tmp_path / "clean", good), kind(tmp_path / "damaged", {**good, **BAD})
    first = start(*options(clean, tmp_path / "whole", 4, 4))
    assert first.wait() == 0, first.err
    second = start(*options(damaged, tmp_path / "run", 4, 4))
    assert second.wait() == 0, second.err
    named = [line for line in second.out.splitlines() if line.startswith("skipped ")]
    bad = [name for name, content in BAD.items() if content or kind is not as_lmdb]
    assert [line.split(":")[0].removeprefix("skipped ") for line in named] == bad
    assert f"40 images ({len(bad)} unreadable ones skipped)" in second.out
    assert second.err == ""
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [line.split(":")[0] for line in record["skipped"]] == bad
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_images_read_when_needed_have_stand_ins(start: Starts, good: dict[str, bytes], tmp_path: Path) -> None:
    """The same ones whatever happens to the run: killed, gone on with, with processes that read, it is the same run."""
    data = put(tmp_path / "images", {**good, **BAD})
    whole, run = tmp_path / "whole", tmp_path / "run"
    first = start(*options(data, whole, 24, 4), memory_limit=0)
    assert first.wait() == 0, first.err
    assert all(first.out.count(name) <= 1 for name in BAD)
    assert sum(name in first.out for name in BAD) >= 3  # one may be held out
    assert start(*options(data, run, 24, 4), memory_limit=0, dies_at_step=10).wait() == -signal.SIGKILL
    again = start(*options(data, run, 24, 4, "--resume", "--workers", 2), memory_limit=0)
    assert again.wait() == 0, again.err
    assert_same(run, whole)


def test_a_set_without_an_image(start: Starts, tmp_path: Path) -> None:
    data = put(tmp_path / "images", BAD)
    process = start(*options(data, tmp_path / "run", 4, 4))
    refused(process, "none of the 4 images in", "a-truncated.jpg")
    assert not (tmp_path / "run").exists()


def refused(process: Start, *parts: str, status: int = 2) -> None:
    assert process.wait() == status, (process.out, process.err)
    assert len(process.err.splitlines()) == 1, process.err
    for part in parts:
        assert part in process.err


def not_an_lmdb(place: Path) -> None:
    (place / "data.mdb").write_bytes(b"these are words\n" * 1000)


def an_empty_lmdb(place: Path) -> None:
    write_lsun(place, 0)


def a_truncated_lmdb(place: Path) -> None:
    write_lsun(place, 40)
    os.truncate(place / "data.mdb", 8192)


def an_lmdb_of_words(place: Path) -> None:
    shutil.rmtree(place)
    as_lmdb(place.parent, {f"{k:040x}": b"words" for k in range(9)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_an_lmdb, "lmdb"),
        (an_empty_lmdb, "lmdb"),
        (a_truncated_lmdb, "truncated"),
        (an_lmdb_of_words, "none of the 9 images in"),
    ],
)
def test_a_wrong_lmdb(start: Starts, tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    (tmp_path / "lmdb").mkdir()
    make(tmp_path / "lmdb")
    refused(start(*options(tmp_path / "lmdb", tmp_path / "run", 4, 4)), message, "lmdb")
    assert not (tmp_path / "run").exists()


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """What is there if a pickle was read."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "sign")))
    (tmp_path / "sign").unlink()  # it works
    return tmp_path / "sign"


def test_a_pickle_is_not_a_model(start: Starts, data: Path, tmp_path: Path, sign: Path) -> None:
    run = tmp_path / "run"
    assert start(*options(data, run, 2, 2)).wait() == 0
    (run / "model" / "model.safetensors").write_bytes(pickle.dumps(Evil(sign)))
    process = start("tiny", "--data", data, "--error-head-of", run / "model", "--out", tmp_path / "head")
    refused(process, "model.safetensors")
    assert not (tmp_path / "head").exists()
    assert not sign.exists()


def test_a_pickle_is_not_a_checkpoint(start: Starts, data: Path, tmp_path: Path, sign: Path) -> None:
    """Neither one that lies there, nor one with a forged manifest."""
    run = tmp_path / "run"
    assert start(*options(data, run, 4, 2)).wait() == 0
    lines = metrics(run)
    found = newest(run)
    assert found
    (shard,) = found.path.glob("*.safetensors")
    shard.write_bytes(pickle.dumps(Evil(sign)))
    for name in (".metadata", "__0_0.distcp", "optimizer.pt"):
        (found.path / name).write_bytes(pickle.dumps(Evil(sign)))
    damaged, forged = tmp_path / "damaged", tmp_path / "forged"
    shutil.copytree(run, damaged)
    process = start(*options(data, damaged, 4, 2, "--resume"))
    assert process.wait() == 0, process.err
    assert "step-00000004 is passed over" in process.out
    assert metrics(damaged) == lines
    manifest = read_manifest(found.path)
    seals = {shard.name: shard.stat().st_size}, {shard.name: digest(shard)}
    write_manifest(found.path, Manifest(manifest.step, manifest.facts, *seals))
    shutil.copytree(run, forged)
    refused(start(*options(data, forged, 6, 2, "--resume")), "step-00000004 cannot be read", status=1)
    assert not sign.exists()


def test_a_pickle_is_not_data(start: Starts, tmp_path: Path, sign: Path) -> None:
    file = tmp_path / "images.npz"
    np.savez(file, images=np.array([Evil(sign)] * 40, dtype=object), allow_pickle=True)
    refused(start(*options(file, tmp_path / "run", 4, 2)), "images.npz")
    shutil.copy(file, tmp_path / "images.safetensors")
    refused(start(*options(tmp_path / "images.safetensors", tmp_path / "run", 4, 2)), "images.safetensors")
    assert not sign.exists()
