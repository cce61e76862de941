"""LSUN's databases: written by the lmdb library as LSUN's exporter does, and whatever else may lie there."""

import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch

from apd_train._data import DataError, ImageLmdb, ImageSet, _lmdb as module
from image_files import as_pixels, encoded, pixels, write_lsun


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "apd-train"


def load(folder: Path) -> ImageSet:
    module._open.cache_clear()  # as another run would find it; a database must not be written while it is open
    return ImageLmdb(folder, in_memory=False).load(8)


def names(images: ImageSet) -> list[str]:
    return [images.images.name(i) for i in range(len(images))]  # pyrefly: ignore [missing-attribute]


def test_lsun_is_read_in_the_order_of_its_keys(tmp_path: Path) -> None:
    written = write_lsun(tmp_path / "db", 6)
    images = load(tmp_path / "db")
    assert names(images) == list(written)
    for i, image in enumerate(written.values()):
        assert torch.equal(as_pixels(images.square(i)), image)
    assert images.class_names == ()
    module._open.cache_clear()
    in_memory = ImageLmdb(tmp_path / "db").load(8)
    assert isinstance(in_memory.images, list)
    assert torch.equal(in_memory.squares(), images.squares())


def test_threads_open_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a fork, when the first images are read by many at once."""
    write_lsun(tmp_path / "db", 6)
    images, opens, calls = load(tmp_path / "db"), lmdb.open, list[object]()

    def slow(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        time.sleep(0.05)
        return opens(*args, **kwargs)

    monkeypatch.setattr(lmdb, "open", slow)
    module._open.cache_clear()
    with ThreadPoolExecutor(6) as pool:
        assert len([*pool.map(images.square, range(6))]) == 6
    assert len(calls) == 1


def test_keys_are_listed_once_and_anew_when_the_database_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[int] = []
    lists = module._listed
    monkeypatch.setattr(module, "_listed", lambda cursor, n, *rest: listed.append(n) or lists(cursor, n, *rest))
    written = write_lsun(tmp_path / "db", 4)
    assert names(load(tmp_path / "db")) == names(load(tmp_path / "db")) == list(written)
    assert listed == [4]
    module._open.cache_clear()
    written |= write_lsun(tmp_path / "db", 3, first=4)
    assert names(load(tmp_path / "db")) == sorted(written)
    assert listed == [4, 7]
    for damage in (b"", b"junk", (tmp_path / "db" / module.KEYS).read_bytes()[:-9]):
        (tmp_path / "db" / module.KEYS).write_bytes(damage)
        assert names(load(tmp_path / "db")) == sorted(written)
    np.save(tmp_path / "db" / module.KEYS, np.array([{}] * 7), allow_pickle=True)
    assert names(load(tmp_path / "db")) == sorted(written)
    assert listed[2:] == [7] * 4


def test_other_keys_of_the_same_number_are_noticed(tmp_path: Path) -> None:
    write_lsun(tmp_path / "one", 3)
    expected = list(write_lsun(tmp_path / "two", 3, first=10))
    load(tmp_path / "one")
    shutil.copy(tmp_path / "one" / module.KEYS, tmp_path / "two")
    assert names(load(tmp_path / "two")) == expected


def test_a_key_between_the_first_and_the_last_is_noticed(tmp_path: Path) -> None:
    for keys in (b"az", b"m"):
        module._open.cache_clear()
        with lmdb.open(str(tmp_path / "db")) as environment, environment.begin(write=True) as transaction:
            for key in keys:
                transaction.put(bytes([key]), encoded(pixels(key)))
        expected = ["a", "z"] if keys == b"az" else ["a", "m", "z"]
        assert names(load(tmp_path / "db")) == expected


def test_keys_go_to_the_users_cache_where_the_folder_cannot_be_written(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_lsun(tmp_path / "db", 3)
    monkeypatch.setattr(module, "KEYS", "no/such\0name.npy")  # what root, too, cannot write
    write = module._write
    monkeypatch.setattr(module, "_write", lambda file, keys: "\0" not in str(file) and write(file, keys))
    assert names(load(tmp_path / "db")) == list(written)
    (file,) = cache.iterdir()
    assert [key.decode() for key in np.load(file)] == list(written)
    monkeypatch.setattr(module, "_listed", None)
    assert names(load(tmp_path / "db")) == list(written)


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not module._write(tmp_path / "file" / "x.npy", np.array([b"a"]))
    (tmp_path / "folder.npy").mkdir()
    assert not module._write(tmp_path / "folder.npy", np.array([b"a"]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.npy"]


def test_every_process_opens_it_for_itself(tmp_path: Path) -> None:
    written = [*write_lsun(tmp_path / "db", 3).values()]
    images = load(tmp_path / "db")
    images.square(0)
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        inherited = module._open.cache_info().currsize
        good = not inherited and torch.equal(as_pixels(images.square(1)), written[1])
        os.write(writes, b"good" if good else b"bad")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writes)
    assert os.read(reads, 9) == b"good"
    os.close(reads)
    assert torch.equal(as_pixels(images.square(2)), written[2])


def test_an_entry_that_went_or_is_broken_is_stood_in_for(tmp_path: Path) -> None:
    written = write_lsun(tmp_path / "db", 4)
    images = load(tmp_path / "db")
    module._open.cache_clear()
    keys = list(written)
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.delete(keys[0].encode())
        transaction.put(keys[1].encode(), b"")
    told: list[str] = []
    assert torch.equal(as_pixels(images.square(0, on_unreadable=told.append)), written[keys[2]])
    assert told == [f"{keys[0]}: no such key in the database", f"{keys[1]}: cannot identify image file"]


def test_what_is_no_lsun_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str, folder: Path) -> None:
        with pytest.raises(DataError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)

    refused("does not exist", tmp_path / "nowhere")
    refused(r"is no LMDB: there is no data\.mdb in it", tmp_path)
    for name, content in (("junk", b"junk" * 5000), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.mdb").write_bytes(content)
    refused("cannot be read as an LMDB: .*not an LMDB file", tmp_path / "junk")
    refused(r"cannot be read as an LMDB: data\.mdb has no content", tmp_path / "empty")
    lmdb.open(str(tmp_path / "bare")).close()
    refused("bare is empty", tmp_path / "bare")
    write_lsun(tmp_path / "cut", 20)
    whole = (tmp_path / "cut" / "data.mdb").read_bytes()
    (tmp_path / "cut" / "data.mdb").write_bytes(whole[:-4096])
    refused(rf"is truncated: data\.mdb has {len(whole) - 4096} of {len(whole)} bytes", tmp_path / "cut")
    for name, key, value, message in (
        ("text", b"key", b"no image", "none of 1 entries looked at in .*text can be read; the first is key: cannot"),
        ("numbers", b"\1\0\0\0", encoded(pixels(0)), "has keys that end in a zero byte"),
    ):
        with lmdb.open(str(tmp_path / name)) as environment, environment.begin(write=True) as transaction:
            transaction.put(key, value)
        refused(message, tmp_path / name)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    refused(r'needs the package lmdb: pip install "apd-train\[lsun\]"', tmp_path / "text")


def test_listing_reports_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for k in range(20_001):
            transaction.put(b"%06d" % k, b"")
        transaction.put(b"000000", encoded(pixels(0)))
    seen: list[tuple[int, int]] = []
    images = ImageLmdb(tmp_path / "db", in_memory=False).load(8, lambda done, total: seen.append((done, total)))
    assert len(images) == 20_001
    assert seen == [(10_000, 20_001), (20_000, 20_001)]
