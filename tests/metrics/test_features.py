"""What is done to images before and after the networks: 8 bits, resizing, batches, precision."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apd_metrics import Extractor, efficientnet_lite0, extract
from apd_metrics._precision import FASTER, float32_throughout
from apd_metrics._resize import bicubic_antialiased, bilinear_tf1, to_8_bits
from feature_weights import frozen_image
from long_runs import unchecked


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return efficientnet_lite0(side=64)


def test_pixels_survive_the_way_through_floats() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_8_bits(pixels / 127.5 - 1), to_8_bits(pixels))
    assert torch.equal(to_8_bits(pixels)[:, :1], pixels.float())


def test_floats_become_the_pixels_of_a_file() -> None:
    """Out of range is clamped, and what is less than half a grey level makes no difference."""
    images = torch.tensor([-3.0, -1.0, 0.0, 0.49 / 127.5, 1.0, 7.0]).view(1, 1, 2, 3)
    assert to_8_bits(images)[0, 0].tolist() == [[0, 0, 128], [128, 255, 255]]
    middle = torch.full((1, 1, 2, 2), 37 / 127.5 - 1)
    assert torch.equal(to_8_bits(middle + 0.49 / 127.5), to_8_bits(middle - 0.49 / 127.5))


def test_grey_is_three_equal_channels(extractor: Extractor) -> None:
    grey = frozen_image(40, 40)[:, :1]
    assert torch.equal(extractor(grey).pooled, extractor(grey.repeat(1, 3, 1, 1)).pooled)


def test_what_is_no_image_is_refused(extractor: Extractor) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        extractor(torch.zeros(1, 4, 8, 8))
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            extractor(torch.full((1, 3, 8, 8), number))


@pytest.mark.parametrize("size", [(5, 9), (8, 8), (40, 23)])
def test_bilinear_as_tensorflow_1_defines_it(size: tuple[int, int]) -> None:
    """Corner to corner: output pixel i looks at ``i in / out``, between the two next to it and no others."""
    image = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    expected = np.empty((8, 8))
    for row in range(8):
        for column in range(8):
            y, x = row * size[0] / 8, column * size[1] / 8
            rows, columns = (np.arange(int(y), int(y) + 2), np.arange(int(x), int(x) + 2))
            weight = np.outer([1 - y % 1, y % 1], [1 - x % 1, x % 1])
            corner = image[np.ix_(rows.clip(max=size[0] - 1), columns.clip(max=size[1] - 1))]
            expected[row, column] = (corner * weight).sum()
    found = bilinear_tf1(torch.from_numpy(image)[None, None], 8)[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (200, 333)])
def test_bicubic_is_pillows_in_floats(size: tuple[int, int]) -> None:
    """The resize that Parmar et al. 2022 recommend."""
    image = frozen_image(*size)
    found = bicubic_antialiased(to_8_bits(image), 64)[0]
    for channel, mine in zip(image[0].numpy(), found.numpy(), strict=True):
        theirs = Image.fromarray(channel.astype(np.float32)).resize((64, 64), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(mine, np.asarray(theirs), atol=1e-3)


def test_neither_batches_nor_the_kind_of_number_change_features(extractor: Extractor) -> None:
    images = torch.cat([frozen_image(50, 70, seed) for seed in range(7)])
    told: list[int] = []
    whole = extract(extractor, [images])
    parts = extract(extractor, (images[i : i + 3] / 127.5 - 1 for i in (0, 3, 6)), told.append)
    assert whole.shape == (7, 1280)
    assert whole.dtype == torch.float32
    assert told == [3, 6, 7]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5 * whole.abs().max().item())


def test_batches_may_differ_in_size(extractor: Extractor) -> None:
    small, large = frozen_image(28, 28), frozen_image(90, 60)
    both = extract(extractor, [small, large])
    assert torch.equal(both[0], extractor(small).pooled[0])
    assert torch.equal(both[1], extractor(large).pooled[0])


def test_no_images_are_refused(extractor: Extractor) -> None:
    with pytest.raises(ValueError, match="there are no images"):
        extract(extractor, [])


def test_maps_come_on_request(extractor: Extractor) -> None:
    image = frozen_image(64, 64)
    plain, asked = extractor(image), extractor(image, maps=True)
    assert plain.maps == ()
    assert torch.equal(plain.pooled, asked.pooled)
    assert len(asked.maps) == 5


def test_no_gradients_and_full_precision_whatever_is_switched_on(extractor: Extractor) -> None:
    images = (frozen_image(64, 64) / 127.5 - 1).requires_grad_()
    expected = extractor(images).pooled
    assert not expected.requires_grad
    torch.set_float32_matmul_precision("medium")
    before = [backend.fp32_precision for backend in FASTER]
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(extractor(images).pooled, expected)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
        assert [backend.fp32_precision for backend in FASTER] == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_float32_throughout_is_for_every_backend_and_for_a_while() -> None:
    def precisions() -> list[Any]:
        return [backend.fp32_precision for backend in FASTER]

    def fail() -> None:
        with float32_throughout(torch.device("cpu")):
            assert precisions() == ["ieee"] * 4
            raise KeyError

    before = precisions()
    with pytest.raises(KeyError):
        fail()
    assert precisions() == before


def test_the_record_says_what_decides_the_numbers(extractor: Extractor) -> None:
    assert extractor.record() == {
        "extractor": "efficientnet-lite0-64",
        "dims": 1280,
        "resize": "8 bits, bicubic_antialiased to 64×64",
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    }


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.rand(4, 1, 8, 8) * 255,
            r"floats are in \[-1, 1\] or near it, got 2\d\d.*: clamp them, or x / 127.5 - 1 of",
        ),
        (torch.full((4, 1, 8, 8), 300), "whole numbers are 0 to 255, got torch.int64 from 300 to 300"),
        (torch.full((4, 1, 8, 8), -1), "whole numbers are 0 to 255, got torch.int64 from -1 to -1"),
        (torch.rand(4, 1, 8, 8) > 0.5, "whole numbers are 0 to 255, got torch.bool"),
    ],
)
def test_numbers_of_another_range_are_refused(images: torch.Tensor, message: str) -> None:
    """Clamped they would give numbers that look like any."""
    with unchecked(), pytest.raises(ValueError, match=message):
        to_8_bits(images)


def test_precision_that_was_inherited_is_so_again() -> None:
    """What is said later of all backends counts for each."""
    backends: Any = torch.backends
    before, own = backends.fp32_precision, backends.mkldnn.matmul.fp32_precision
    try:
        backends.mkldnn.matmul.fp32_precision = "none"
        backends.fp32_precision = "tf32"
        with float32_throughout(torch.device("cpu")):
            pass
        assert backends.mkldnn.matmul.fp32_precision == "tf32"
        backends.fp32_precision = "ieee"
        assert backends.mkldnn.matmul.fp32_precision == "ieee"
    finally:
        backends.fp32_precision, backends.mkldnn.matmul.fp32_precision = before, own
