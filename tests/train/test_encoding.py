"""Sets of latents: what is in them, what is held out of them, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from apd_models import Codec, CodecError, LatentScale, identity, load_codec
from apd_train import (
    DataError,
    ImageArrays,
    ImageFolder,
    ImageSet,
    Latents,
    ToEncode,
    WriteError,
    hold_out,
    load_to_encode,
    round_trip,
    source_of,
)
from apd_train._data import _reading
from apd_train._data._lazy import Lazy
from apd_train._data._split import content_digest
from apd_train._encoding import _set
from apd_train._encoding._moments import merged, spread_of
from image_files import encoded, pixels, write_shard
from latent_sets import BROKEN, contents, made, tiny_codec, write_images

LEFT = [k for k in range(10) if k != BROKEN]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return write_images(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def squares(raw: ImageSet) -> Tensor:
    """Of all images that can be read."""
    return torch.stack([raw.square(k) for k in LEFT])


@pytest.fixture(scope="module")
def whole(raw: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(raw, tmp_path_factory.mktemp("whole") / "set")


# ------------------------------------------------------------------------------------------------ what is in a set


def moments_of(codec: Codec, images: Tensor, batches: list[list[int]]) -> Tensor:
    """Of images that are encoded together, as a convolution's last bit may depend on it."""
    found = [codec.moments(images[batch]) for batch in batches]
    return torch.cat([m.mean if m.log_var is None else torch.cat([m.mean, m.log_var], 1) for m in found])


@pytest.mark.parametrize(("codes", "kind"), [(None, "moments"), (5, "latents")])
def test_a_set_has_what_the_autoencoder_makes_of_each_image(
    raw: ImageSet, squares: Tensor, tmp_path: Path, codes: int | None, kind: str
) -> None:
    codec = tiny_codec(codes=codes)
    folder = made(raw, tmp_path / "set", codec)
    files = [load_file(folder / f"latents-0000{k}.safetensors") for k in range(3)]
    assert [len(file["index"]) for file in files] == [4, 3, 2]
    whole = {name: torch.cat([file[name] for file in files]) for name in files[0]}
    assert sorted(whole) == sorted(["index", "keys", "labels", "mirrored", kind])
    assert whole["index"].tolist() == LEFT
    batches = [[0, 1, 2], [3], [4, 5], [6], [7, 8]]  # batches of 3 end with a shard of 4, and 4 cannot be read
    assert torch.equal(whole[kind], moments_of(codec, squares, batches))
    assert torch.equal(whole["mirrored"], moments_of(codec, squares.flip(-1), batches))
    assert not torch.equal(whole["mirrored"], whole[kind].flip(-1))
    assert whole["labels"].tolist() == [0] * 4 + [1] * 5
    keys = [content_digest(raw.images[k]) for k in LEFT]  # of all of it, where it is oblong
    assert [bytes(key.tolist()) for key in whole["keys"]] == keys


