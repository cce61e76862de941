"""References: what is written is read, streamed images, and files that are no references."""

import hashlib
import pickle
import random
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from apd_metrics import (
    Moments,
    ReferenceFileError,
    frechet_distance,
    moments,
    read_reference,
    reference_images,
    save_reference,
)

RECORD = {"extractor": "some", "sha256": "ab", "resize": "bicubic to 224", "dims": 6}


def drawn(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=Generator().manual_seed(seed))


def pixels(n: int, h: int, w: int, c: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def statistics(d: int) -> dict[str, Any]:
    of = moments(drawn(50, d))
    return {"mu": of.mean.numpy(), "sigma": of.covariance.numpy()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_in_order_in_batches(tmp_path: Path, save: Any, channels: int) -> None:
    images = pixels(10, 5, 7, channels)
    save(tmp_path / "reference.npz", arr_0=images, arr_1=np.arange(10))
    batches = list(reference_images(tmp_path / "reference.npz", 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    found = torch.cat(batches)
    assert (found.dtype, found.shape) == (torch.float32, (10, channels, 5, 7))
    assert (found.min(), found.max()) == (-1, 1)
    np.testing.assert_array_equal(((found + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(), images)
    read = read_reference(tmp_path / "reference.npz")
    assert (read.images, read.samples, read.taken_with) == (10, None, {})
    assert read.sha256 == hashlib.sha256((tmp_path / "reference.npz").read_bytes()).hexdigest()


def test_few_images_are_in_memory_at_a_time(tmp_path: Path) -> None:
    """Of 24 MB of images, in batches of 120 kB."""
    file = tmp_path / "reference.npz"
    np.savez(file, arr_0=np.zeros((2000, 64, 64, 3), np.uint8))
    tracemalloc.start()  # numpy and bytes, not torch
    count = sum(len(batch) for batch in reference_images(file, 10))
    read_reference(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2000
    assert peak < 4_000_000


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_adm(tmp_path: Path, dtype: type) -> None:
    written: dict[str, Any] = {name: array.astype(dtype) for name, array in statistics(6).items()}
    np.savez(tmp_path / "reference.npz", arr_0=pixels(3, 4, 4, 3), **written)
    read = read_reference(tmp_path / "reference.npz")
    assert isinstance(read.samples, Moments)
    assert (read.images, read.samples.n) == (3, None)
    assert read.samples.covariance.dtype == torch.float64
    x = drawn(40, 6, 1)
    expected = frechet_distance(x, moments(drawn(50, 6))).value
    assert frechet_distance(x, read.samples).value == pytest.approx(
        expected, rel=1e-5 if dtype == np.float32 else 1e-12
    )


@pytest.mark.parametrize("n", [50, None])
def test_our_files_come_back(tmp_path: Path, n: int | None) -> None:
    features, file = drawn(50, 6), tmp_path / "reference.safetensors"
    save_reference(file, features, RECORD)
    read = read_reference(file)
    assert isinstance(read.samples, Tensor)
    assert torch.equal(read.samples, features)
    assert (read.taken_with, read.images) == (RECORD, 0)
    of = Moments(moments(features).mean, moments(features).covariance, n)
    save_reference(file, of)  # replaces the other
    found = read_reference(file).samples
    assert isinstance(found, Moments)
    assert torch.equal(found.mean, of.mean)
    assert torch.equal(found.covariance, of.covariance)
    assert found.n == n
    assert [path.name for path in tmp_path.iterdir()] == ["reference.safetensors"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "reference.safetensors"
    save_reference(file, drawn(5, 2), RECORD)
    before = file.read_bytes()

    def fails(tensors: Mapping[str, Tensor], name: str, metadata: Mapping[str, str]) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("no space")

    monkeypatch.setattr("apd_metrics._reference.save_file", fails)
    with pytest.raises(OSError, match="no space"):
        save_reference(file, drawn(5, 2), RECORD)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_samples_of_another_extractor_are_refused(tmp_path: Path) -> None:
    save_reference(tmp_path / "a.safetensors", drawn(50, 6), RECORD)
    read = read_reference(tmp_path / "a.safetensors")
    read.require(RECORD)
    for key, value in (("extractor", "other"), ("sha256", "cd"), ("resize", "area to 224")):
        with pytest.raises(
            ReferenceFileError, match=f"was taken with {key} .* cannot be compared with {key} '{value}'"
        ):
            read.require(RECORD | {key: value})
    with pytest.raises(ReferenceFileError, match="of 6 dimensions; those of some have 7"):
        read.require(RECORD | {"dims": 7})
    np.savez(tmp_path / "b.npz", **statistics(6))
    read_reference(tmp_path / "b.npz").require(RECORD)  # does not say what it was taken with
    with pytest.raises(ReferenceFileError, match="of 6 dimensions; those of some have 7"):
        read_reference(tmp_path / "b.npz").require(RECORD | {"dims": 7})
    np.savez(tmp_path / "c.npz", arr_0=pixels(3, 4, 4, 3))
    read_reference(tmp_path / "c.npz").require(RECORD)  # nothing to compare yet


class Touch:
    """Executed when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_pickles_are_never_read(tmp_path: Path) -> None:
    file, touched = tmp_path / "evil.npz", tmp_path / "touched"
    np.savez(file, arr_0=np.array([Touch(touched)], dtype=object))
    with pytest.raises(ReferenceFileError, match="arr_0 holds Python objects, which are never read"):
        read_reference(file)
    with pytest.raises(ReferenceFileError, match="Python objects"):
        list(reference_images(file))
    np.savez(file, mu=np.array([Touch(touched)], dtype=object), sigma=np.eye(1))
    with pytest.raises(ReferenceFileError, match="mu holds Python objects"):
        read_reference(file)
    file.write_bytes(pickle.dumps(Touch(touched)))
    with pytest.raises(ReferenceFileError, match="not a zip file"):
        read_reference(file)
    assert not touched.exists()


LOPSIDED = np.array([[1.0, 0.5], [0.0, 1.0]])
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "labels": ({"labels": np.zeros(3)}, "it holds labels, not arr_0 nor mu and sigma"),
    "half": ({"mu": np.zeros(3)}, "it holds mu, not"),
    "floats": ({"arr_0": np.zeros((2, 4, 4, 3))}, r"uint8 of shape .* got float64 \(2, 4, 4, 3\)"),
    "channels": ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"got uint8 \(2, 3, 4, 4\)"),
    "one": ({"arr_0": np.zeros((4, 4, 3), np.uint8)}, r"got uint8 \(4, 4, 3\)"),
    "none": ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, r"got uint8 \(0, 4, 4, 3\)"),
    "columns": ({"arr_0": np.asfortranarray(pixels(2, 4, 4, 3))}, "stored column by column"),
    "whole numbers": ({"mu": np.zeros(3, int), "sigma": np.eye(3)}, "mu must be floats of shape"),
    "not square": ({"mu": np.zeros(3), "sigma": np.zeros((3, 2))}, r"sigma must be floats of shape \(d, d\)"),
    "other": ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"got \(3,\) and \(2, 2\)"),
    "empty": ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"d of 1 to 16384, got float64 \(0,\)"),
    "wide": ({"mu": np.zeros(2**14 + 1), "sigma": np.eye(2)}, "d of 1 to 16384"),
    "NaN": ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "finite"),
    "lopsided": ({"mu": np.zeros(2), "sigma": LOPSIDED}, "symmetric, and this one is not"),
}


@pytest.mark.parametrize(("arrays", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_archives_that_are_no_references(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ReferenceFileError, match=message) as caught:
        read_reference(tmp_path / "bad.npz")
    assert str(tmp_path / "bad.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_references(tmp_path: Path) -> None:
    with pytest.raises(ReferenceFileError, match="No such file"):
        read_reference(tmp_path / "none.npz")
    with pytest.raises(ReferenceFileError, match="No such file"):
        next(reference_images(tmp_path / "none.npz"))
    with pytest.raises(ReferenceFileError, match=r"\.npz and \.safetensors files are read"):
        read_reference(tmp_path / "reference.pkl")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ReferenceFileError, match="Is a directory"):
        read_reference(tmp_path / "folder.npz")
    with pytest.raises(ValueError, match=r"written to \.safetensors files, got a\.npz"):
        save_reference(tmp_path / "a.npz", drawn(3, 2))
    np.savez(tmp_path / "statistics.npz", **statistics(2))
    with pytest.raises(ReferenceFileError, match=r"no item named 'arr_0\.npy'"):
        next(reference_images(tmp_path / "statistics.npz"))
    with pytest.raises(ValueError, match="one image or more, got 0"):
        next(reference_images(tmp_path / "statistics.npz", 0))


OURS: dict[str, tuple[dict[str, Tensor], dict[str, str], str]] = {
    "format": ({"features": torch.zeros(2, 2)}, {"format": "other"}, "its format is 'other', not"),
    "record": ({"features": torch.zeros(2, 2)}, {"taken_with": "[]"}, "not a JSON object"),
    "JSON": ({"features": torch.zeros(2, 2)}, {"taken_with": "{"}, "cannot be read as a reference"),
    "names": ({"other": torch.zeros(2, 2)}, {}, "it holds other, not features nor"),
    "shape": ({"features": torch.zeros(2)}, {}, r"finite floats \(n, d\), got \(2,\)"),
    "type": ({"features": torch.zeros(2, 2, dtype=torch.int64)}, {}, "finite floats"),
    "NaN": ({"features": torch.full((2, 2), torch.nan)}, {}, "finite floats"),
    "moments": ({"mean": torch.zeros(2), "covariance": torch.eye(3)}, {}, r"got \(2,\) and \(3, 3\)"),
    "n": ({"mean": torch.zeros(2), "covariance": torch.eye(2)}, {"n": "many"}, "cannot be read as a reference"),
}


@pytest.mark.parametrize(("tensors", "changed", "message"), OURS.values(), ids=OURS.keys())
def test_safetensors_that_are_no_references(
    tmp_path: Path, tensors: dict[str, Tensor], changed: dict[str, str], message: str
) -> None:
    file = tmp_path / "bad.safetensors"
    save_file(tensors, file, {"format": "apd-metrics/reference", "taken_with": "{}"} | changed)
    with pytest.raises(ReferenceFileError, match=message):
        read_reference(file)


def test_an_image_file_that_ends_early(tmp_path: Path) -> None:
    """Its header promises more images than there are."""
    file = tmp_path / "short.npz"
    np.savez(tmp_path / "whole.npz", arr_0=pixels(4, 4, 4, 3))
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        body = archive.read("arr_0.npy")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", body[:-60])
    batches = reference_images(file, 2)
    next(batches)
    with pytest.raises(ReferenceFileError, match="ends early: 2 of 4 rows are whole"):
        next(batches)


def test_a_header_that_promises_what_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "header.npz"
    for promised, message in (
        ("(-4, 4, 4, 3)", r"got uint8 \(-4, 4, 4, 3\)"),
        ("(4, 4, 4, 'x')", "shape is not valid"),
    ):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {promised}}}".ljust(117) + "\n"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("arr_0.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(192))
        with pytest.raises(ReferenceFileError, match=message):
            read_reference(file)


@pytest.mark.parametrize("kind", ["stored.npz", "compressed.npz", "ours.safetensors"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    """Cut or with some bytes changed, anywhere: read all the same, or a line, and nothing else."""
    file = tmp_path / kind
    if kind == "ours.safetensors":
        save_reference(file, moments(drawn(5, 3)), RECORD)
    else:
        save = np.savez if kind == "stored.npz" else np.savez_compressed
        save(file, arr_0=pixels(3, 4, 4, 3), **statistics(3))
    whole = file.read_bytes()
    draw = random.Random(0)
    refused: list[str] = []
    for _ in range(300):
        damaged = bytearray(whole)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(whole)) :]
        else:
            for _ in range(draw.choice((1, 3))):
                damaged[draw.randrange(len(whole))] = draw.randrange(256)
        file.write_bytes(bytes(damaged))
        try:
            if read_reference(file).images:
                list(reference_images(file))
        except ReferenceFileError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(file) in message and "\n" not in message for message in refused)
