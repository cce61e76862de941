"""Images of anybody's: every kind is read to the bit, and nothing that is no image does harm."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageFile

from apd_generate import ImageError, fit_image, read_image
from apd_models import Patchify
from completion_cases import MODES, picture, values


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """A header, and whatever follows it."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + (chunk(b"IDAT", data) if data else b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", MODES)
def test_five_modes_come_back_as_they_are(mode: str, tmp_path: Path) -> None:
    made = picture(mode, 5, 3)
    made.save(tmp_path / "image.tmp", "PNG")  # the content tells what it is, not the name
    for source in (tmp_path / "image.tmp", encoded(made)):
        read = read_image(source)
        assert (read.mode, read.size) == (mode, (5, 3))
        assert np.array_equal(values(read), values(made))


def test_palettes_and_single_bits_keep_their_colours() -> None:
    colours = picture("RGB", 6, 4).quantize(7)
    assert read_image(encoded(colours)).mode == "RGB"
    assert np.array_equal(values(read_image(encoded(colours))), values(colours.convert("RGB")))
    index = colours.getpixel((0, 0))
    read = read_image(encoded(colours, transparency=index))
    assert read.mode == "RGBA"
    assert np.array_equal(values(read)[..., 3] == 0, np.asarray(colours) == index)
    assert np.array_equal(values(read)[..., :3], values(colours.convert("RGB")))
    bits = picture("L", 6, 4).point(lambda value: 255 * (value > 99), "1")
    assert read_image(encoded(bits)).mode == "L"
    assert np.array_equal(values(read_image(encoded(bits)))[..., 0], 255 * np.asarray(bits).astype(np.uint8))


def test_one_transparent_colour_becomes_an_alpha_channel() -> None:
    grey = picture("L", 6, 4)
    read = read_image(encoded(grey, transparency=int(np.asarray(grey)[0, 0])))
    assert read.mode == "LA"
    assert np.array_equal(values(read)[..., 1] == 0, np.asarray(grey) == np.asarray(grey)[0, 0])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(mode: str) -> None:
    made = Image.frombytes(mode, (5, 3), picture("RGBA" if mode == "CMYK" else "RGB", 5, 3).tobytes())
    read = read_image(encoded(made, "TIFF"))
    assert read.mode == "RGB"
    assert np.array_equal(values(read), values(made.convert("RGB")))


def test_sixteen_bits_of_any_container() -> None:
    made = picture("I;16", 5, 3)
    big = Image.frombytes("I;16B", (5, 3), np.asarray(made).astype(">u2").tobytes())
    for data in (encoded(made), encoded(made, "TIFF"), encoded(big, "TIFF"), encoded(made.convert("I"), "PPM")):
        read = read_image(data)
        assert read.mode == "I;16"
        assert np.array_equal(np.asarray(read), np.asarray(made))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_known_range_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match="32 bits, of no known range: save it with 8 or 16"):
        read_image(encoded(picture("L", 5, 3).convert(mode), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("L", (5, 3), value) for value in (40, 160, 250)]
    more = {"lossless": True} if kind == "WEBP" else {}
    read = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **more))
    assert (values(read.convert("L")) == 40).all()


def test_exif_orientation_is_applied_and_forgotten() -> None:
    made = picture("RGB", 5, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    read = read_image(encoded(made, exif=exif))
    assert np.array_equal(values(read), np.rot90(values(made), -1))
    assert not read.getexif()


def test_a_colour_profile_is_kept_where_it_still_holds() -> None:
    image = picture("RGB", 5, 3)
    assert read_image(encoded(image, icc_profile=b"colours")).info == {"icc_profile": b"colours"}
    assert read_image(encoded(image, comment="x")).info == {}
    assert read_image(encoded(image.convert("CMYK"), "TIFF", icc_profile=b"inks")).info == {"converted": "CMYK as RGB"}


def test_what_pillow_loses_is_said() -> None:
    """It reads colours of 16 bits as 8."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header, row = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0), b"\0" + bytes(range(24))
    deep = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(4 * row)) + chunk(b"IEND", b"")
    image = read_image(deep)
    assert (image.mode, image.info) == ("RGB", {"converted": "16 bits a channel as 8"})
    assert fit_image(image, Patchify(4, 4, 3, 2)).report.endswith("16 bits a channel as 8, also in what is written")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "text": (lambda: b"no image at all", "no image that can be read, which are PNG, JPEG"),
    "nothing": (lambda: b"", "no image that can be read"),
    "svg": (lambda: SVG, "no image that can be read"),
    "postscript": (lambda: encoded(picture("L", 8, 8), "EPS"), "no image that can be read"),
    "a bomb by its header": (lambda: png(20_000, 20_000), "is too large, and at most 64 million"),
    "what Pillow warns of": (lambda: png(12_000, 9_000), "has 12000×9000 pixels, and at most 64 million"),
    "a little too large": (lambda: png(9_000, 8_000), "has 9000×8000 pixels, and at most 64 million"),
    "no pixels": (lambda: png(0, 8), "cannot be read|no image"),
    "header only": (lambda: png(8, 8), "cannot be read"),
    "cut PNG": (lambda: encoded(picture("RGB", 50, 50))[:3000], "cannot be read: image file is truncated"),
    "cut JPEG": (lambda: encoded(picture("RGB", 50, 50), "JPEG")[:1500], "cannot be read: image file is truncated"),
    "cut GIF": (lambda: encoded(picture("L", 50, 50), "GIF")[:1500], "cannot be read"),
    "text that grows": (
        lambda: png(8, 8)[:33] + _text(b"x\0\0" + zlib.compress(bytes(1 << 27))) + png(8, 8)[33:],
        "cannot be read|no image",
    ),
}


def _text(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_image_is_refused_in_one_line(content: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    file, most = tmp_path / "image.png", Image.MAX_IMAGE_PIXELS
    file.write_bytes(content())
    for source in (file, file.read_bytes()):
        with pytest.raises(ImageError, match=message) as caught:
            read_image(source)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(file) if source is file else "the image ")
    assert most == Image.MAX_IMAGE_PIXELS


def test_a_large_image_is_refused_before_it_is_decoded() -> None:
    with patch.object(ImageFile.ImageFile, "load", side_effect=AssertionError("decoded")):
        for data in (png(9_000, 8_000), png(12_000, 9_000), png(20_000, 20_000)):
            with pytest.raises(ImageError, match="64 million"):
                read_image(data)
    with pytest.raises(ImageError, match="has 5×3 pixels, and at most 1e-05 million"):
        read_image(encoded(picture("L", 5, 3)), max_pixels=10)
    assert read_image(encoded(picture("L", 5, 3)), max_pixels=15).size == (5, 3)


def test_data_beyond_the_last_row_are_not_unpacked() -> None:
    """A quarter of a gigabyte of zeros after eight rows."""
    data = zlib.compress(bytes(8 * 9) + bytes(1 << 28), 1)
    assert (values(read_image(png(8, 8, data))) == 0).all()


def test_paths_that_hold_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder, not an image"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        read_image(tmp_path / ("x" * 300))
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(Path("a\0b"))


KINDS = [encoded(picture("RGB", 9, 7), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM")]


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.data())
def test_damaged_files_are_read_or_refused(content: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    end = data.draw(st.integers(0, len(damaged)))
    said = ""
    try:
        assert read_image(bytes(damaged[:end]), max_pixels=100_000).mode in MODES
    except ImageError as error:
        said = str(error)
    assert "\n" not in said
