"""Between an image and a model's size: nothing hidden shows, and nothing known changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from apd_generate import ImageError, crop_image, fit_image, fit_levels, paste, to_image
from apd_generate._fit import crop_levels
from apd_models import Patchify
from completion_cases import MODES, picture, random_levels, values

GREY, RGB = Patchify(8, 8, 1, 4), Patchify(8, 8, 3, 4)


def test_an_image_of_the_model_s_own_size_is_taken_as_it_is() -> None:
    for patchify, mode in ((GREY, "L"), (RGB, "RGB")):
        image = picture(mode, 8, 8)
        fitted = fit_image(image, patchify)
        assert fitted.box == (0, 0, 8, 8)
        assert fitted.report == "8×8 pixels, whole"
        assert np.array_equal(values(to_image(fitted.pixels)), values(image))
        assert torch.equal(fitted.pixels, torch.from_numpy(values(image).copy()).permute(2, 0, 1) / 127.5 - 1)


def test_what_is_reported() -> None:
    said = lambda image, patchify: fit_image(image, patchify).report
    assert said(picture("RGBA", 8, 8), GREY) == "8×8 pixels, whole, colours as grey, transparency on white"
    assert said(picture("I;16", 16, 16), RGB) == "16×16 pixels, whole, resized to 8×8, 16 bits as 8"
    assert said(picture("L", 20, 16), GREY) == "20×16 pixels, a window of 16×16 at (2, 0), resized to 8×8"
    assert said(picture("L", 20, 8), GREY) == "20×8 pixels, a window of 8×8 at (6, 0)"


def test_colours_depths_and_transparency() -> None:
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    assert to_image(fit_image(colour, GREY).pixels).getpixel((0, 0)) == colour.convert("L").getpixel((0, 0))
    assert to_image(fit_image(Image.new("RGBA", (8, 8), (200, 100, 50, 0)), RGB).pixels).getpixel((0, 0)) == (255,) * 3
    assert to_image(fit_image(Image.new("LA", (8, 8), (0, 51)), GREY).pixels).getpixel((0, 0)) == 204
    assert to_image(fit_image(picture("L", 8, 8), RGB).pixels).getcolors() is not None
    deep = Image.fromarray(np.full((8, 8), 200 * 257 + 100, np.uint16))
    assert to_image(fit_image(deep, GREY).pixels).getpixel((0, 0)) == 200


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (21, 13), (3, 5), (1, 1), (100, 9)])
def test_flat_images_stay_flat(size: tuple[int, int]) -> None:
    fitted = fit_image(Image.new("RGB", size, (200, 100, 50)), RGB, torch.zeros(size[1], size[0]))
    assert to_image(fitted.pixels).getcolors() == [(64, (200, 100, 50))]


def test_without_a_mask_it_is_pillow_s_resizing() -> None:
    image = picture("L", 30, 24)
    expected = np.asarray(image.crop((3, 0, 27, 24)).resize((8, 8), Image.Resampling.HAMMING), np.int16)
    assert np.abs(values(to_image(fit_image(image, GREY).pixels))[..., 0] - expected).max() <= 1


@pytest.mark.parametrize(
    ("size", "hole", "box"),
    [
        ((20, 10), None, (5, 0, 15, 10)),
        ((10, 21), None, (0, 5, 10, 15)),
        ((20, 10), (0, 0, 4, 4), (0, 0, 10, 10)),
        ((20, 10), (8, 2, 9, 3), (5, 0, 15, 10)),
        ((20, 10), (17, 9, 20, 10), (10, 0, 20, 10)),
        ((20, 10), (4, 9, 17, 10), (4, -2, 17, 11)),  # 13 wide: it grows beyond the upper and lower end
        ((20, 10), (0, 0, 20, 1), (0, -5, 20, 15)),
    ],
)
def test_the_window_shows_the_hole(
    size: tuple[int, int], hole: tuple[int, int, int, int] | None, box: tuple[int, int, int, int]
) -> None:
    levels = torch.zeros(size[1], size[0])
    if hole is not None:
        levels[hole[1] : hole[3], hole[0] : hole[2]] = 1
    assert fit_image(picture("L", *size), GREY, levels).box == box


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_every_window_has_the_model_s_shape_and_holds_the_hole(
    w: int, h: int, across: int, down: int, seed: int
) -> None:
    levels = random_levels("box", w, h, seed)
    left, upper, right, lower = fit_image(picture("L", w, h), Patchify(down, across, 1, 1), levels).box
    ys, xs = levels.nonzero().unbind(1)
    assert left <= xs.min() <= xs.max() < right
    assert upper <= ys.min() <= ys.max() < lower
    scales = [
        ((span - 0.5) / side if span > 1 else 0, (span + 0.5) / side)
        for span, side in ((right - left, across), (lower - upper, down))
    ]
    assert max(least for least, _ in scales) <= min(most for _, most in scales)  # one scale, but for rounding


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(MODES),
    st.sampled_from(["scattered", "box", "all"]),
    st.integers(0, 999),
)
def test_what_is_hidden_has_no_influence(w: int, h: int, mode: str, kind: str, seed: int) -> None:
    levels = random_levels(kind, w, h, seed)
    one, other = values(picture(mode, w, h, seed)), values(picture(mode, w, h, seed + 1))
    mixed = np.where((levels == 1).numpy()[..., None], other, one)
    first, second = (
        fit_image(Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array), RGB, levels)
        for array in (one, mixed)
    )
    seen = fit_levels(levels, first.box, RGB) < 1
    assert torch.equal(first.pixels[:, seen], second.pixels[:, seen])
    assert first.pixels.isfinite().all()
    assert first.pixels.abs().max() <= 1


def test_levels_beyond_the_image_are_noise() -> None:
    levels = torch.arange(6.0).reshape(2, 3) / 10
    cut = crop_levels(levels, (-1, 1, 2, 4))
    assert torch.equal(cut, torch.tensor([[1, 0.3, 0.4], [1, 1, 1], [1, 1, 1]]))


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(MODES), st.integers(0, 999))
@settings(max_examples=100)
def test_pasting_changes_only_what_is_not_known(w: int, h: int, mode: str, seed: int) -> None:
    image, levels = picture(mode, w, h, seed), random_levels("soft", w, h, seed)
    image.info = {"icc_profile": b"colours"}
    for patchify in (GREY, RGB):
        fitted = fit_image(image, patchify, levels)
        made = torch.full_like(fitted.pixels, 0.2)  # grey 153
        completed = paste(image, made, fitted.box, levels)
        assert (completed.mode, completed.size, completed.info) == (image.mode, image.size, image.info)
        known = (levels == 0).numpy()
        assert np.array_equal(values(completed)[known], values(image)[known])
        new = values(completed)[~known]
        expected = {"LA": (153, 255), "RGBA": (153, 153, 153, 255), "I;16": (153 * 257,)}.get(mode, (153,))
        assert (new == np.array(expected)).all()


def test_pasting_puts_things_where_they_were() -> None:
    """An enlarged window that reaches beyond the image: a step in what was made is where it belongs."""
    image, levels = Image.new("RGB", (20, 10)), torch.ones(10, 20)
    box = fit_image(image, RGB, levels).box
    assert box == (0, -5, 20, 15)
    made = torch.full((3, 8, 8), -1.0)
    made[0, :, 4:] = 1  # red on the right
    made[2, :4] = 1  # blue above
    completed = values(paste(image, made, box, levels))
    assert completed[0, 0].tolist() == [0, 0, 255]
    assert completed[9, 19].tolist() == [255, 0, 0]
    assert np.array_equal(completed[..., 0] > 127, np.broadcast_to(np.arange(20) >= 10, (10, 20)))
    assert np.array_equal(completed[..., 2] > 127, np.broadcast_to(np.arange(10)[:, None] < 5, (10, 20)))


def test_what_lies_outside_the_box_stays_even_if_unknown() -> None:
    image = picture("L", 20, 8)
    completed = paste(image, torch.ones(1, 8, 8), (12, 0, 20, 8), torch.ones(8, 20))
    assert np.array_equal(values(completed)[:, :12], values(image)[:, :12])
    assert (values(completed)[:, 12:] == 255).all()


def test_models_of_latents_are_refused() -> None:
    with pytest.raises(ImageError, match="latents of 4 channels: give their autoencoder"):
        fit_image(picture("L", 8, 8), Patchify(8, 8, 4, 2))
    with pytest.raises(ImageError, match="latents of 2 channels"):
        crop_image(picture("L", 8, 8), Patchify(8, 8, 2, 2), (0, 0, 8, 8))


def test_a_window_that_would_be_too_large_is_refused() -> None:
    """An image one pixel wide, all of which is to be seen by a square model: the window is as wide as it is high."""
    image = Image.new("L", (1, 20_000))
    with pytest.raises(ImageError, match=r"an image of 1×20000 pixels is too\s+large: crop the image"):
        fit_image(image, Patchify(8, 8, 1, 2), torch.ones(20_000, 1))
