"""Images to tokens and back."""

import pytest
import torch
from hypothesis import given, strategies as st

from apd_models import Patchify
from strategies import normals


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_there_and_back(data: st.DataObject, rows: int, columns: int, channels: int, patch: int) -> None:
    patchify = Patchify(rows * patch, columns * patch, channels, patch)
    images = data.draw(normals(2, channels, rows * patch, columns * patch))
    tokens = patchify.to_tokens(images)
    assert tokens.shape == (2, patchify.tokens, patchify.token_dim)
    assert torch.equal(patchify.to_images(tokens), images)


def test_a_token_is_a_patch_and_tokens_are_row_major() -> None:
    patchify = Patchify(4, 6, 1, 2)
    image = torch.arange(24.0).reshape(1, 4, 6)
    tokens = patchify.to_tokens(image)
    assert tokens[0].tolist() == [0, 1, 6, 7]
    assert tokens[1].tolist() == [2, 3, 8, 9]
    assert tokens[3].tolist() == [12, 13, 18, 19]


def test_a_token_with_one_hidden_pixel_is_not_known() -> None:
    known = torch.ones(4, 6, dtype=torch.bool)
    known[1, 2] = False
    assert Patchify(4, 6, 3, 2).known_tokens(known)[:, 0].tolist() == [True, False, True, True, True, True]


@pytest.mark.parametrize("sizes", [(5, 4, 1, 2), (4, 5, 1, 2), (4, 4, 0, 2), (4, 4, 1, 0)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"divide|at least 1"):
        Patchify(*sizes)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \(…, 1, 4, 6\), got \(1, 6, 4\)"):
        Patchify(4, 6, 1, 2).to_tokens(torch.zeros(1, 6, 4))


def test_tokens_and_masks_of_another_size_are_refused() -> None:
    patchify = Patchify(4, 6, 1, 2)
    with pytest.raises(ValueError, match=r"expected tokens of shape \(…, 6, 4\), got \(1, 4, 4\)"):
        patchify.to_images(torch.zeros(1, 4, 4))
    for height, width in ((8, 6), (4, 4)):
        with pytest.raises(ValueError, match=rf"expected a mask of shape \(…, 4, 6\), got \(1, {height}, {width}\)"):
            patchify.known_tokens(torch.ones(1, height, width, dtype=torch.bool))