def test_what_is_loaded_is_standardised_over_all_samples(raw: ImageSet, tmp_path: Path) -> None:
    """Over means and mirrored means, with the deviations around them: exactly mean 0 and variance 1 of each channel."""
    folder = made(raw, tmp_path / "set")
    source = source_of(folder)
    assert source == Latents(folder)
    images = source.load(4)
    assert (len(images), images.channels, images.class_names, images.can_flip) == (9, 2, ("a", "b"), True)
    assert images.codec == folder / "codec"
    assert images.latents is not None
    assert images.latents.codec == tiny_codec().digest == load_codec(folder / "codec").digest
    assert images.skipped == ("a/004.png: cannot identify image file",)
    entries = [images.images.read(i) for i in range(9)]  # pyrefly: ignore [missing-attribute]
    means = torch.stack([mean for e in entries for mean in (e.mean, e.mirrored[0])]).double()
    stds = torch.stack([std for e in entries for std in (e.std, e.mirrored[1])]).double()
    torch.testing.assert_close(means.mean((0, 2, 3)), torch.zeros(2).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close((means**2 + stds**2).mean((0, 2, 3)), torch.ones(2).double(), rtol=1e-6, atol=0)
    again = images.latents.restore(images.square(0))
    torch.testing.assert_close(again, tiny_codec().encode(raw.square(0)[None])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shard", [1, 2, 5, 100])
def test_mean_and_deviation_do_not_depend_on_the_shards(raw: ImageSet, tmp_path: Path, shard: int) -> None:
    folder = made(raw, tmp_path / "set", shard=shard)
    stored = torch.cat([t for name, t in contents(folder).items() if name.endswith(("moments", "mirrored"))]).double()
    mean, log_var = stored.chunk(2, 1)
    variance = mean.var((0, 2, 3), correction=0) + log_var.exp().mean((0, 2, 3))
    said = json.loads((folder / "latents.json").read_text())
    torch.testing.assert_close(torch.tensor(said["mean"]).double(), mean.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.tensor(said["std"]).double(), variance.sqrt(), rtol=1e-6, atol=0)
    assert (said["images"], sum(s["images"] for s in said["shards"])) == (9, 9)


def test_spreads_merge_as_if_seen_together() -> None:
    """In float64, far from zero, and with empty ones among them."""
    z = 1e3 + torch.randn(6, 2, 3, 3, generator=Generator().manual_seed(0), dtype=torch.float64)
    whole, parts = spread_of(z, 2), merged(spread_of(part, 2) for part in (z[:0], z[:1], z[1:5], z[5:5], z[5:]))
    assert parts.count == whole.count == 54
    for one, other in ((parts.mean, whole.mean), (parts.squares, whole.squares)):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-12, atol=0)
    assert parts.scale("x").codec == "x"
    torch.testing.assert_close(torch.tensor(parts.scale("x").std), z.std((0, 2, 3), correction=0).float())
    z[:, 1] = 0.1
    constant = spread_of(z, 2)
    with pytest.raises(DataError, match="channel 1 of the latents is constant"):
        constant.scale("x")


def test_half_precision_and_no_mirror_images(raw: ImageSet, tmp_path: Path) -> None:
    half, full = made(raw, tmp_path / "half", dtype="float16", mirror=False), made(raw, tmp_path / "full")
    one, other = contents(half), contents(full)
    for k in range(3):
        name = f"latents-0000{k}.safetensors/moments"
        assert torch.equal(one[name], other[name].half())
    assert not [name for name in one if "mirrored" in name]
    assert not source_of(half).load(4).can_flip


def test_images_without_classes_and_pixels_as_latents(tmp_path: Path) -> None:
    """Of the identity, on an array: latents are the pixels."""
    array = torch.from_numpy(pixels(0, 5, 1, 8, 8))
    write_shard(tmp_path / "x.safetensors", {"images": array})
    raw = load_to_encode(ImageArrays(tmp_path / "x.safetensors"), 8)
    images = source_of(made(raw, tmp_path / "set", identity(1), dtype="float32")).load(8)
    assert (images.class_names, images.labels.tolist()) == ((), [0] * 5)
    assert images.latents is not None
    torch.testing.assert_close(images.latents.restore(images.squares()), raw.squares(), rtol=0, atol=1e-6)
    torch.testing.assert_close(*round_trip(ToEncode(raw, identity(1)), 3), rtol=0, atol=0)
    grey_as_rgb = source_of(made(raw, tmp_path / "rgb", identity(3))).load(8)
    assert grey_as_rgb.channels == 3


def test_some_images_through_the_autoencoder_and_back(raw: ImageSet, squares: Tensor) -> None:
    codec = tiny_codec()
    images, decoded = round_trip(ToEncode(raw, codec), 5)  # 0, 2, 4, 6 and 8
    chosen = squares[[LEFT.index(k) for k in (0, 2, 6, 8)]]
    assert torch.equal(images, chosen)
    expected = torch.cat([codec.decode(codec.encode(image[None])) for image in chosen])
    assert torch.equal(decoded, expected)


# ------------------------------------------------------------------------------------------------- what is held out


def numbers_held_out(folder: Path, count: int) -> list[int]:
    """Of the raw images whose latents are held out of a set."""
    index = torch.cat([load_file(file)["index"] for file in sorted(folder.glob("*.safetensors"))])
    training, held_out = hold_out(source_of(folder).load(4), count)
    rows = [side.images.rows.tolist() for side in (training, held_out)]  # pyrefly: ignore [missing-attribute]
    assert sorted(rows[0] + rows[1]) == [*range(len(index))]
    return index[rows[1]].tolist()


@pytest.mark.parametrize("lazy", [False, True])
def test_the_latents_of_what_would_be_held_out_are(lazy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By content, copies together, of a set that is held in memory, by name of one that is not."""
    if lazy:
        monkeypatch.setattr(_reading, "MEMORY_LIMIT", 0)
    write_images(tmp_path / "raw", 14, broken=not lazy)
    (tmp_path / "raw" / "a" / "grey.png").write_bytes(encoded(pixels(9, 8, 8)))
    raw, direct = load_to_encode(ImageFolder(tmp_path / "raw"), 8), ImageFolder(tmp_path / "raw").load(8)
    assert isinstance(direct.images, Lazy) is lazy
    folders = [made(raw, tmp_path / f"{shard}", shard=shard) for shard in (2, 100)]
    copies = (1, 14)  # grey.png comes between
    together = []
    some = [*range(12, 2, -1)]  # a part of the set, in another order
    for folder in folders:
        part, raw_part = source_of(folder).load(4).subset(some), direct.subset(some)
        held = [part.images.rows.tolist().index(row) for row in hold_out(part, 3)[1].images.rows]  # pyrefly: ignore
        assert torch.equal(raw_part.squares(held), hold_out(raw_part, 3)[1].squares())
    for count in (2, 5, 8, 11):
        expected = hold_out(direct, count)[1]
        for folder in folders:
            found = numbers_held_out(folder, count)
            assert torch.equal(torch.stack([raw.square(k) for k in found]), expected.squares())
            together.append([k in found for k in copies])
    assert ([True, True] in together, all(one == other for one, other in together)) == (not lazy, not lazy)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("shard is 4 there and 5 here", {"shard": 5}),
        ("mirror is True there and False here", {"mirror": False}),
        ("dtype is float32 there and float16 here", {"dtype": "float16"}),
        (r"codec is \w+ there and \w+ here", {"codec": tiny_codec(1)}),
    ],
)
def test_a_set_goes_on_as_it_was_begun(raw: ImageSet, whole: Path, said: str, options: dict[str, Any]) -> None:
    for more in ({"resume": True}, {"part": (0, 2)}):
        with pytest.raises(DataError, match=f"is another set: {said}"):
            made(raw, whole, **options, **more)


def test_nor_with_other_images(raw: ImageSet, whole: Path) -> None:
    with pytest.raises(DataError, match="images is 10 there and 9 here, images_sha256 is"):
        made(raw.subset(range(9)), whole, resume=True)
    with pytest.raises(DataError, match=r"is another set: images_sha256 is \w+ there and \w+ here; say the same"):
        made(raw.subset([1, 0, *range(2, 10)]), whole, resume=True)


def test_folders_and_options_that_are_refused(raw: ImageSet, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file: choose a folder"):
        made(raw, tmp_path / "file")
    with pytest.raises(DataError, match="holds file and no set of latents"):
        made(raw, tmp_path, overwrite=True)
    for part in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(DataError, match="there are those from 0 to"):
            made(raw, tmp_path / "set", part=part)
    for options in ({"resume": True}, {"part": (0, 2)}):
        with pytest.raises(DataError, match="overwritten as a whole"):
            made(raw, whole, overwrite=True, **options)
    for options in ({"batch": 0}, {"workers": -1}):
        with pytest.raises(DataError, match="a batch is of 1 image at least"):
            made(raw, tmp_path / "set", **options)
    with pytest.raises(DataError, match="latents already"):
        ToEncode(source_of(whole).load(4), tiny_codec())
    with pytest.raises(CodecError, match="multiples of 2, got 7"):
        ToEncode(replace(raw, size=7), tiny_codec())
    with pytest.raises(DataError, match="a shard has 1 image at least"):
        ToEncode(raw, tiny_codec(), shard=0)
    with pytest.raises(DataError, match="float16 or float32, not bfloat16"):
        ToEncode(raw, tiny_codec(), dtype="bfloat16")
    assert not (tmp_path / "set").exists()


def test_latents_that_cannot_be_kept(raw: ImageSet, tmp_path: Path) -> None:
    large = tiny_codec(scale=1e3)
    with pytest.raises(DataError, match=r"not finite in torch.float16: keep them as float32"):
        made(raw, tmp_path / "half", large, dtype="float16")
    assert not [*(tmp_path / "half").glob("*.safetensors")]
    made(raw, tmp_path / "full", large)
    with pytest.raises(DataError, match=r"not finite in torch.float32: is it damaged\?"):
        made(raw, tmp_path / "nan", tiny_codec(scale=float("nan")))
    with pytest.raises(DataError, match=r"a/000.png is in colour, and the autoencoder takes grey images"):
        made(raw, tmp_path / "grey", tiny_codec(image_channels=1))


def test_where_nothing_can_be_written(raw: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_set, "write_shard", full)
    with pytest.raises(WriteError, match="cannot be written: No space left on device"):
        made(raw, tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["codec", "encoding.json"]


# ----------------------------------------------------------------------------------------------- made by other means


def test_shards_made_otherwise_may_say_their_autoencoder(tmp_path: Path) -> None:
    z = {"latents": torch.zeros(2, 1, 4, 4)}
    said = {"mean": json.dumps([0.5]), "std": json.dumps([2.0])}
    save_file(z, tmp_path / "0.safetensors", {**said, "codec": "abc"})
    images = Latents(tmp_path).load(4)
    assert (images.latents, images.codec) == (LatentScale((0.5,), (2.0,), "abc"), None)
    save_file(z, tmp_path / "1.safetensors", said)
    with pytest.raises(DataError, match="do not agree on mean, std or names, or are of two autoencoders"):
        Latents(tmp_path).load(4)
