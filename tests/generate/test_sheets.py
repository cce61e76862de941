"""Pictures of completions, looked at pixel by pixel where that says something."""

import numpy as np
import pytest
import torch

from apd_generate import contact_sheet, shown, spread, spread_picture, to_image, token_mask
from apd_models import Patchify
from completion_cases import values

PATCHIFY = Patchify(8, 8, 1, 4)
BLUE = (120, 150, 200)


def test_what_is_shown() -> None:
    levels = torch.zeros(8, 8)
    levels[0, 0], levels[5, 5] = 1.0, 0.5
    mask, black = token_mask(levels, PATCHIFY), torch.full((1, 8, 8), -1.0)
    seen = values(to_image(shown(black, levels, mask)))
    assert tuple(seen[0, 0]) == BLUE
    assert tuple(seen[5, 5]) == tuple(value // 2 for value in BLUE)
    assert tuple(seen[0, 7]) == (0, 0, 0)  # of a token that is known whole
    assert tuple(seen[3, 3]) == tuple(seen[7, 7]) == (54, 68, 90)  # the veil
    by_element = values(to_image(shown(black, levels, token_mask(levels, PATCHIFY, element_levels=True))))
    assert tuple(by_element[3, 3]) == (0, 0, 0)
    assert tuple(by_element[0, 0]) == BLUE


def test_spread_is_the_variance_of_patches() -> None:
    images = torch.zeros(3, 1, 8, 8)
    images[:, 0, 0, 4:6] = torch.tensor([-0.5, 0.0, 1.0])[:, None]  # variance 7/12, two pixels of the second patch
    assert spread(images, PATCHIFY).tolist() == pytest.approx([0, 7 / 12 * 2 / 16, 0, 0])
    with pytest.raises(ValueError, match="of two completions or more, got 1"):
        spread(images[:1], PATCHIFY)


def test_the_map_of_differences() -> None:
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, :4, 4:] = 1
    images[0, 0, 4:, :4] = 0.5
    picture = np.asarray(spread_picture(images, PATCHIFY, side=64))
    middle = picture.shape[1] // 2
    assert tuple(picture[6 + 16, middle + 16]) == (70, 10, 50)  # the most
    assert tuple(picture[6 + 16, middle - 16]) == tuple(picture[6 + 48, middle + 16]) == (240, 240, 240)  # none
    half = picture[6 + 48, middle - 16].astype(int)  # half of it lies between the two colours in the middle
    assert np.abs(half - (np.array([253, 200, 110]) + np.array([226, 85, 60])) / 2).max() <= 1
    flat = np.asarray(spread_picture(torch.zeros(2, 1, 8, 8), PATCHIFY))
    assert tuple(flat[20, flat.shape[1] // 2]) == (240, 240, 240)


def test_the_sheet_has_all_completions() -> None:
    """Tiles of 64 pixels with gaps of 4, from the right: names take what they need on the left."""
    preview, images = torch.zeros(3, 8, 8), torch.linspace(-1, 1, 10).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    sheet = np.asarray(contact_sheet(preview, images, range(10), PATCHIFY))
    assert sheet.shape[0] == 3 * 68 + 4
    left = sheet.shape[1] - 8 * 68
    tile = lambda row, column: sheet[4 + row * 68 + 32, left + column * 68 + 32].tolist()
    greys = [round((value.item() + 1) * 127.5) for value in images[:, 0, 0, 0]]
    assert [tile(1, k)[0] for k in range(8)] + [tile(2, k)[0] for k in range(2)] == greys
    assert tile(0, 0) == [128] * 3
    assert tile(0, 1) == [128] * 3  # the mean
    assert tile(0, 2) == [70, 10, 50]
    assert tile(0, 3) == tile(2, 2) == [255] * 3
    alone = contact_sheet(preview, images[:1], [7])
    assert alone.height == 2 * 68 + 4
    without_map = np.asarray(contact_sheet(preview, images, range(10)))
    assert without_map[36, without_map.shape[1] - 6 * 68 + 32].tolist() == [255] * 3
