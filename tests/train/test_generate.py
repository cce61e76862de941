"""Images from seeds: what may change an image and what may not; pictures and figures."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from apd_models import DiT, DiTConfig, Patchify
from apd_schedules import raster, sequential, synchronous
from apd_train import generate, hide, picture_grid, to_image
from apd_train.showcase import example_masks

PATCHIFY = Patchify(8, 8, 1, 2)


@pytest.fixture(scope="module")
def model() -> DiT:
    model = DiT(DiTConfig((4, 4), 4, width=32, depth=2, heads=4, classes=3)).eval()
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def test_a_seed_is_an_image_whatever_the_batch_and_the_other_seeds(model: DiT) -> None:
    path, labels = sequential(raster((4, 4), 2, 2)), torch.tensor([0, 1, 2, 0, 1])
    draw = lambda seeds, labels, batch: generate(model, PATCHIFY, path, 8, seeds, labels, guidance=2.0, batch=batch)
    all_at_once = draw([3, 1, 4, 15, 9], labels, 64).images
    for other in (
        draw([3, 1, 4, 15, 9], labels, 2).images,
        torch.cat([draw([s], labels[i : i + 1], 1).images for i, s in enumerate([3, 1, 4, 15, 9])]),
    ):
        torch.testing.assert_close(other, all_at_once, rtol=0, atol=1e-4)


def test_counts_are_those_of_one_image(model: DiT) -> None:
    labels = torch.tensor([0, 1, 2])
    plain = generate(model, PATCHIFY, synchronous(16), 5, [1, 2, 3], labels, batch=2)
    assert (plain.evaluations, plain.token_evaluations) == (5, 80)
    guided = generate(model, PATCHIFY, synchronous(16), 5, [1, 2, 3], labels, guidance=2.0, batch=2)
    assert (guided.evaluations, guided.token_evaluations) == (10, 160)


def test_known_pixels_come_back_bit_equal_and_the_rest_differs_by_seed(model: DiT) -> None:
    originals = torch.rand(2, 1, 8, 8, generator=Generator().manual_seed(1)) * 2 - 1
    known = torch.zeros(2, 8, 8, dtype=torch.bool)
    known[0, :, :4] = True
    known[1, 1:, :] = True  # the upper row of tokens is known in part
    path = sequential(raster((4, 4), 2, 2))
    one = generate(model, PATCHIFY, path, 8, [0, 1], torch.tensor([0, 1]), context=(originals, known)).images
    two = generate(model, PATCHIFY, path, 8, [2, 3], torch.tensor([0, 1]), context=(originals, known)).images
    for images in (one, two):
        assert torch.equal(images[0, :, :, :4], originals[0, :, :, :4])
        assert torch.equal(images[1, :, 1:], originals[1, :, 1:])
        assert not torch.equal(images[1, :, 0], originals[1, :, 0])
    assert not torch.equal(one[0, :, :, 4:], two[0, :, :, 4:])


def test_what_is_known_of_a_token_guides_the_rest_of_it(model: DiT) -> None:
    path, known = synchronous(16), torch.zeros(1, 8, 8, dtype=torch.bool)
    known[0, :, ::2] = True  # every other column: no token is known whole
    draw = lambda value: (
        generate(
            model, PATCHIFY, path, 8, [0], torch.tensor([1]), context=(torch.full((1, 1, 8, 8), value), known)
        ).images
    )
    dark, light = draw(-1.0), draw(1.0)
    assert (dark[..., ::2] == -1).all()
    assert (light[..., ::2] == 1).all()
    assert not torch.allclose(dark[..., 1::2], light[..., 1::2])


def test_the_first_noise_is_that_of_the_seed(model: DiT) -> None:
    seen: list[Tensor] = []
    generate(model, PATCHIFY, synchronous(16), 1, [7], None, on_step=lambda now: seen.append(now.tokens))
    torch.manual_seed(5)
    again: list[Tensor] = []
    generate(model, PATCHIFY, synchronous(16), 1, [7], None, on_step=lambda now: again.append(now.tokens))
    assert torch.equal(seen[0], again[0])


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


@pytest.mark.parametrize("patchify", [Patchify(28, 28, 1, 4), Patchify(8, 8, 3, 2), Patchify(6, 6, 1, 3)])
def test_example_masks_hide_something_and_follow_the_tokens(patchify: Patchify) -> None:
    for known in example_masks(patchify).values():
        assert known.shape == (patchify.height, patchify.width)
        assert known.any()
        assert not known.all()
        tokens = patchify.known_tokens(known)
        assert tokens.sum() * patchify.patch**2 == known.sum()


def test_what_is_reported_is_what_the_longest_batch_took(model: DiT) -> None:
    """A batch of known images takes no evaluation; another takes one a step."""
    known = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]).bool()
    for order in ([0, 1], [1, 0]):
        context = (torch.zeros(2, 1, 8, 8), known[order])
        drawn = generate(model, PATCHIFY, sequential(torch.arange(16)), 16, [0, 1], context=context, batch=1)
        assert (drawn.evaluations, drawn.token_evaluations) == (16, 16 * 16)


def test_a_model_of_levels_of_pixels_is_shown_which_pixels_are_known() -> None:
    """Not pasted: their level is clean from the first step to the last, and the others' is that of the path."""
    torch.manual_seed(0)
    model = DiT(DiTConfig((4, 4), 4, width=32, depth=1, heads=2, element_levels=True)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    originals = torch.rand(1, 1, 8, 8, generator=Generator().manual_seed(1)) * 2 - 1
    known = torch.zeros(1, 8, 8, dtype=torch.bool)
    known[0, 1:, :] = True  # of the upper row of tokens, the lower half
    seen: list[Tensor] = []
    watch = lambda now: seen.append(PATCHIFY.to_images(now.noise.flow_level.expand(1, 16, 4))[0, 0])
    images = generate(model, PATCHIFY, synchronous(16), 4, [0], context=(originals, known), on_step=watch).images
    assert torch.equal(images[0, :, 1:], originals[0, :, 1:])
    assert not torch.equal(images[0, :, 0], originals[0, :, 0])
    for level in seen[:-1]:
        assert (level[1:] < 2e-4).all()
        assert (level[0] > 0.1).all()
