"""Images in one `.npz`."""

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from apd_generate import write_npz, written_aside


def images(count: int, *shape: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def test_colours_and_labels_as_numpy_saves_them(tmp_path: Path) -> None:
    given = images(5, 4, 6, 3)
    write_npz(tmp_path / "a.npz", given, 5, [3, 1, 4, 1, 5])
    np.savez(tmp_path / "b.npz", np.stack(given), np.array([3, 1, 4, 1, 5]))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as a, np.load(tmp_path / "b.npz") as b:
        assert a.files == b.files == ["arr_0", "arr_1"]
        for name in a.files:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])
    with zipfile.ZipFile(tmp_path / "a.npz") as a, zipfile.ZipFile(tmp_path / "b.npz") as b:
        assert a.testzip() is None
        for name in ("arr_0.npy", "arr_1.npy"):
            assert a.read(name) == b.read(name)
            assert a.getinfo(name).compress_type == zipfile.ZIP_STORED


def test_grey_images_in_all_channels_and_no_labels(tmp_path: Path) -> None:
    given = images(3, 4, 6)
    write_npz(tmp_path / "a.npz", given, 3)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found.files == ["arr_0"]
        np.testing.assert_array_equal(found["arr_0"], np.stack(given)[..., None].repeat(3, -1))


def test_images_come_one_after_the_other(tmp_path: Path) -> None:
    """None is asked for before the one before it is in the file."""
    sizes = []

    def some() -> Iterator[np.ndarray]:
        for k in range(4):
            sizes.append((tmp_path / "a.npz").stat().st_size)
            yield np.full((256, 256, 3), k, dtype=np.uint8)

    write_npz(tmp_path / "a.npz", some(), 4)
    assert all(later - earlier > 150_000 for earlier, later in itertools.pairwise(sizes[1:]))
    with np.load(tmp_path / "a.npz") as found:
        assert [int(image.max()) for image in found["arr_0"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "count", "labels", "message"),
    [
        (images(2, 4, 4), 3, None, "there must be 3 images, got 2"),
        (images(4, 4, 4), 3, None, "there must be 3 images, got more"),
        ([], 0, None, "count must be at least 1, got 0"),
        (images(2, 4, 4), 2, [1], "a label for each of 2 images, got 1"),
        ([*images(1, 4, 4), *images(1, 4, 5)], 2, None, r"of one size, got \(4, 4\) and \(4, 5\)"),
        (images(1, 4, 4, 4), 1, None, r"grey or with three channels, got uint8 of shape \(4, 4, 4\)"),
        (images(1, 4), 1, None, r"got uint8 of shape \(4,\)"),
        ([np.zeros((4, 4))], 1, None, "images are uint8, .* got float64"),
    ],
    ids=["few", "many", "none", "labels", "sizes", "channels", "flat", "kind"],
)
def test_other_images_than_said(
    tmp_path: Path, given: list[np.ndarray], count: int, labels: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_npz(tmp_path / "a.npz", given, count, labels)


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_text("old")

    def stop() -> None:
        with written_aside(file) as aside:
            assert aside.parent == tmp_path
            assert aside.suffix == ".png"
            assert not aside.match("a*")  # patterns do not find it
            aside.write_text("ne")
            assert file.read_text() == "old"
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        stop()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.png", "old")]
    with written_aside(file) as aside:
        aside.write_text("new")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.png", "new")]


def test_nothing_written_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "a.png"):
        pass
    assert not any(tmp_path.iterdir())
