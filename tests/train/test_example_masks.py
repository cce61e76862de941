"""Ways to hide a part of an image."""

import pytest

from apd_models import Patchify
from apd_train.showcase import example_masks


@pytest.mark.parametrize("patchify", [Patchify(28, 28, 1, 4), Patchify(8, 8, 3, 2), Patchify(6, 6, 1, 3)])
def test_example_masks_hide_something_and_follow_the_tokens(patchify: Patchify) -> None:
    for known in example_masks(patchify).values():
        assert known.shape == (patchify.height, patchify.width)
        assert known.any()
        assert not known.all()
        tokens = patchify.known_tokens(known)
        assert tokens.sum() * patchify.patch**2 == known.sum()
