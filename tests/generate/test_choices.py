"""Seeds, classes and orders as people write or draw them."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from apd_generate import (
    ChoiceError,
    choose_classes,
    format_seeds,
    labels_of,
    order_of_image,
    parse_seeds,
)

NAMES = ("bear", "cat", "tench, Tinca tinca", "7")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", [0]),
        ("0-3", [0, 1, 2, 3]),
        (" 7 , 3, 5 - 6", [7, 3, 5, 6]),
        ("2,1-3,2", [2, 1, 3]),
        ("007", [7]),
        ("9223372036854775807", [2**63 - 1]),
    ],
)
def test_seeds_as_written(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "numbers and ranges such as 0-15 or 3,7,20-29, got ''"),
        ("a", "numbers and ranges"),
        ("1,", "numbers and ranges"),
        ("-3", "numbers and ranges"),
        ("1-2-3", "numbers and ranges"),
        ("1.5", "numbers and ranges"),
        ("٣", "numbers and ranges"),
        ("5-2", "from low to high, got '5-2'"),
        (str(2**63), "below 2^63"),
        (f"0-{2**63}", "below 2^63"),
        ("9" * 10_000, "below 2^63"),
        ("0" * 100_000 + "x", "numbers and ranges"),  # at once
        ("0-10000000", "10000000 seeds at most"),
        ("1,2,3-10000001", "10000000 seeds at most"),
        (f"0-{2**62}", "seeds at most"),
    ],
)
def test_seeds_that_there_are_not(text: str, message: str) -> None:
    with pytest.raises(ChoiceError, match=message.replace("^", r"\^")) as refused:
        parse_seeds(text)
    assert len(str(refused.value)) < 200


def test_seeds_written_shortest() -> None:
    assert format_seeds([5, 3, 4, 9, 3, 0]) == "0,3-5,9"
    assert format_seeds([]) == ""


@given(st.sets(st.integers(0, 40) | st.integers(0, 2**63 - 1), min_size=1))
def test_seeds_read_back(seeds: set[int]) -> None:
    assert parse_seeds(format_seeds(seeds)) == sorted(seeds)


@pytest.mark.parametrize(
    ("wanted", "classes"),
    [
        (None, (0, 1, 2, 3)),
        ("cat", (1,)),
        ("cat,bear", (1, 0)),
        ("cat, cat ,bear", (1, 1, 0)),
        ("tench, Tinca tinca", (2,)),
        ("2,0", (2, 0)),
        ("7", (3,)),  # a name goes before a number
        ("3,7", (3, 3)),
    ],
)
def test_classes_as_written(wanted: str | None, classes: tuple[int, ...]) -> None:
    assert choose_classes(NAMES, wanted) == classes


@pytest.mark.parametrize("wanted", ["lion", "4", "cat,lion", "", "cat,", "-1", "1.0", "٣", "9" * 6000])
def test_classes_that_there_are_not(wanted: str) -> None:
    with pytest.raises(ChoiceError, match=r"there is no class '.*; this model has bear, cat, tench, Tinca tinca, 7"):
        choose_classes(NAMES, wanted)


def test_of_many_classes_some_are_named() -> None:
    with pytest.raises(ChoiceError, match=r"c0, c1, .*, c19 and 980 more") as refused:
        choose_classes([f"c{k}" for k in range(1000)], "lion")
    assert "c20" not in str(refused.value)


def test_a_model_without_classes() -> None:
    assert choose_classes(()) == ()
    assert labels_of((), [1, 2]) is None
    with pytest.raises(ChoiceError, match="there is no class 'cat': this model has no classes"):
        choose_classes((), "cat")


def test_the_class_of_a_seed_does_not_depend_on_the_others() -> None:
    labels = labels_of((4, 0, 7), [0, 1, 2, 3, 11])
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == [4, 0, 7, 4, 7]
    alone = labels_of((4, 0, 7), [11])
    assert alone is not None
    assert alone.tolist() == [7]


def test_dark_parts_of_an_order_come_first() -> None:
    bright = np.zeros((4, 6), dtype=np.uint8)
    bright[:2, :3], bright[:2, 3:], bright[2:, :3], bright[2:, 3:] = 51, 255, 0, 102
    bright[0, 0] = 81  # 30 more in one of six pixels
    expected = ((56 / 255, 1.0), (0.0, 0.4))
    for image in (Image.fromarray(bright), Image.fromarray(bright).convert("RGB"), _wide(bright)):
        np.testing.assert_allclose(order_of_image(image, (2, 2)), expected, atol=1e-5)


def test_an_order_is_stretched_over_the_tokens() -> None:
    image = Image.fromarray(np.array([[0, 102, 255]], dtype=np.uint8))
    assert order_of_image(image, (2, 3)) == ((0.0, 0.4, 1.0), (0.0, 0.4, 1.0))
    assert order_of_image(image, (1, 6)) == ((0.0, 0.0, 0.4, 0.4, 1.0, 1.0),)
    assert order_of_image(image, (1, 1))[0][0] == pytest.approx(1.4 / 3, abs=1e-5)


def test_what_is_transparent_comes_last() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (40, 40, 40, 255))
    first, second = order_of_image(image, (1, 2))[0]
    assert (first, second) == (1.0, pytest.approx(40 / 255, abs=1e-5))
    image = Image.new("LA", (1, 1), (0, 51))
    assert order_of_image(image, (1, 1))[0][0] == pytest.approx(0.8, abs=1e-2)


def _wide(bright: np.ndarray) -> Image.Image:
    return Image.fromarray(bright.astype(np.uint16) * 257)
