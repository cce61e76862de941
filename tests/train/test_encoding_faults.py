"""Sets of latents: encoded whatever happens; damaged ones are found out."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from apd_models import identity
from apd_train import (
    DataError,
    ImageFolder,
    ImageSet,
    RunFolder,
    ToEncode,
    encode_set,
    load_set_images,
    load_to_encode,
    source_of,
    verify_set,
)
from apd_train._encoding import _set
from image_files import encoded, pixels
from latent_sets import BROKEN, assert_same_set, made, tiny_codec, write_images


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return write_images(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def whole(raw: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(raw, tmp_path_factory.mktemp("whole") / "set")


# ------------------------------------------------------------------------------------------------ whatever happens


def in_a_child(act: Callable[[], None]) -> int:
    """What a process of its own ends with."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            torch.set_num_threads(1)
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dying_at(number: int) -> None:
    """SIGKILL for this process just before its n-th change to the file system."""
    count = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            nonlocal count
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return call(*args, **options)

        return act

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, watched(getattr(os, name)))


@pytest.mark.parametrize(("part", "every"), [((0, 1), 4), ((1, 2), 4), pytest.param((0, 1), 1, marks=pytest.mark.slow)])
def test_killed_before_changes_to_the_file_system(
    raw: ImageSet, tmp_path: Path, part: tuple[int, int], every: int
) -> None:
    """`kill -9` at one after the other: what goes on makes the same set, and what is half done is not taken for one."""
    raw = raw.subset(range(6))
    wanted = {"codec": identity(3), "shard": 2, "dtype": "float16"}
    whole = made(raw, tmp_path / "whole", **wanted)
    number, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        out = tmp_path / f"{number}"
        if part != (0, 1):
            made(raw, out, part=(0, 2), **wanted)

        def act(out: Path = out, number: int = number) -> None:
            dying_at(number)
            made(raw, out, part=part, resume=True, **wanted)

        status = in_a_child(act)
        if (out / "latents.json").exists():
            source_of(out).load(8)
        elif (out / "encoding.json").exists():
            with pytest.raises(DataError, match="is a set of latents that is still being made"):
                source_of(out).load(8)
        made(raw, out, part=part, resume=True, **wanted)
        assert_same_set(out, whole)
        number += every
    assert status == 0
    assert number > (20 if part == (0, 1) else 8)


