"""Images that are read when needed: the same as in memory, what is held out, and what stands in for a broken one."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from apd_train._data import (
    DataError,
    ImageFolder,
    ImageSet,
    ImageZip,
    _image_set as image_set_module,
    _reading as reading,
    hold_out,
)
from apd_train._data._decode import decode
from apd_train._data._lazy import UnreadableError
from image_files import as_pixels, encoded, pixels, write_folder, write_zip

SYNSETS = ["n01440764/n01440764_10026.JPEG", "n01440764/n01440764_9.JPEG", "n01443537/n01443537_2.JPEG"]


def imagenet(root: Path) -> ImageSet:
    write_folder(root, SYNSETS)
    return ImageFolder(root, in_memory=False).load(8)


def test_imagenets_folders_are_classes_and_jpegs_are_found(tmp_path: Path) -> None:
    images = imagenet(tmp_path)
    assert images.class_names == ("n01440764", "n01443537")
    assert images.labels.tolist() == [0, 0, 1]
    assert [images.images.name(i) for i in range(3)] == SYNSETS  # pyrefly: ignore [missing-attribute]


def test_lazy_and_in_memory_are_the_same_images(tmp_path: Path) -> None:
    write_folder(tmp_path, ["b c/x.png", "b/y.png", "a/deep/z.png"])
    (tmp_path / "a" / "wide.png").write_bytes(encoded(pixels(7, 20, 30, 3)))
    (tmp_path / "a" / "alpha.png").write_bytes(encoded(pixels(8, 9, 9, 4)))
    one, other = (ImageFolder(tmp_path, in_memory).load(8) for in_memory in (True, False))
    assert one.class_names == other.class_names == ("a", "b", "b c")
    assert torch.equal(one.labels, other.labels)
    for i in range(5):
        for place, flip in ((0.0, False), (0.7, True)):
            assert torch.equal(one.square(i, place, flip), other.square(i, place, flip))
    assert torch.equal(one.squares(), other.squares())
    order = [4, 0, 2]
    assert torch.equal(one.subset(order).squares([1, 2]), other.subset(order).squares([1, 2]))
    assert torch.equal(other.subset(order).labels, other.labels[order])
    assert torch.equal(other.subset(order).subset([2, 1]).squares(), one.squares([2, 0]))


def test_a_set_is_lazy_where_it_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    need = 2 * 3 * 8 * 8
    for limit, lazy in ((need, False), (need - 1, True)):
        monkeypatch.setattr(reading, "MEMORY_LIMIT", limit)
        assert isinstance(ImageFolder(tmp_path).load(8).images, list) is not lazy
    with pytest.raises(DataError, match="are held in memory: choose a smaller --size, fewer images, or"):
        ImageFolder(tmp_path, in_memory=True).load(8)


def test_grey_images_are_repeated_in_a_lazy_set(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(pixels(0, 8, 8)))
    images = ImageFolder(tmp_path, in_memory=False).load(8)
    assert images.channels == 3
    assert torch.equal(as_pixels(images.square(0)), torch.from_numpy(pixels(0, 8, 8)).expand(3, -1, -1))


def test_what_is_held_out_goes_by_name_and_not_by_where_the_folder_lies(tmp_path: Path) -> None:
    names = [f"a/{k}.png" for k in range(30)]
    held = []
    for place, order in (("one", names), ("other", names[::-1])):
        write_folder(tmp_path / place, order)  # other pixels under the same names
        training, held_out = hold_out(ImageFolder(tmp_path / place, in_memory=False).load(8), 7)
        assert (len(training), len(held_out)) == (23, 7)
        sides = [{s.images.name(i) for i in range(len(s))} for s in (training, held_out)]  # pyrefly: ignore
        assert sides[0] | sides[1] == set(names)
        held.append(sides[1])
    by_digest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert held[0] == held[1] == set(by_digest[:7])
    with pytest.raises(DataError, match=r"30 images \(30 different\) are too few"):
        hold_out(ImageFolder(tmp_path / "one", in_memory=False).load(8), 30)


BROKEN = {"zero bytes": b"", "no image": b"text", "truncated": encoded(pixels(0, 64, 64, 3))[:400]}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_the_next_readable_image_of_the_class_stands_in(tmp_path: Path, content: bytes) -> None:
    names = ["a/0.png", "b/1.png", "b/2.png", "a/3.png", "b/4.png"]  # sorted: a0 a3 b1 b2 b4
    written = write_folder(tmp_path, names)
    images = ImageFolder(tmp_path, in_memory=False).load(8)
    for broken in ("b/2.png", "b/4.png", "a/3.png"):
        (tmp_path / broken).write_bytes(content)
    told: list[str] = []
    square = lambda i: as_pixels(images.square(i, on_unreadable=told.append))
    assert torch.equal(square(3), written[1])  # over b/4 and round to b/1
    assert [line.split(":")[0] for line in told] == ["b/2.png", "b/4.png"]
    assert all(len(line) > 9 and "\n" not in line and str(tmp_path) not in line for line in told)
    assert torch.equal(square(1), written[0])  # not b/1, which follows
    assert len(told) == 3
    assert torch.equal(square(2), written[1])
    assert len(told) == 3


def test_what_stands_in_is_of_the_same_side_of_the_split(tmp_path: Path) -> None:
    written = write_folder(tmp_path, [f"{k}.png" for k in range(4)])
    images = ImageFolder(tmp_path, in_memory=False).load(8).subset([0, 3])
    (tmp_path / "0.png").unlink()
    with pytest.warns(UserWarning, match=r"^0\.png: .*No such file.*; the next readable image of its class stands in$"):
        assert torch.equal(as_pixels(images.square(0)), written[3])


def test_a_class_that_cannot_be_read_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'ab'[k % 2]}/{k}.png" for k in range(10)]
    write_folder(tmp_path, names)
    images = ImageFolder(tmp_path, in_memory=False).load(8)
    for name in names[:8:2]:
        (tmp_path / name).write_bytes(b"")
    told: list[str] = []
    images.square(0, on_unreadable=told.append)
    assert len(told) == 4
    monkeypatch.setattr(image_set_module, "PATIENCE", 4)
    with pytest.raises(DataError, match=r"^a/0\.png and the images of its class that follow it cannot be read"):
        images.square(0, on_unreadable=told.append)
    assert len(told) == 8


def test_a_lazy_set_without_a_readable_image_is_refused_at_once(tmp_path: Path) -> None:
    for k in range(20):
        (tmp_path / f"{k:02}.png").write_bytes(b"junk")
    with pytest.raises(
        DataError, match=r"none of 16 entries looked at in .* can be read; the first is 00\.png: cannot"
    ):
        ImageFolder(tmp_path, in_memory=False).load(8)


ENTRIES = {name: encoded(pixels(k)) for k, name in enumerate(["b/1.png", "a/2.PNG", "a/sub/3.webp"])}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_folders_of_a_zip_are_classes(tmp_path: Path, method: int) -> None:
    hidden = {"__MACOSX/a/._2.png": b"x", "a/.x.png": b"x", "notes.txt": b"x"}
    file = write_zip(tmp_path / "x.zip", {**ENTRIES, **hidden}, method=method)
    for in_memory in (True, False):
        images = ImageZip(file, in_memory).load(8)
        assert images.class_names == ("a", "b")
        assert images.labels.tolist() == [0, 0, 1]
        for i, k in enumerate((1, 2, 0)):
            assert torch.equal(as_pixels(images.square(i)), torch.from_numpy(pixels(k)).permute(2, 0, 1))


def test_a_folder_inside_a_zip(tmp_path: Path) -> None:
    entries = {f"data/{split}/{name}": content for split in ("train", "test") for name, content in ENTRIES.items()}
    images = ImageZip(write_zip(tmp_path / "x.zip", entries), folder="data/train/").load(8)
    assert (len(images), images.class_names) == (3, ("a", "b"))
    with pytest.raises(DataError, match=r"no images in .*x\.zip/data/val: expected"):
        ImageZip(tmp_path / "x.zip", folder="data/val").load(8)


def test_a_zip_of_one_folder_is_that_folder(tmp_path: Path) -> None:
    """As ``zip -r set.zip set`` makes it."""
    images = ImageZip(write_zip(tmp_path / "x.zip", {f"set/{name}": each for name, each in ENTRIES.items()})).load(8)
    assert (len(images), images.class_names, images.labels.tolist()) == (3, ("a", "b"), [0, 0, 1])
    labelled = {f"set/0000{k}/img{k}.png": encoded(pixels(k)) for k in range(3)}
    said = json.dumps({"labels": [[name.removeprefix("set/"), 2 - k] for k, name in enumerate(labelled)]}).encode()
    images = ImageZip(write_zip(tmp_path / "y.zip", {**labelled, "set/dataset.json": said})).load(8)
    assert images.labels.tolist() == [2, 1, 0]
    one_class = {name.replace("b/", "a/"): content for name, content in ENTRIES.items()}
    assert ImageZip(write_zip(tmp_path / "z.zip", one_class)).load(8).class_names == ("a",)


def test_names_of_a_zip_that_windows_made(tmp_path: Path) -> None:
    entries = {name.replace("/", "\\"): content for name, content in ENTRIES.items()}
    images = ImageZip(write_zip(tmp_path / "x.zip", entries), in_memory=False).load(8)
    assert (len(images), images.class_names, images.labels.tolist()) == (3, ("a", "b"), [0, 0, 1])
    assert torch.equal(as_pixels(images.square(2)), torch.from_numpy(pixels(0)).permute(2, 0, 1))


def test_a_name_of_a_zip_that_is_no_utf8(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "x.zip", {"a/é.png": encoded(pixels(0))})
    file.write_bytes(file.read_bytes().replace("é".encode(), b"\xe9\xe9"))
    with pytest.raises(DataError, match="is not a zip file, or a damaged one"):
        ImageZip(file).load(8)


def test_labels_of_a_zip_by_dataset_json(tmp_path: Path) -> None:
    entries = {f"0000{k}/img{k}.png": encoded(pixels(k)) for k in range(3)}
    labels = [[name, label] for name, label in zip(entries, (2, 0, 2), strict=True)]
    images = ImageZip(write_zip(tmp_path / "a.zip", entries, {"labels": labels}), in_memory=False).load(8)
    assert images.labels.tolist() == [2, 0, 2]
    assert images.class_names == ("0", "1", "2")
    bare = ImageZip(write_zip(tmp_path / "b.zip", entries, {"labels": None})).load(8)
    assert bare.class_names == ()
    for said, message in (
        ({}, "has no labels"),
        ({"labels": labels[:2]}, r"has no label for 00002/img2\.png"),
        ({"labels": [3, 4]}, "not pairs"),
        ({"labels": [[name, [0.0, 1.0]] for name in entries]}, r"a class number from 0 on, not \[0\.0, 1\.0\]"),
        ({"labels": [[name, -1] for name in entries]}, "a class number from 0 on, not -1"),
    ):
        with pytest.raises(DataError, match=message):
            ImageZip(write_zip(tmp_path / "c.zip", entries, said)).load(8)


def test_a_damaged_zip_is_found_out_where_it_is_damaged(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "x.zip", ENTRIES)
    whole = file.read_bytes()
    images = ImageZip(file, in_memory=False).load(8)
    for at, message in ((whole.index(ENTRIES["a/2.PNG"]) + 60, "checksum"), (whole.index(b"a/2.PNG") - 30, "no entry")):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        told: list[str] = []
        images.square(0, on_unreadable=told.append)
        assert len(told) == 1
        assert told[0].startswith("a/2.PNG: the zip file is damaged: ")
        assert message in told[0]
    file.write_bytes(whole[:60])
    with pytest.raises(DataError, match="cannot be read: is the data damaged"):
        images.square(2, on_unreadable=told.append)


def test_zips_that_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        ImageZip(tmp_path / "nowhere.zip").load(8)
    with pytest.raises(DataError, match="is not a zip file, or a damaged one"):
        ImageZip(tmp_path).load(8)
    (tmp_path / "x.zip").write_bytes(b"PK junk")
    with pytest.raises(DataError, match="is not a zip file, or a damaged one"):
        ImageZip(tmp_path / "x.zip").load(8)
    with pytest.raises(DataError, match="no images in"):
        ImageZip(write_zip(tmp_path / "x.zip", {"a.txt": b""})).load(8)
    with pytest.raises(DataError, match=r"none of the 1 images in .* can be read; the first is a\.png"):
        ImageZip(write_zip(tmp_path / "x.zip", {"a.png": b"junk"})).load(8)
    with pytest.raises(DataError, match="both classes"):
        ImageZip(write_zip(tmp_path / "x.zip", {"a.png": b"", "b/c.png": b""})).load(8)
    with pytest.raises(DataError, match=r"compressed in an unusual way, such as a\.png: zip the images anew"):
        ImageZip(write_zip(tmp_path / "x.zip", {"a.png": b""}, method=zipfile.ZIP_BZIP2)).load(8)
    with pytest.raises(DataError, match=r"dataset\.json of .* cannot be read"):
        ImageZip(write_zip(tmp_path / "x.zip", {**ENTRIES, "dataset.json": b"{"})).load(8)


def test_a_million_names_are_small(tmp_path: Path) -> None:
    """Names are kept as one array: processes that are forked share it, and it is not a list of a million objects."""
    write_folder(tmp_path, ["a/x.png"])
    images = ImageFolder(tmp_path, in_memory=False).load(8)
    names = images.images.store.names  # pyrefly: ignore [missing-attribute]
    assert isinstance(names, np.ndarray)
    assert names.dtype == "S7"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_damaged_bytes_are_an_image_or_a_reason(kind: str) -> None:
    """Whatever a decoder raises, one line comes of it."""
    random, whole = np.random.default_rng(0), encoded(pixels(0, 16, 16, 3), kind)
    reasons = []
    for _ in range(80):
        damaged = bytearray(whole)
        damaged[random.integers(len(damaged) if random.random() < 0.5 else 60)] ^= 1 << random.integers(8)
        try:
            assert decode(bytes(damaged[: None if random.random() < 0.8 else random.integers(len(whole))]), 8).shape[1:]
        except UnreadableError as error:
            reasons.append(str(error))
    assert len(reasons) > 10
    assert all(reason and "\n" not in reason for reason in reasons)


def test_a_zip_of_a_newer_format_is_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("cat/0.png", b"")
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\1\2") + 6] = 99  # version needed to extract, of the directory's one entry
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip is in a way that cannot be read: zip file version 9\.9: zip"):
        ImageZip(file).load(8)
