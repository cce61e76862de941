"""Arrays of images, and of latents."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from apd_train._data import (
    DataError,
    ImageArrays,
    ImageSet,
    Latents,
    LatentScale,
    _arrays as arrays_module,
    hold_out,
)
from image_files import as_pixels, pixels, write_shard

IMAGES = pixels(0, 5, 3, 8, 8)
LABELS = np.array([0, 2, 1, 0, 2])
NAMES = ("ant", "bee", "cat")


def write(
    file: Path, images: np.ndarray = IMAGES, labels: Any = None, names: Any = None, compress: bool = False
) -> Path:
    """As the suffix says."""
    arrays: dict[str, Any] = {"images": images} if labels is None else {"images": images, "labels": labels}
    named: dict[str, Any] = {} if names is None else {"names": names}
    if file.suffix == ".npz":
        (np.savez_compressed if compress else np.savez)(file, **arrays, **named)
        return file
    return write_shard(file, {name: torch.from_numpy(value) for name, value in arrays.items()}, **named)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_of_any_layout(tmp_path: Path, suffix: str) -> None:
    rgb, grey = torch.from_numpy(IMAGES), IMAGES[:, 0]
    for images, expected in (
        (IMAGES, rgb),
        (np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)), rgb),
        (grey.copy(), rgb[:, :1]),
        (grey[..., None].copy(), rgb[:, :1]),
    ):
        found = ImageArrays(write(tmp_path / f"x{suffix}", images, LABELS, NAMES)).load(8)
        assert found.channels == expected.shape[1]
        assert torch.equal(as_pixels(found.squares()), expected)
        assert found.class_names == NAMES
        assert found.labels.tolist() == LABELS.tolist()
    numbered = ImageArrays(write(tmp_path / f"x{suffix}", labels=LABELS.astype(np.uint8))).load(8)
    assert numbered.class_names == ("0", "1", "2")
    assert numbered.labels.dtype == torch.int64
    assert ImageArrays(write(tmp_path / f"x{suffix}")).load(8).class_names == ()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_large_arrays_are_mapped(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "MEMORY_LIMIT", IMAGES.size - 1)
    for images in (IMAGES, np.asfortranarray(IMAGES) if suffix == ".npz" else IMAGES):
        found = ImageArrays(write(tmp_path / f"x{suffix}", images, LABELS)).load(8)
        assert not isinstance(found.images, list)
        assert torch.equal(as_pixels(found.subset([3, 1]).squares()), torch.from_numpy(IMAGES)[[3, 1]])
        assert {i.images.name(0) for i in hold_out(found, 1)} <= set("01234")  # pyrefly: ignore [missing-attribute]
    if suffix == ".npz":
        with pytest.raises(DataError, match=r"too large to be held in memory: save it by numpy\.savez"):
            ImageArrays(write(tmp_path / "x.npz", compress=True)).load(8)


def test_arrays_that_cannot_be_trained_on(tmp_path: Path) -> None:
    def refused(message: str, *arguments: Any, suffix: str = ".npz", size: int = 8) -> None:
        with pytest.raises(DataError, match=message) as caught:
            ImageArrays(write(tmp_path / f"x{suffix}", *arguments)).load(size)
        assert "\n" not in str(caught.value)

    refused("have 8 pixels on the shorter side, not 16", size=16)
    refused("1 to 8192 pixels", size=-1)
    refused("images in .* are torch.float64 of shape", IMAGES / 255)
    refused("are torch.uint8 of shape .5, 8.: expected", IMAGES[:, 0, 0].copy())
    refused("are torch.uint8 of shape .0, 3, 8, 8.: expected", IMAGES[:0])
    refused("expected 1 or 3 channels", pixels(0, 5, 8, 8, 4))
    refused("labels in .* of shape .4,.: expected 5 integers", IMAGES, LABELS[:4])
    refused("labels in .* are torch.float64", IMAGES, LABELS / 1)
    refused("labels in .* run from -1 to 1: classes are numbers from 0 on", IMAGES, LABELS - 1)
    refused("labels in .* run from 0 to 2: classes are 0 to 1, by the names", IMAGES, LABELS, NAMES[:2])
    refused("names in the metadata of .* are a list of texts", IMAGES, LABELS, [1, 2, 3], suffix=".safetensors")
    refused("is not an .npz of plain arrays", np.array([{"a": 1}]))
    np.savez(tmp_path / "y.npz", pictures=IMAGES)
    for name, content, message in (
        ("y.npz", None, "has no array images; it has pictures"),
        ("z.npz", b"junk", "is not an .npz of plain arrays, or a damaged one"),
        ("cut.npz", write(tmp_path / "x.npz").read_bytes()[:300], "or a damaged one"),
        ("z.safetensors", b"junk" * 9, "is not a safetensors file, or a damaged one"),
        ("cut.safetensors", write(tmp_path / "x.safetensors").read_bytes()[:-9], "or a damaged one"),
        ("folder.npz/x", b"", None),
    ):
        if content is not None:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        if message is not None:
            with pytest.raises(DataError, match=message):
                ImageArrays(tmp_path / name).load(8)
    with pytest.raises(DataError, match="does not exist"):
        ImageArrays(tmp_path / "nowhere.npz").load(8)
    with pytest.raises(DataError, match="is not a file"):
        ImageArrays(tmp_path / "folder.npz").load(8)


MEAN, STD = [0.5, -1.0], [2.0, 4.0]


def moments(seed: int, count: int = 3) -> Tensor:
    return torch.randn(count, 4, 6, 6, generator=Generator().manual_seed(seed))


def normalised(z: Tensor) -> Tensor:
    return (z.float() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def shards(folder: Path, parts: list[dict[str, Tensor]], **metadata: Any) -> ImageSet:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    for k, part in enumerate(parts):
        write_shard(folder / f"{k}.safetensors", part, **{"mean": MEAN, "std": STD, **metadata})
    return Latents(folder).load(6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_latents_are_normalised(tmp_path: Path, dtype: torch.dtype) -> None:
    parts = [moments(k)[: 3 - k, :2].to(dtype) for k in range(2)]
    labels = [torch.tensor([0, 1, 1]), torch.tensor([1, 0])]
    both = [{"latents": z, "labels": label} for z, label in zip(parts, labels, strict=True)]
    images = shards(tmp_path, both, names=["a", "b"])
    assert (len(images), images.channels, images.class_names) == (5, 2, ("a", "b"))
    assert images.labels.tolist() == [0, 1, 1, 1, 0]
    assert torch.equal(images.squares(), normalised(torch.cat(parts)))
    assert torch.equal(images.square(3, generator=Generator()), normalised(parts[1][0]))
    assert images.latents == LatentScale((0.5, -1.0), (2.0, 4.0))
    assert [images.images.name(i) for i in (0, 3)] == [  # pyrefly: ignore [missing-attribute]
        "0.safetensors/0",
        "1.safetensors/0",
    ]
    assert torch.equal(images.subset([4, 0]).square(0), images.square(4))
    training, held_out = hold_out(images, 2)
    assert (len(training), len(held_out), held_out.latents) == (3, 2, images.latents)


def test_moments_are_drawn_from_by_the_samples_own_generator(tmp_path: Path) -> None:
    """Mean and log-variance: the draw is the mean plus deviation times the generator's next normal numbers."""
    images = shards(tmp_path, [{"moments": moments(0)}])
    mean, log_var = moments(0)[1].chunk(2)
    assert torch.equal(images.square(1), normalised(mean))
    eps = torch.randn(2, 6, 6, generator=Generator().manual_seed(5))
    drawn = images.square(1, generator=Generator().manual_seed(5))
    torch.testing.assert_close(drawn, normalised(mean + (0.5 * log_var).exp() * eps), rtol=0, atol=1e-6)
    around = torch.tensor(MEAN)[None, :, None, None].expand(1, 2, 6, 6)  # what is normalised to 0
    for log_var, kept in ((-1e4, -30), (1e4, 20)):
        extreme = torch.cat([around, torch.full((1, 2, 6, 6), log_var)], 1)
        drawn = shards(tmp_path, [{"moments": extreme}]).square(0, generator=Generator().manual_seed(5))
        expected = np.exp(kept / 2) * eps / torch.tensor(STD)[:, None, None]
        torch.testing.assert_close(drawn, expected.float(), rtol=1e-5, atol=0)


