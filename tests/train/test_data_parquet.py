"""Parquet shards as Hugging Face's datasets write them, and what data is at a path."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from apd_train._data import (
    DataError,
    ImageArrays,
    ImageFolder,
    ImageLmdb,
    ImageParquet,
    ImageSet,
    ImageZip,
    Latents,
    _parquet as module,
    source_of,
)
from image_files import as_pixels, chw, encoded, pixels, write_folder, write_lsun, write_shard, write_zip

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["ant", "bee"]


def table(contents: list[bytes | None], labels: Any = None, names: Any = NAMES) -> pa.Table:
    """With the metadata of ``datasets``: features by column, class names among them."""
    rows = pa.array([{"bytes": content, "path": f"{k}.png"} for k, content in enumerate(contents)], IMAGE)
    columns: dict[str, Any] = {"image": rows}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
        features["label"] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    said = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": said})


def write(file: Path, *arguments: Any, group: int = 2, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(*arguments, **options), file, row_group_size=group)
    return file


def load(path: Path, **options: Any) -> ImageSet:
    module._opened.cache_clear()
    options.setdefault("in_memory", False)
    return ImageParquet(path, **options).load(8)


def shards(root: Path) -> list[Tensor]:
    """Five images in two shards, in row groups of two."""
    content = [encoded(pixels(k)) for k in range(5)]
    write(root / "data" / "train-00000-of-00002.parquet", content[:3], [1, 0, 1])
    write(root / "data" / "train-00001-of-00002.parquet", content[3:], [0, 0])
    return [chw(pixels(k)) for k in range(5)]


def test_shards_are_one_set_with_the_names_of_the_schema(tmp_path: Path) -> None:
    written = torch.stack(shards(tmp_path))
    for options in ({"in_memory": False}, {"in_memory": True}, {"split": "train"}):
        images = load(tmp_path, **options)
        assert images.class_names == ("ant", "bee")
        assert images.labels.tolist() == [1, 0, 1, 0, 0]
        assert torch.equal(as_pixels(images.squares()), written)
    images = load(tmp_path)
    assert torch.equal(as_pixels(images.subset([4, 2]).squares()), written[[4, 2]])
    assert [images.images.name(i) for i in (0, 2, 3)] == [  # pyrefly: ignore [missing-attribute]
        "data/train-00000-of-00002.parquet/0/0",
        "data/train-00000-of-00002.parquet/1/0",
        "data/train-00001-of-00002.parquet/0/0",
    ]
    assert len(load(tmp_path / "data" / "train-00001-of-00002.parquet")) == 2


def test_row_groups_are_read_when_needed_and_kept_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "x.parquet", [encoded(pixels(k)) for k in range(12)])
    images = load(file)
    module._group.cache_clear()
    read: list[int] = []
    of = pq.ParquetFile.read_row_group

    def watched(self: pq.ParquetFile, i: int, *rest: Any, **options: Any) -> pa.Table:
        read.append(i)
        return of(self, i, *rest, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    for i in (2, 3, 2, 9, 8, 0, 6, 3):
        images.square(i)
    assert read == [1, 4, 0, 3]
    images.square(11)
    images.square(8)
    assert read == [1, 4, 0, 3, 5, 4]  # of five groups, the one that was not asked for longest is gone


def test_labels_in_other_ways(tmp_path: Path) -> None:
    content = [encoded(pixels(k)) for k in range(3)]
    assert load(write(tmp_path / "x.parquet", content)).class_names == ()
    assert load(write(tmp_path / "x.parquet", content, [-1, -1, -1])).class_names == ()
    numbered = load(write(tmp_path / "x.parquet", content, [2, 0, 2], names=None))
    assert numbered.class_names == ("0", "1", "2")
    plain = pa.table({"img": pa.array(content, pa.large_binary()), "fine": pa.array([0, 1, 0], pa.uint8())})
    pq.write_table(plain, tmp_path / "x.parquet")
    images = load(tmp_path / "x.parquet", image="img", label="fine")
    assert images.labels.tolist() == [0, 1, 0]
    assert torch.equal(as_pixels(images.square(1)), chw(pixels(1)))


def test_entries_without_bytes_are_stood_in_for(tmp_path: Path) -> None:
    images, told = load(write(tmp_path / "x.parquet", [encoded(pixels(0)), None, b"junk"])), []
    assert torch.equal(as_pixels(images.square(1, on_unreadable=told.append)), chw(pixels(0)))
    assert told == [
        "x.parquet/0/1: there are no bytes, perhaps only the path of a file elsewhere",
        "x.parquet/1/0: cannot identify image file",
    ]


def test_a_row_group_that_cannot_be_read_is_stood_in_for(tmp_path: Path) -> None:
    content = [encoded(pixels(k)) for k in range(4)]
    file = write(tmp_path / "x.parquet", content)
    images, told = load(file), []
    whole = file.read_bytes()
    file.write_bytes(b"\xff" * 300 + whole[300:])
    module._group.cache_clear()
    module._opened.cache_clear()
    assert torch.equal(as_pixels(images.square(0, on_unreadable=told.append)), chw(pixels(2)))
    assert [line.split(": the row group cannot be read")[0] for line in told] == ["x.parquet/0/0", "x.parquet/0/1"]
    assert all("\n" not in line for line in told)


def test_parquet_that_cannot_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str, path: Path = tmp_path / "x.parquet", **options: Any) -> None:
        with pytest.raises(DataError, match=message) as caught:
            load(path, **options)
        assert "\n" not in str(caught.value)

    content = [encoded(pixels(k)) for k in range(3)]
    refused("does not exist", tmp_path / "nowhere")
    refused("no .parquet files in", tmp_path)
    write(tmp_path / "x.parquet", [b"junk"] * 3)
    refused(r"none of 3 entries looked at .* the first is x\.parquet/0/0: cannot identify")
    refused(r"has no column 'img'; it has image", image="img")
    write(tmp_path / "x.parquet", content, [0, -1, 1])
    refused("labels in .* run from -1 to 1")
    refused("the column 'label' of .* is int64: expected encoded images, as bytes", image="label")
    write(tmp_path / "x.parquet", content, [0, 2, 1])
    refused("labels in .* run from 0 to 2: classes are 0 to 1, by the names")
    write(tmp_path / "x.parquet", content, [0, None, 1])
    refused("the column 'label' of .* has class numbers, not None")
    write(tmp_path / "x.parquet", [])
    refused("has no rows")
    for content_of_file in (b"junk", b"", b"PAR1" * 9):
        (tmp_path / "x.parquet").write_bytes(content_of_file)
        refused("cannot be read as Parquet: ")
    (tmp_path / "x.parquet").unlink()
    shards(tmp_path)
    write(tmp_path / "data" / "test-00000-of-00001.parquet", content)
    refused("has the splits test, train: choose one", tmp_path)
    refused("has no split 'validation'; it has test, train", tmp_path, split="validation")
    assert len(load(tmp_path, split="test")) == 3
    write(tmp_path / "data" / "train-00001-of-00002.parquet", content)
    refused("some files of .* have no column 'label', and others have", tmp_path / "data", split="train")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(r'needs the package pyarrow: pip install "apd-train\[parquet\]"', tmp_path, split="test")


def test_a_path_says_what_data_it_is(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", ["a/x.png"])
    write_lsun(tmp_path / "lsun", 1)
    shards(tmp_path / "hub")
    (tmp_path / "latents").mkdir()
    latents = write_shard(tmp_path / "latents" / "0.safetensors", {"latents": torch.zeros(1, 1, 4, 4)})
    arrays = write_shard(tmp_path / "images.safetensors", {"images": torch.zeros(1, 4, 4, dtype=torch.uint8)})
    packed = write_zip(tmp_path / "x.ZIP", {"x.png": encoded(pixels(0))})
    (tmp_path / "x.npz").touch()
    for path, expected in (
        (tmp_path / "images", ImageFolder(tmp_path / "images")),
        (tmp_path / "lsun", ImageLmdb(tmp_path / "lsun")),
        (tmp_path / "lsun" / "data.mdb", ImageLmdb(tmp_path / "lsun")),
        (tmp_path / "hub", ImageParquet(tmp_path / "hub")),
        (tmp_path / "hub" / "data", ImageParquet(tmp_path / "hub" / "data")),
        (shard := tmp_path / "hub" / "data" / "train-00000-of-00002.parquet", ImageParquet(shard)),
        (tmp_path / "latents", Latents(tmp_path / "latents")),
        (latents, Latents(latents)),
        (arrays, ImageArrays(arrays)),
        (packed, ImageZip(packed)),
        (tmp_path / "x.npz", ImageArrays(tmp_path / "x.npz")),
    ):
        assert source_of(path) == expected
        assert source_of(os.fspath(path)) == expected
    with pytest.raises(DataError, match=r"nowhere\.zip does not exist"):
        source_of(tmp_path / "nowhere.zip")
    (tmp_path / "x.tar").touch()
    with pytest.raises(DataError, match=r"x\.tar is no data that can be read: expected a folder or \.zip of images"):
        source_of(tmp_path / "x.tar")
