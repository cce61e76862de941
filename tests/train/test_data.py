"""Images: the embedded set, folders of any kind of file, and what is held out."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from apd_train import Animals28, DataError, ImageSet, hold_out, load_animals28, load_folder


def keys(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


def test_embedded_animals_are_as_described() -> None:
    animals = load_animals28()
    assert len(animals) == 10_000
    assert len(keys(animals)) == 9_716
    assert animals.labels.bincount().tolist() == [1_000] * 10
    assert animals.class_names[0] == "bear"
    assert animals.class_names[9] == "zebra"
    assert animals.square(0).shape == (1, 28, 28)
    with pytest.raises(DataError, match="28 pixels a side, not 32"):
        Animals28().load(32)


def test_held_out_images_are_500_and_no_copy_of_them_is_trained_on() -> None:
    animals = load_animals28()
    training, held_out = hold_out(animals, 500)
    assert (len(training), len(held_out)) == (9_500, 500)
    assert not keys(training) & keys(held_out)
    assert held_out.labels.bincount(minlength=10).min() > 30


def test_what_is_held_out_does_not_depend_on_the_order() -> None:
    animals = load_animals28().subset(range(0, 10_000, 20))
    _, held_out = hold_out(animals, 50)
    reverse = range(len(animals) - 1, -1, -1)
    assert keys(hold_out(animals.subset(reverse), 50)[1]) == keys(held_out)


def test_copies_stay_together_and_the_count_is_never_exceeded() -> None:
    images = [torch.full((1, 4, 4), k // 3, dtype=torch.uint8) for k in range(30)]  # ten images, three times each
    everything = ImageSet(images, torch.zeros(30, dtype=torch.long), ("a",), 4)
    training, held_out = hold_out(everything, 10)
    assert (len(training), len(held_out)) == (21, 9)
    assert not keys(training) & keys(held_out)
    assert len(hold_out(everything, 2)[1]) == 3
    with pytest.raises(DataError, match="too few"):
        hold_out(everything, 30)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_every_mode_size_and_extension_and_a_truncated_file(tmp_path: Path) -> None:
    save(tmp_path / "Ärger b" / "grey.PNG", noise(20, 30))
    save(tmp_path / "Ärger b" / "deep" / "colour.JPeG", noise(30, 20, 3), format="JPEG")
    save(tmp_path / "a" / "alpha.png", noise(16, 16, 4))
    Image.fromarray(noise(16, 16, 3)).convert("P").save(tmp_path / "a" / "palette.gif")
    Image.fromarray(noise(8, 8) > 127).save(tmp_path / "a" / "bits.bmp")
    cut = save(tmp_path / "a" / "cut.jpg", noise(64, 64, 3))
    cut.write_bytes(cut.read_bytes()[:700])
    (tmp_path / "a" / "empty.webp").touch()
    save(tmp_path / "a" / "strip.png", noise(4, 100))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    save(tmp_path / ".hidden" / "x.png", noise(8, 8))
    seen: list[tuple[int, int]] = []
    images = load_folder(tmp_path, 16, on_image=lambda done, total: seen.append((done, total)))
    assert images.class_names == ("a", "Ärger b")
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert images.channels == 3
    assert [tuple(image.shape) for image in images.images] == [(3, 16, 16)] * 3 + [(3, 24, 16), (3, 16, 24)]
    assert sorted(name.split(":")[0] for name in images.skipped) == ["a/cut.jpg", "a/empty.webp", "a/strip.png"]
    assert seen[-1] == (8, 8)


def test_grey_stays_grey_and_loose_images_have_no_class(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / f"{k}.png", noise(8, 8, seed=k))
    images = load_folder(tmp_path, 8)
    assert images.channels == 1
    assert images.class_names == ()
    assert torch.equal(images.images[1][0], torch.from_numpy(noise(8, 8, seed=1)))


def test_transparency_is_laid_on_white_and_orientation_followed(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:2, :, 3] = 255  # the upper half is black, the lower transparent
    save(tmp_path / "a.png", rgba)
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    half = np.repeat(np.array([[0], [255]], dtype=np.uint8), 4, axis=1).repeat(2, axis=0)
    save(tmp_path / "b.png", half, exif=exif)
    images = load_folder(tmp_path, 4)
    expected = torch.tensor([0, 0, 255, 255], dtype=torch.uint8)[None, :, None].expand(3, 4, 4)
    assert torch.equal(images.images[0], expected)
    assert torch.equal(images.images[1], expected.flip(1))


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_that_of_pillow(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    save(tmp_path / "a.png", noise(5, 5, seed=turn), exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert torch.equal(load_folder(tmp_path, 5).images[0][0], torch.from_numpy(expected.copy()))


def test_damaged_tags_cost_no_image(tmp_path: Path) -> None:
    """A resolution unit that is text, beside an orientation; and tags that break off."""
    entries = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x0128, 2, 2, b"x") + bytes(4)
    for name, exif in {"a": b"II*\0\x08\0\0\0" + entries, "b": b"II*\0", "c": b"II\x2b\0"}.items():
        image = Image.fromarray(noise(8, 8, seed=1))
        image.save(tmp_path / f"{name}.jpg", exif=b"Exif\0\0" + exif, dpi=(72, 72), quality=100)
    images = load_folder(tmp_path, 8)
    assert len(images) == 3
    assert torch.equal(images.images[0], images.images[1].rot90(-1, (1, 2)))
    assert torch.equal(images.images[1], images.images[2])


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = (np.arange(16, dtype=np.uint16) * 4369).reshape(4, 4)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert load_folder(tmp_path, 4).images[0].flatten().tolist() == [17 * k for k in range(16)]


def test_squares_are_cut_where_asked_and_mirrored() -> None:
    wide = torch.arange(8, dtype=torch.uint8).expand(1, 4, 8)
    images = ImageSet([wide], torch.zeros(1, dtype=torch.long), (), 4)
    pixels: object = lambda square: ((square[0, 0] + 1) * 127.5).round().tolist()
    assert pixels(images.square(0, 0.0)) == [0, 1, 2, 3]  # pyrefly: ignore
    assert pixels(images.square(0)) == [2, 3, 4, 5]  # pyrefly: ignore
    assert pixels(images.square(0, 1.0, flip=True)) == [7, 6, 5, 4]  # pyrefly: ignore


def test_eight_bits_survive_the_way_to_floats_and_back() -> None:
    from apd_generate import to_image

    every: Tensor = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    square = ImageSet([every], torch.zeros(1, dtype=torch.long), (), 16).square(0)
    assert np.array_equal(np.asarray(to_image(square)), every[0].numpy())


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "x.png", noise(8, 8, seed=1))
    save(tmp_path / "data" / "a" / "y.png", noise(8, 8, seed=2))
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "self").symlink_to(tmp_path / "data" / "a")
    images = load_folder(tmp_path / "data", 8)
    assert images.class_names == ("a", "b")
    assert len(images) == 2


def test_a_class_without_a_readable_image_is_no_class(tmp_path: Path) -> None:
    save(tmp_path / "good" / "x.png", noise(8, 8))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "y.png").write_bytes(b"broken")
    images = load_folder(tmp_path, 8)
    assert images.class_names == ("good",)
    assert images.labels.tolist() == [0]
    assert len(images.skipped) == 1


def test_names_that_are_not_utf8_become_text(tmp_path: Path) -> None:
    save(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")) / "x.png", noise(8, 8))
    (name,) = load_folder(tmp_path, 8).class_names
    assert name.encode() == "caf\ufffd".encode()


def test_grey_with_transparency_stays_grey_and_unknown_ranges_are_skipped(tmp_path: Path) -> None:
    save(tmp_path / "la.png", noise(8, 8, 2))
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "f.tiff")
    images = load_folder(tmp_path, 8)
    assert images.channels == 1
    assert images.skipped == ("f.tiff: pixels of mode F have no known range",)


def test_folders_that_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_folder(tmp_path / "nowhere", 8)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        load_folder(tmp_path / "file", 8)
    with pytest.raises(DataError, match="no images in"):
        load_folder(tmp_path, 8)
    (tmp_path / "broken.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"none of the 1 images .* can be read; the first is broken\.png"):
        load_folder(tmp_path, 8)
    save(tmp_path / "a" / "x.png", noise(8, 8))
    with pytest.raises(DataError, match="both classes"):
        load_folder(tmp_path, 8)
    with pytest.raises(DataError, match="images have 1 to 8192 pixels a side, not 0"):
        load_folder(tmp_path / "a", 0)
    with pytest.raises(DataError, match="not 100000"):
        load_folder(tmp_path / "a", 100_000)