def test_a_flip_takes_the_mirror_images_encoding(tmp_path: Path) -> None:
    images = shards(tmp_path, [{"moments": moments(0), "mirrored": moments(1)}])
    assert images.can_flip
    mean, log_var = moments(1)[2].chunk(2)
    assert torch.equal(images.square(2, flip=True), normalised(mean))
    eps = torch.randn(2, 6, 6, generator=Generator().manual_seed(5))
    drawn = images.square(2, flip=True, generator=Generator().manual_seed(5))
    torch.testing.assert_close(drawn, normalised(mean + (0.5 * log_var).exp() * eps), rtol=0, atol=1e-6)
    without = shards(tmp_path, [{"moments": moments(0)}])
    assert not without.can_flip
    with pytest.raises(ValueError, match="cannot be mirrored without the encoding of the mirror image"):
        without.square(0, flip=True)


def test_an_encoding_that_is_not_finite_is_stood_in_for(tmp_path: Path) -> None:
    z = moments(0)
    z[0, 3, 2, 2] = torch.nan
    images, told = shards(tmp_path, [{"moments": z}]), []
    assert torch.equal(images.square(0, on_unreadable=told.append), normalised(z[1, :2]))
    assert told == ["0.safetensors/0: the encoding is not finite"]


def test_latents_that_cannot_be_trained_on(tmp_path: Path) -> None:
    z, label = moments(0)[:, :2], torch.zeros(3, dtype=torch.long)
    plain = {"latents": z}

    def refused(message: str, *parts: dict[str, Tensor], **metadata: Any) -> None:
        with pytest.raises(DataError, match=message) as caught:
            shards(tmp_path, [*parts], **metadata)
        assert "\n" not in str(caught.value)

    refused("no .safetensors shards in")
    refused("0.safetensors has no tensor latents or moments", {"images": z})
    refused("1.safetensors has no tensor latents or moments, or not the one", plain, {"moments": moments(0)})
    refused("do not agree on whether there are labels", plain, {**plain, "labels": label})
    refused("do not agree on whether there are mirrored", {**plain, "mirrored": z}, plain)
    refused(r"latents in .* are torch.float64 of shape \(3, 2, 6, 6\): expected float16", {"latents": z.double()})
    refused(r"of shape \(3, 4, 6, 6\): expected .* \(3, 2, 6, 6\), for latents of 6", {"latents": moments(0)})
    refused(r"of shape \(3, 2, 6, 5\)", {"latents": z[..., :5]})
    refused(r"mirrored in .* of shape \(2, 2, 6, 6\)", {**plain, "mirrored": z[:2]})
    refused("the shards are empty", {"latents": z[:0]})
    refused("labels in .* expected 3 integers", {**plain, "labels": label[:2]})
    for mean, std in (
        (None, STD),
        (MEAN, [1.0]),
        (MEAN, [1.0, 0.0]),
        ([], []),
        ("a", STD),
        (MEAN, [1.0, float("inf")]),
    ):
        refused("must say mean and std in its metadata: JSON lists", plain, mean=mean, std=std)
    write_shard(tmp_path / "0.safetensors", plain, mean=MEAN, std=STD)
    write_shard(tmp_path / "1.safetensors", plain, mean=MEAN, std=[2.0, 4.1])
    with pytest.raises(DataError, match=r"1\.safetensors and 0\.safetensors do not agree on mean, std or names"):
        Latents(tmp_path).load(6)
    (tmp_path / "1.safetensors").write_bytes((tmp_path / "1.safetensors").read_bytes()[:-5])
    with pytest.raises(DataError, match=r"1\.safetensors is not a safetensors file, or a damaged one"):
        Latents(tmp_path).load(6)
    with pytest.raises(DataError, match="do not exist"):
        Latents(tmp_path / "nowhere").load(6)
    assert len(Latents(tmp_path / "0.safetensors").load(6)) == 3


def test_latents_are_written_as_the_documentation_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(code, {})
    images = Latents(Path("latents")).load(32)
    assert (len(images), images.channels, images.class_names, images.can_flip) == (10, 4, ("cat", "dog"), True)
    drawn = torch.stack([images.square(i, generator=Generator().manual_seed(100 + i)) for i in range(10)])
    error = ((5 - 1) / (4 * 10 * 32 * 32)) ** 0.5  # of a deviation at kurtosis 5, that of this mixture of normals
    torch.testing.assert_close(drawn.std((0, 2, 3)), torch.ones(4), rtol=0, atol=5 * error)
