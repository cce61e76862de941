"""Completions: what is known comes back to the bit, a seed gives one completion, tiles cover the hole."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from apd_generate import (
    Completed,
    Given,
    ImageError,
    Recipe,
    Step,
    complete,
    fit_image,
    fit_levels,
    generate,
    paste,
    tiles,
    to_image,
    token_mask,
)
from apd_models import Pretrained
from completion_cases import MODES, picture, random_levels, small, values
from long_runs import unchecked

QUICK = Recipe(steps=2)
GREY, RGB, ELEMENTS = small(), small(3, (2, 3)), small(element_levels=True)


def assert_known_is_kept(image: Image.Image, levels: torch.Tensor, done: Completed) -> None:
    known = (levels == 0).numpy()
    for completed in done.images:
        assert (completed.mode, completed.size) == (image.mode, image.size)
        assert np.array_equal(values(completed)[known], values(image)[known])
    for window in done.windows:
        shown = window.levels == 0
        assert torch.equal(window.mask.known, shown)
        assert torch.equal(window.made[0][:, shown], window.fitted.pixels[:, shown])


MODELS = st.sampled_from([GREY, RGB, ELEMENTS])
RECIPES = st.sampled_from([QUICK, Recipe(steps=1, solver="heun"), Recipe(order="raster", cells=2, steps=4)])
CASES = st.tuples(
    st.sampled_from(MODES),
    st.sampled_from([(8, 8), (12, 8), (5, 9), (16, 16), (21, 10), (1, 2)]),
    st.sampled_from(["scattered", "box", "soft", "all"]),
    st.integers(0, 10**6),
)


@settings(max_examples=50)
@given(MODELS, RECIPES, st.lists(CASES, min_size=20, max_size=20))
def test_known_pixels_of_a_thousand_images_come_back_to_the_bit(
    model: Pretrained, recipe: Recipe, cases: list[tuple[str, tuple[int, int], str, int]]
) -> None:
    """Twenty images of different sizes, modes and masks go through the model together, fifty times."""
    images = [picture(mode, *size, seed) for mode, size, _, seed in cases]
    levels = [random_levels(kind, *size, seed) for _, size, kind, seed in cases]
    fits = [fit_image(image, model.patchify, level) for image, level in zip(images, levels, strict=True)]
    seen = [fit_levels(level, fit.box, model.patchify) for level, fit in zip(levels, fits, strict=True)]
    masks = [token_mask(level, model.patchify, model.model.config.element_levels) for level in seen]
    noise = torch.ones(model.patchify.tokens, 1)
    known = Given(
        torch.stack([fit.pixels for fit in fits]),
        torch.stack([mask.known for mask in masks]),
        torch.stack([noise if mask.start is None else mask.start for mask in masks]),
    )
    seeds = [seed for *_, seed in cases]
    made = generate(model.model, model.patchify, recipe, seeds, given=known).images
    assert torch.equal(made[known.known[:, None].expand_as(made)], known.images[known.known[:, None].expand_as(made)])
    for image, level, fit, new in zip(images, levels, fits, made, strict=True):
        completed, kept = paste(image, new, fit.box, level), (level == 0).numpy()
        assert np.array_equal(values(completed)[kept], values(image)[kept])


@given(MODELS, RECIPES, CASES, st.booleans())
@settings(max_examples=30)
def test_known_pixels_come_back_to_the_bit(
    model: Pretrained, recipe: Recipe, case: tuple[str, tuple[int, int], str, int], tile: bool
) -> None:
    mode, size, kind, seed = case
    image, levels = picture(mode, *size, seed), random_levels(kind, *size, seed)
    assert_known_is_kept(image, levels, complete(model, recipe, image, levels, [seed], tile=tile))


@pytest.mark.parametrize("recipe", [Recipe(steps=3, method="replacement"), Recipe(steps=3, method="repaint", jump=1)])
def test_the_baselines_keep_them_too(recipe: Recipe) -> None:
    image, levels = picture("RGB", 17, 9), random_levels("box", 17, 9, 3)
    assert_known_is_kept(image, levels, complete(RGB, recipe, image, levels, [0, 1]))


def test_at_the_model_s_own_size_a_completion_is_what_the_model_made() -> None:
    image, levels = picture("L", 8, 8), random_levels("box", 8, 8, 2)
    done = complete(GREY, QUICK, image, levels, [0])
    assert np.array_equal(values(done.images[0]), values(to_image(done.windows[0].made[0])))
    assert not np.array_equal(values(done.images[0]), values(image))


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("kind", ["box", "soft"])
def test_a_completion_depends_on_its_seed_alone(tile: bool, kind: str) -> None:
    image, levels = picture("RGB", 19, 11), random_levels(kind, 19, 11, 5)
    made = lambda seeds, batch=64: complete(RGB, QUICK, image, levels, seeds, tile=tile, batch=batch).images
    together = made([0, 1, 2, 3])
    for other in (made([2]), made([3, 2], 1), made([9, 2, 4], 2)):
        index = 1 if len(other) > 1 else 0
        assert np.array_equal(values(together[2]), values(other[index]))
    assert not np.array_equal(values(together[2]), values(together[3]))


def test_classes_are_those_of_the_seeds() -> None:
    image, levels = picture("L", 8, 8), random_levels("box", 8, 8, 2)
    made = lambda labels: complete(GREY, QUICK, image, levels, [0, 0], labels).windows[0].made
    one, other = made(torch.tensor([0, 2]))
    assert not torch.equal(one, other)
    assert torch.equal(*made(torch.tensor([1, 1])))
    assert torch.equal(*made(None))


def test_soft_masks_keep_a_part_of_what_is_under_them() -> None:
    image = picture("L", 8, 8)
    change = lambda level: (
        complete(GREY, Recipe(steps=8), image, torch.full((8, 8), level), [0]).windows[0].made[0]
        - complete(GREY, QUICK, image, torch.full((8, 8), level), [0]).windows[0].fitted.pixels[0]
    ).abs()
    assert change(0.02).max() < 0.2
    assert change(0.02).mean() < change(0.5).mean() < change(1.0).mean()


def test_tiles_go_from_what_is_known_inwards_and_see_what_was_made() -> None:
    image, levels = picture("L", 20, 20), torch.zeros(20, 20)
    levels[:, 4:] = 1
    done = complete(GREY, QUICK, image, levels, [0, 1], tile=True)
    boxes = [window.fitted.box for window in done.windows]
    assert boxes[0] == (0, 0, 8, 8)
    assert boxes == tiles(levels, (8, 8))
    assert len({*boxes}) == len(boxes) > 9
    assert_known_is_kept(image, levels, replace(done, windows=done.windows[:1]))
    left = levels.clone()
    for window in done.windows:
        x, y, x_end, y_end = window.fitted.box
        assert torch.equal(window.levels, left[y:y_end, x:x_end])
        kept = np.asarray(done.images[0])[y:y_end, x:x_end][(window.levels == 0).numpy()]
        seen = values(to_image(window.fitted.pixels))[..., 0][(window.levels == 0).numpy()]
        assert np.array_equal(kept, seen)
        left[y:y_end, x:x_end] = 0
    assert not left.any()
    assert done.evaluations == 2 * len(boxes)
    assert done.token_evaluations == 2 * 4 * len(boxes)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["box", "scattered", "all"]), st.integers(0, 999))
def test_tiles_cover_the_hole_and_nothing_else(width: int, height: int, kind: str, seed: int) -> None:
    levels = random_levels(kind, width, height, seed)
    left = levels > 0
    for x, y, x_end, y_end in tiles(levels, (9, 6)):
        assert (x_end - x, y_end - y) == (9, 6)
        place = (slice(max(y, 0), y_end), slice(max(x, 0), x_end))
        assert left[place].any()
        left[place] = False
        for start, end, length in ((x, x_end, width), (y, y_end, height)):
            assert (0 <= start and end <= length) or length < end - start
    assert not left.any()


def test_one_tile_is_the_whole_image() -> None:
    image, levels = picture("L", 8, 8), random_levels("box", 8, 8, 2)
    whole, tiled = (complete(GREY, QUICK, image, levels, [4], tile=tile).images[0] for tile in (False, True))
    assert np.array_equal(values(whole), values(tiled))


def test_steps_count_over_all_tiles() -> None:
    seen: list[tuple[int, int]] = []

    def on_step(step: Step) -> None:
        seen.append((step.done, step.total))

    levels = torch.zeros(8, 20)
    levels[:, 10:] = 1
    complete(GREY, QUICK, picture("L", 20, 8), levels, [0, 1], tile=True, batch=1, on_step=on_step)
    assert seen == [(k, 12) for k in range(1, 13)]


def test_the_same_noise_is_not_used_for_two_tiles() -> None:
    """Two tiles that see the same, of the same hole."""
    levels = torch.zeros(8, 24)
    levels[:, 2:6] = levels[:, 18:22] = 1
    made = complete(GREY, QUICK, Image.new("L", (24, 8), 90), levels, [0], tile=True).windows
    assert [window.fitted.box[0] for window in made] == [0, 16]
    assert torch.equal(made[0].levels, made[1].levels)
    assert not torch.equal(made[0].made, made[1].made)


def test_the_next_tile_is_the_one_with_the_most_to_make_of_those_half_known() -> None:
    levels = torch.zeros(8, 20)
    levels[:, 7:12] = 1  # of the tiles at 0, 4, 8 and 12 columns one, five, four and none are hidden
    assert [box[0] for box in tiles(levels, (8, 8))] == [8, 0]


def test_nothing_hidden_is_refused() -> None:
    with pytest.raises(ImageError, match="nothing is hidden: the whole image is known already"):
        complete(GREY, QUICK, picture("L", 8, 8), torch.zeros(8, 8), [0])


def test_levels_that_do_not_fit_are_refused_before_anything_is_made() -> None:
    image, levels = picture("RGB", 12, 8), random_levels("box", 12, 8, 3)
    made: Any = lambda wrong, seeds=(0,), tile=False: complete(RGB, QUICK, image, wrong, seeds, tile=tile)
    with unchecked():
        for tile in (False, True):
            for wrong in (levels.T, levels.repeat(2, 2), levels[1:]):
                with pytest.raises(ValueError, match=r"levels are of each pixel, \(8, 12\), got \("):
                    made(wrong, tile=tile)
        with pytest.raises(ValueError, match=r"floats in \[0, 1\], 1 noise, or booleans, True noise, got torch.uint8"):
            made((levels > 0).to(torch.uint8) * 255)
        for value in (2.0, -0.1, float("nan")):
            with pytest.raises(ValueError, match=r"levels lie in \[0, 1\], 1 noise"):
                made(torch.full_like(levels, value))
        with pytest.raises(ValueError, match="a completion is made for each seed, and there are none"):
            made(levels, ())


def test_a_mask_of_booleans_is_levels() -> None:
    image, levels = picture("L", 8, 8), random_levels("box", 8, 8, 3)
    with unchecked():
        by_mask, by_level = (complete(GREY, QUICK, image, each, [0]).images[0] for each in (levels > 0, levels))
    assert np.array_equal(values(by_mask), values(by_level))


@pytest.mark.parametrize("mode", ["P", "1", "F", "CMYK", "HSV"])
def test_images_in_other_modes_are_refused(mode: str) -> None:
    """In one of them the known pixels would not be what they were."""
    image, levels = picture("L", 8, 8).convert("RGB").convert("L" if mode == "F" else "RGB"), torch.ones(8, 8)
    image = image.convert(mode)
    message = f"an image is in mode L, LA, RGB, RGBA, I;16, as read_image gives it, got {mode}: image.convert"
    with pytest.raises(ImageError, match=message):
        complete(GREY, QUICK, image, levels, [0])
    with pytest.raises(ImageError, match=message):
        paste(image, torch.zeros(1, 8, 8), (0, 0, 8, 8), levels)
    with pytest.raises(ImageError, match=message):
        fit_image(image, GREY.patchify)
