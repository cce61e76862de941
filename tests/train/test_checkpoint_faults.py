"""Checkpoints that were damaged, could not be written, or were being written when the process ended."""

import errno
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp

from apd_train import _checkpoint
from apd_train._checkpoint import CheckpointError, Checkpoints
from apd_train._files import digest
from apd_train._manifest import DamagedError, Manifest, read_manifest, write_manifest
from apd_train._shards import write_tensors
from small_disks import small_disk

SHARD = "shard-00001-model-00001-of-00001.safetensors"


def tensors_of(step: int) -> dict[str, Tensor]:
    return {"model/a": torch.full((3, 5), float(step)), "model/b": torch.tensor(float(step))}


def two(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, tensors_of(step), {"step": step})
    return checkpoints


def assert_holds(checkpoints: Checkpoints, *steps: int) -> list[str]:
    """The newest is one of these steps and loads as it was saved; says what was passed over."""
    said: list[str] = []
    found = checkpoints.newest(said.append)
    assert found
    assert found.step in steps
    tensors = tensors_of(0)
    checkpoints.load(found, tensors)
    for name, tensor in tensors_of(found.facts["step"]).items():
        assert torch.equal(tensors[name], tensor), name
    return said


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(place: int) -> Callable[[Path], None]:
    def act(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[place] ^= 1
        file.write_bytes(data)

    return act


def holding(data: bytes) -> Callable[[Path], None]:
    def act(file: Path) -> None:
        file.write_bytes(data)

    return act


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (SHARD, cut, rf"{SHARD} has \d+ bytes instead of \d+"),
        (SHARD, lambda file: os.truncate(file, 0), rf"{SHARD} has 0 bytes instead of \d+"),
        (SHARD, flip(3), f"{SHARD} is damaged: its digest differs"),
        (SHARD, flip(-1), f"{SHARD} is damaged: its digest differs"),
        (SHARD, Path.unlink, f"{SHARD} is missing"),
        ("manifest.json", Path.unlink, r"manifest\.json is missing"),
        ("manifest.json", lambda file: os.truncate(file, 100), r"manifest\.json is damaged: it is not a manifest"),
        ("manifest.json", holding(b""), r"manifest\.json is damaged: it is not a manifest"),
        ("manifest.json", holding(b"\xff\xfe"), r"manifest\.json is damaged: it is not a manifest"),
        ("manifest.json", holding(b"[]"), r"manifest\.json is damaged: it is not a manifest"),
        ("manifest.json", holding(b"[" * 100_000), r"manifest\.json is damaged: it is not a manifest"),
        ("extra.safetensors", holding(b"1"), r"extra\.safetensors does not belong to it"),
    ],
)
def test_a_damaged_one_is_passed_over_and_named(
    tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    checkpoints = two(tmp_path)
    path = checkpoints.folder / "step-00000002"
    damage(path / name)
    (said,) = assert_holds(checkpoints, 1)
    assert re.fullmatch(f"{path} is passed over: {message}", said)


def test_nothing_is_left_where_all_are_damaged(tmp_path: Path) -> None:
    checkpoints = two(tmp_path)
    for path in checkpoints.folder.glob("step-*"):
        cut(path / SHARD)
    said: list[str] = []
    assert checkpoints.newest(said.append) is None
    assert len(said) == 2


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(tmp_path: Path) -> None:
    """It is told, or it changes nothing (a space that becomes a line feed)."""
    write_manifest(tmp_path, Manifest(12, {"ema_steps": 12, "loss": 0.125}, {"a": 3}, {"a": "0123456789abcdef"}))
    file, whole = tmp_path / "manifest.json", read_manifest(tmp_path)
    data = file.read_bytes()
    told = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            assert read_manifest(tmp_path) == whole
        except DamagedError:
            told += 1
    assert told > 0.9 * len(data)


@pytest.mark.parametrize(
    ("latest", "message"),
    [
        (None, "is missing"),
        (b"step-00000009\n", "names 'step-00000009', which is not there"),
        (b"", "names '', which is not there"),
        (b"\xff\x00", r"names '.*', which is not there"),
    ],
)
def test_latest_is_not_needed(tmp_path: Path, latest: bytes | None, message: str) -> None:
    checkpoints = two(tmp_path)
    file = checkpoints.folder / "LATEST"
    file.unlink()
    if latest is not None:
        file.write_bytes(latest)
    (said,) = assert_holds(checkpoints, 2)
    assert re.fullmatch(f"{file} {message}: looking at all checkpoints", said)


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    checkpoints, sign = two(tmp_path), tmp_path / "unpickled"
    path = checkpoints.folder / "step-00000002"
    for name in (".metadata", "__0_0.distcp", "rng.pt"):
        (path / name).write_bytes(pickle.dumps(Evil(sign)))
    assert assert_holds(checkpoints, 2) == []
    assert not sign.exists()


def test_a_pickle_in_place_of_the_tensors_is_refused(tmp_path: Path) -> None:
    checkpoints, sign = two(tmp_path), tmp_path / "unpickled"
    path = checkpoints.folder / "step-00000002"
    shard = path / SHARD
    shard.write_bytes(pickle.dumps(Evil(sign)))
    forged = Manifest(2, {"step": 2}, {SHARD: shard.stat().st_size}, {SHARD: digest(shard)})
    write_manifest(path, forged)
    found = checkpoints.newest(pytest.fail)
    assert found
    assert found.path == path
    with pytest.raises(CheckpointError, match=f"^{path} cannot be read: .*header"):
        checkpoints.load(found, tensors_of(0))
    assert not sign.exists()
    pickle.loads(shard.read_bytes())
    assert sign.exists()  # it would have worked


def refused(checkpoints: Checkpoints, message: str) -> None:
    """Step 3 cannot be written; steps 1 and 2 are as they were and nothing else is there."""
    line = f"the checkpoint of step 3 cannot be written to {checkpoints.folder / 'step-00000003'}: {message}"
    with pytest.raises(CheckpointError) as failure:
        checkpoints.save(3, {"model/a": torch.zeros(200, 100), "model/b": torch.tensor(3.0)}, {"step": 3})
    assert re.fullmatch(line, str(failure.value))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["LATEST", "step-00000001", "step-00000002"]
    assert assert_holds(checkpoints, 2) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kilobytes."""
    with small_disk(tmp_path / "disk", "64k") as place:
        yield place


def test_a_full_disk(disk: Path) -> None:
    checkpoints = two(disk)
    refused(checkpoints, "No space left on device.*")
    assert checkpoints.save(3, tensors_of(3), {"step": 3}) == checkpoints.newest(pytest.fail)


def test_a_limit_on_files(tmp_path: Path) -> None:
    """The system itself refuses to write on, in the middle of a file; needs no rights."""
    resource = pytest.importorskip("resource")
    checkpoints = two(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        refused(checkpoints, "File too large.*")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_permission() -> None:
    """Root gives up its rights for the test."""
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        checkpoints = two(Path(place))
        os.seteuid(65534)
        try:
            refused(checkpoints, f"Permission denied: {checkpoints.folder / 'step-00000003.tmp'}")
        finally:
            os.seteuid(0)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"step 1 cannot be written to .*: File exists: .*checkpoints$"):
        checkpoints.save(1, tensors_of(1), {})
    with pytest.raises(CheckpointError, match=r"checkpoints in .* cannot be read: Not a directory"):
        checkpoints.newest()


def test_a_write_that_only_claims_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = two(tmp_path)

    def claims(folder: Path, tensors: dict[str, Tensor]) -> None:
        write_tensors(folder, {"model/a": tensors["model/a"]})

    monkeypatch.setattr(_checkpoint, "write_tensors", claims)
    refused(checkpoints, "what was written is not there: it holds no model/b")
    monkeypatch.setattr(_checkpoint, "write_tensors", lambda folder, tensors: None)
    refused(checkpoints, "what was written is not there: it holds no model/a")


def test_a_rename_that_only_claims_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = two(tmp_path)
    monkeypatch.setattr(_checkpoint, "rename_folder", lambda folder, name: folder.with_name(name))
    refused(checkpoints, r"manifest\.json is missing")


def test_an_interrupt_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's checkpoints would wrap it."""

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dcp.HuggingFaceStorageWriter, "write_data", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(tmp_path).save(1, tensors_of(1), {})


def test_what_is_flushed_before_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is on the disk before the step has its name, and the name before ``LATEST`` says it."""
    checkpoints = two(tmp_path)
    events: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def name(path: Any) -> str:
        return Path(path).name

    def flushed(descriptor: int) -> None:
        events.append(f"flush {name(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        events.append(f"{name(source)} to {name(target)}")
        rename(source, target)

    def replaced(source: Any, target: Any) -> None:
        events.append(f"{name(source)} to {name(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "replace", replaced)
    checkpoints.save(3, tensors_of(3), {"step": 3})
    assert events == [
        f"flush {tmp_path.name}",
        f"flush {SHARD}",
        "flush manifest.json.tmp",
        "manifest.json.tmp to manifest.json",
        "flush step-00000003.tmp",
        "step-00000003.tmp to step-00000003",
        "flush checkpoints",
        "flush LATEST.tmp",
        "LATEST.tmp to LATEST",
        "flush checkpoints",
        "step-00000001 to step-00000001.tmp",
        "flush checkpoints",
    ]


class PowerCut(BaseException):
    """The machine is off."""


class Machine:
    """Fails at the n-th change to the file system from now, or at each after the n-th.

    Args:
        ends: the process ends there: nothing that it does later comes to pass, and of files that were written to and
            not flushed, half is lost. Otherwise one call fails, and the process goes on.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, number: int, ends: bool) -> None:
        self.folder, self.number, self.ends = folder, number, ends
        self.count = 0
        self.flushed: dict[int, tuple[int, int]] = {}
        for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, self.watched(getattr(os, name)))

    @property
    def struck(self) -> bool:
        return self.count > self.number

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            first = self.count == self.number
            self.count += 1
            if first and not self.ends:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if first:
                self.lose()
            if self.ends and self.struck:
                raise PowerCut
            result = call(*args, **options)
            if call.__name__ == "fsync":
                state = os.fstat(args[0])
                self.flushed[state.st_ino] = (state.st_size, state.st_mtime_ns)
            return result

        return act

    def lose(self) -> None:
        for file in self.folder.rglob("*"):
            state = file.stat()
            if file.is_file() and self.flushed.get(state.st_ino) != (state.st_size, state.st_mtime_ns):
                os.truncate(file, state.st_size // 2)

    def note(self) -> None:
        """What is there at the start is on the disk."""
        for file in self.folder.rglob("*"):
            state = file.stat()
            self.flushed[state.st_ino] = (state.st_size, state.st_mtime_ns)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("step", [2, 3])
def test_cut_off_anywhere(tmp_path: Path, step: int, ends: bool) -> None:
    """Step 3 follows step 2, or step 2 is written again, the only one that is kept: at every moment there is one."""
    saves = 0
    for number in range(1000):
        checkpoints = Checkpoints(tmp_path / str(number), keep_last=1)
        checkpoints.save(2, tensors_of(2), {"step": 2})
        finished = False
        with pytest.MonkeyPatch.context() as patch:
            machine = Machine(checkpoints.folder, patch, number, ends)
            machine.note()
            try:
                checkpoints.save(step, tensors_of(step + 10), {"step": step + 10})
                finished = True
            except (PowerCut, CheckpointError):
                pass
        said = assert_holds(checkpoints, 2, 3)
        assert all("LATEST" in line for line in said), said  # a folder of that name is complete
        if not ends:
            assert not (checkpoints.folder / f"step-{step:08d}.tmp").exists()
        saves += 1
        checkpoints.save(4, tensors_of(4), {"step": 4})
        assert assert_holds(checkpoints, 4) == []
        assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["LATEST", "step-00000004"]
        if finished and not machine.struck:
            break
        shutil.rmtree(checkpoints.folder)
    assert 15 < saves < 100
