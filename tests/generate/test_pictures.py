"""Pictures of images."""

import numpy as np
import torch

from apd_generate import hide, picture_grid, to_image


def test_a_grid_of_pictures_puts_each_where_it_belongs() -> None:
    images = [[torch.full((1, 4, 4), v) for v in row] for row in ([-1.0, 1.0], [0.0, -1.0])]
    sheet = np.asarray(picture_grid(images, ["first", "second"], ["a", "b"], side=8))
    left, top = sheet.shape[1] - 28, 22
    middle = [[sheet[top + 4 + 12 * i + 4, left + 4 + 12 * j + 4].tolist() for j in (0, 1)] for i in (0, 1)]
    assert middle == [[[0] * 3, [255] * 3], [[128] * 3, [0] * 3]]
    assert (sheet[:, : left - 2] < 128).any()  # the names
    assert np.asarray(picture_grid(images, side=8)).shape == (28, 28, 3)


def test_hidden_pixels_are_blue_and_known_ones_as_they_were() -> None:
    image, known = torch.full((1, 2, 2), 0.5), torch.tensor([[True, False], [True, True]])
    shown = np.asarray(to_image(hide(image, known)))
    assert shown[0, 0].tolist() == [191, 191, 191]
    assert shown[0, 1].tolist() == [120, 150, 200]