def test_killed_while_processes_read_ahead(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    """They outlive it by a while, and do not hold the folder."""
    out = tmp_path / "set"

    def act() -> None:
        write, calls = _set.write_shard, []

        def write_one(*args: Any) -> None:
            calls.append(args)
            write(*args)
            if len(calls) == 2:  # which is aside, not yet in its place
                os.kill(os.getpid(), signal.SIGKILL)

        _set.write_shard = write_one  # pyrefly: ignore
        made(raw, out, workers=2)

    assert in_a_child(act) == -signal.SIGKILL
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["latents-00000.safetensors"]
    kept = (out / "latents-00000.safetensors").stat().st_mtime_ns
    made(raw, out, resume=True)
    assert (out / "latents-00000.safetensors").stat().st_mtime_ns == kept
    assert_same_set(out, whole)


def test_files_are_written_aside_and_moved(
    raw: ImageSet, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By processes that end in the midst of it nothing is left in a set."""
    out, write, written = tmp_path / "set", _set.write_shard, {}

    def noted(file: Path, *args: Any) -> None:
        write(file, *args)
        written[file.name] = file.stat().st_ino

    monkeypatch.setattr(_set, "write_shard", noted)
    for name in (".part-0-of-1", ".part-0-of-7"):
        (out / name / "codec").mkdir(parents=True)
        (out / name / "codec" / "of another autoencoder").touch()
    made(raw, out)
    assert written == {file.name: file.stat().st_ino for file in out.glob("*.safetensors")}
    assert not (out / "codec" / "of another autoencoder").exists()
    assert_same_set(out, whole)


def test_a_set_in_parts_is_the_same(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    """Whichever ends last completes it; none makes what is there already; one part is made by one process at a time."""
    out, progress = tmp_path / "set", []
    wanted = ToEncode(raw, tiny_codec(), dtype="float32", shard=4)
    first = encode_set(wanted, out, 3, part=(2, 3), on_batch=lambda *said: progress.append(said))
    assert (first.images, first.missing, first.record) == (
        2,
        ("latents-00000.safetensors", "latents-00001.safetensors"),
        None,
    )
    assert progress == [(2, 2)]
    made(raw, out, part=(0, 3))

    def again(*_: int) -> None:
        with pytest.raises(DataError, match=r"part 1/3 of this set cannot be begun: .* is in use by another process"):
            made(raw, out, part=(1, 3))
        made(raw, out, part=(0, 3))  # another has nothing to do, and does no harm

    with RunFolder(out / ".part-2-of-3").held():  # by one that is about to end
        last = encode_set(wanted, out, 3, part=(1, 3), on_batch=again)
        assert (out / ".part-2-of-3").exists()
    (out / ".part-2-of-3").rmdir()
    assert last.images == 3
    assert last.record is not None
    assert_same_set(out, whole)
    done = encode_set(wanted, out, 3, part=(0, 1), resume=True)
    assert (done.images, done.record) == (0, last.record)
    assert_same_set(out, whole)


def test_processes_that_read_ahead_change_nothing(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert_same_set(made(raw, tmp_path / "set", workers=2, on_problem=said.append), whole)
    assert said == ["left out a/004.png: cannot identify image file"]


def test_a_shard_of_unreadable_images_is_empty(raw: ImageSet, tmp_path: Path) -> None:
    folder = made(raw, tmp_path / "set", shard=1)
    assert load_file(folder / f"latents-0000{BROKEN}.safetensors")["moments"].shape == (0, 4, 4, 4)
    images = source_of(folder).load(4)
    assert (len(images), images.square(4).shape) == (9, (2, 4, 4))
    made(raw, folder, shard=1, resume=True)
    with pytest.raises(DataError, match="none of the images can be read"):
        made(raw.subset([BROKEN]), tmp_path / "none")


def test_a_set_is_replaced_only_on_request(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    out = made(raw, tmp_path / "set", shard=1, codec=tiny_codec(1))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="already holds a set of latents: pass --resume to go on with it, --overwrite"):
        made(raw, out)
    made(raw, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    assert_same_set(out, whole)
    other = RunFolder(out / ".part-0-of-2")
    with other.held(), pytest.raises(DataError, match="cannot be overwritten: another process is making a part of it"):
        made(raw, out, overwrite=True)
    source_of(out).load(4)


# ---------------------------------------------------------------------------------------------- what is damaged


def damaged(whole: Path, folder: Path, name: str, by: Callable[[Path], object]) -> Path:
    """A copy of the set in which something has been done to a file."""
    copy = folder / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    by(copy / name)
    return copy


SHARD = "latents-00001.safetensors"


def rewrite(tensors: Callable[[dict[str, Tensor]], object], **metadata: str) -> Callable[[Path], None]:
    def by(file: Path) -> None:
        with safe_open(file, "pt") as opened:
            said = opened.metadata()
        found = load_file(file)
        tensors(found)
        save_file(found, file, {**said, **metadata})

    return by


def say(**values: Any) -> Callable[[Path], None]:
    def by(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return by


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 5)


@pytest.mark.parametrize(
    ("said", "name", "by"),
    [
        ("is a set of latents that is still being made", "latents.json", Path.unlink),
        (r"latents-00001.safetensors is missing: copy the set again, or remove", SHARD, Path.unlink),
        (r"latents-00001.safetensors has \d+ of \d+ bytes: copy", SHARD, cut_off),
        ("is of another autoencoder than .*latents.json says", SHARD, rewrite(len, codec="x" * 64)),
        ("latents.json is not of a set of latents", "latents.json", say(version=2)),
        ("latents.json does not say what apps/encode writes there: KeyError", "latents.json", say(shards=[{}])),
        ("latents.json does not say what apps/encode writes there: ValueError", "latents.json", say(std=[0, 0])),
        ("latents.json cannot be read: Expecting", "latents.json", cut_off),
        ("latents.json cannot be read: ", "latents.json", lambda file: file.write_bytes(b"\xff")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_damaged_is_not_trained_on(
    whole: Path, tmp_path: Path, said: str, name: str, by: Callable[[Path], object]
) -> None:
    copy = damaged(whole, tmp_path, name, by)
    with pytest.raises(DataError, match=said) as caught:
        source_of(copy).load(4)
    assert "\n" not in str(caught.value)


def test_the_size_of_latents_is_not_that_of_images(whole: Path) -> None:
    with pytest.raises(DataError, match=r"are 4 a side, of images of 8 pixels: take size 4, not 8"):
        source_of(whole).load(8)


def test_a_set_without_its_autoencoder_can_be_trained_on(whole: Path, tmp_path: Path) -> None:
    images = source_of(damaged(whole, tmp_path, "codec", shutil.rmtree)).load(4)
    assert images.codec is None
    assert images.latents is not None
    assert images.latents.codec == tiny_codec().digest


# ------------------------------------------------------------------------------------------------------ verification


def test_a_set_that_is_sound(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify_set(whole, raw, on_shard=lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert verify_set(whole) == []
    assert verify_set(made(raw, tmp_path / "half", dtype="float16"), raw) == []
    assert verify_set(made(raw, tmp_path / "vq", tiny_codec(codes=5), mirror=False), raw) == []


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


FAULTS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "a bit": (f"{SHARD} is damaged: its contents are not what was written; remove .*{SHARD}", SHARD, flip_a_bit),
    "truncated": (f"{SHARD} is damaged: ", SHARD, cut_off),
    "missing": (f"{SHARD} is damaged: ", SHARD, Path.unlink),
    "of another encoding": (f"{SHARD} is of another encoding", SHARD, rewrite(len, encoding="0")),
    "twice": ("does not have each of the images 4 to 7 once", SHARD, rewrite(lambda t: t["index"].fill_(5))),
    "its spread": (
        "does not have the mean and spread that it says",
        SHARD,
        lambda file: file.write_bytes(re.sub(rb"(count[^0-9]*)\d", rb"\g<1>7", file.read_bytes())),
    ),
    "their mean": ("latents.json has another mean and std than the shards", "latents.json", say(mean=[0, 0])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_set_that_is_not(whole: Path, raw: ImageSet, tmp_path: Path, fault: str) -> None:
    """Each fault is named, and going on mends it."""
    said, name, by = FAULTS[fault]
    copy = damaged(whole, tmp_path, name, by)
    (found,) = verify_set(copy)
    assert re.search(said, found), found
    (copy / SHARD).unlink(missing_ok=True)
    made(raw, copy, resume=True)
    assert verify_set(copy) == []
    assert_same_set(copy, whole)


@pytest.mark.parametrize(("name", "half"), [("moments", 0), ("moments", 1), ("mirrored", 0)])
def test_images_that_are_encoded_otherwise_today(
    raw: ImageSet, tmp_path: Path, name: str, half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sound in itself, and yet not what the autoencoder makes."""
    encode = _set.encoded

    def off(*args: Any) -> dict[str, Tensor]:
        found = encode(*args)
        found[name][:, 2 * half : 2 * half + 2] += 0.1
        return found

    with monkeypatch.context() as patched:
        patched.setattr(_set, "encoded", off)
        folder = made(raw, tmp_path / "set")
    assert verify_set(folder) == []
    faults = verify_set(folder, raw)
    assert len(faults) == 3
    assert re.search(rf"the {name} of image 0 are not what they were, by 0\.\d+ of their deviation; remove", faults[0])


def test_sets_of_other_images_or_another_autoencoder(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not of these images: images is 10 there and 9 here"):
        verify_set(whole, raw.subset(range(9)))
    copy = damaged(whole, tmp_path, "codec", lambda folder: tiny_codec(1).save(folder))
    (fault,) = verify_set(copy)
    assert "codec is another autoencoder than it was" in fault
    with pytest.raises(DataError, match="still being made"):
        verify_set(damaged(whole, tmp_path, "latents.json", Path.unlink))
    with pytest.raises(DataError, match=r"encoding.json cannot be read"):
        verify_set(tmp_path)


def test_an_image_that_could_not_be_read_and_now_can(tmp_path: Path) -> None:
    raw = write_images(tmp_path / "raw", 8)  # each is encoded anew
    folder = made(raw, tmp_path / "set")
    (tmp_path / "raw" / "b" / "004.png").write_bytes(encoded(pixels(3)))
    (fault,) = verify_set(folder, raw)
    assert f"image {BROKEN} can be read, and was left out" in fault


def test_images_of_a_set_are_found_again(tmp_path: Path) -> None:
    write_images(tmp_path / "raw")
    folder = made(load_to_encode(ImageFolder(tmp_path / "raw"), 8), tmp_path / "set", source=str(tmp_path / "raw"))
    assert verify_set(folder, load_set_images(folder)) == []
    (tmp_path / "raw").rename(tmp_path / "moved")
    assert load_set_images(folder) is None
    assert verify_set(folder, load_set_images(folder, tmp_path / "moved")) == []
    with pytest.raises(DataError, match="does not exist"):
        load_set_images(folder, tmp_path / "raw")


def test_data_that_are_gone_are_no_unreadable_images(tmp_path: Path) -> None:
    write_images(tmp_path / "raw")
    images = load_to_encode(ImageFolder(tmp_path / "raw", in_memory=False), 8)
    for file in sorted((tmp_path / "raw" / "b").glob("*.png")):
        file.unlink()
    with pytest.raises(DataError, match=r"b/005\.png: .*is the data still there\? Go on by --resume"):
        made(images, tmp_path / "set")
    assert [file.name for file in (tmp_path / "set").glob("*.safetensors")] == ["latents-00000.safetensors"]


def test_too_many_unreadable_images_in_a_row_end_it(
    raw: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "raw"
    write_images(folder)
    images = load_to_encode(ImageFolder(folder, in_memory=False), 8)
    for file in sorted(folder.glob("*/*.png"))[4:]:
        file.write_bytes(b"no image")
    monkeypatch.setattr(_set, "PATIENCE", 3)
    with pytest.raises(DataError, match=r"in a row cannot be read, the last b/.*is the data still there"):
        made(images, tmp_path / "set", batch=1)
    assert not (tmp_path / "set" / "latents.json").exists()


def test_parts_begun_at_once_must_be_of_one_set(raw: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(raw, tmp_path / "set", part=(0, 2))
    monkeypatch.setattr(_set, "is_encoded", lambda folder: False)  # as it was a moment before
    made(raw, tmp_path / "set", part=(1, 2))
    with pytest.raises(DataError, match="is another set"):
        made(raw, tmp_path / "set", part=(1, 2), mirror=False)


def test_what_only_has_the_name_of_a_record_is_not_overwritten(raw: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "codec").mkdir()
    (tmp_path / "encoding.json").write_text('{"text": "utf-8"}')
    with pytest.raises(DataError, match="is not of a set of latents"):
        made(raw, tmp_path, overwrite=True)
    assert (tmp_path / "codec").exists()


def test_a_shard_of_another_set_is_not_trained_on(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "set")
    file = tmp_path / "set" / "latents-00000.safetensors"
    rewrite(lambda tensors: tensors, digest="0" * 32)(file)
    with pytest.raises(DataError, match=r"is not the file that .*latents\.json describes"):
        source_of(tmp_path / "set").load(4)


def test_a_set_that_notes_no_source_has_no_images(raw: ImageSet, whole: Path) -> None:
    assert load_set_images(whole) is None
