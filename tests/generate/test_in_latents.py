"""What a model of latents is given of images that are known in part, and what becomes of what it makes."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from apd_generate import (
    Recipe,
    Recorder,
    complete,
    decoded,
    decoded_film,
    film_strip,
    generate,
    given_latents,
    to_image,
)
from apd_models import (
    Autoencoder,
    AutoencoderConfig,
    Codec,
    CodecError,
    DiT,
    DiTConfig,
    LatentScale,
    Patchify,
    Pretrained,
    as_codec,
    identity,
    image_patchify,
)
from completion_cases import values
from dit_cases import random_model

SCALE = LatentScale((0.2, -0.1, 0.0, 0.3), (0.4, 0.2, 0.3, 0.5))
CELLS, FACTOR = (8, 8), 2


@pytest.fixture(scope="module")
def codec() -> Codec:
    """One of ours that looks far, with random weights: images of 16×16."""
    network = Autoencoder(AutoencoderConfig(widths=(4, 8), blocks=(1, 1)))
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return as_codec(network)


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    """Of latents of 4×8×8, in patches of 2×2 cells, which are 4×4 pixels."""
    return Pretrained(random_model(grid=(4, 4), token_dim=16, classes=0).float(), Patchify(*CELLS, 4, 2), (), "", SCALE)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=Generator().manual_seed(seed)) * 2 - 1


def hole(count: int, top: int = 4, left: int = 4, side: int = 4, level: float = 1.0) -> Tensor:
    levels = torch.zeros(count, 16, 16)
    levels[:, top : top + side, left : left + side] = level
    return levels


def patches(*which: tuple[int, int]) -> Tensor:
    """Cells of these tokens."""
    cells = torch.zeros(8, 8, dtype=torch.bool)
    for row, column in which:
        cells[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
    return cells


def test_latents_of_known_cells_are_those_of_an_image_with_the_hole_hidden(
    codec: Codec, pretrained: Pretrained
) -> None:
    x, levels = images(1), hole(1)
    found = given_latents(codec, pretrained, x, levels)
    assert torch.equal(found.given.images, SCALE.standardise(codec.encode(x, levels == 0)))
    assert torch.equal(found.given.known[0], ~patches((1, 1)))
    assert found.given.start is None
    assert torch.equal(found.seen, levels == 0)


@pytest.mark.parametrize("fill", [0.7, float("nan"), float("inf")])
@pytest.mark.parametrize("dilate", [0, 1])
def test_hidden_pixels_change_no_bit(codec: Codec, pretrained: Pretrained, dilate: int, fill: float) -> None:
    x, levels = images(1), hole(1, 3, 5, 7)
    other = x.masked_fill(levels[:, None] == 1, fill)
    one, two = (given_latents(codec, pretrained, each, levels, dilate) for each in (x, other))
    assert torch.equal(one.given.images, two.given.images)
    assert torch.equal(one.given.known, two.given.known)


def test_what_is_hidden_grows_by_cells_and_takes_whole_tokens_along(codec: Codec, pretrained: Pretrained) -> None:
    """A hole of four cells in the middle token of the second row and column: one cell more cuts all eight around it."""
    x, levels = images(1), hole(1)
    around = patches(*((row, column) for row in range(3) for column in range(3)))
    found = given_latents(codec, pretrained, x, levels, 1)
    assert torch.equal(found.given.known[0], ~around)
    # The decoder takes cells that are made anew for hidden, but for what is known of those that are cut.
    expected = ~around.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(found.seen[0], expected)
    cut = hole(1, 4, 4, 3)
    found = given_latents(codec, pretrained, x, cut)
    assert torch.equal(found.given.known[0], ~patches((1, 1)))
    assert torch.equal(found.seen[0], cut[0] == 0)  # each of the token's four cells is cut
    cut = hole(1, 4, 4, 2)
    found = given_latents(codec, pretrained, x, cut)
    whole_but_made = patches((1, 1))
    whole_but_made[2, 2] = False
    assert torch.equal(found.seen[0], (cut[0] == 0) & ~whole_but_made.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_soft_levels_are_seen_and_those_next_to_what_is_hidden_start_from_noise(
    codec: Codec, pretrained: Pretrained
) -> None:
    levels = hole(1, 0, 0, 16, 0.25)
    found = given_latents(codec, pretrained, images(1), levels)
    assert torch.equal(found.given.images, SCALE.standardise(codec.encode(images(1))))
    assert found.given.start is not None
    assert (found.given.start == 0.25).all()
    levels[:, 4:8, 4:8] = 1
    found = given_latents(codec, pretrained, images(1), levels, 2)
    start = found.given.start
    assert start is not None
    assert torch.equal(start.reshape(4, 4) == 1, patches(*((r, c) for r in range(3) for c in range(3)))[::2, ::2])
    assert found.seen.all()  # all is made, and decoded as ever
    assert torch.equal(given_latents(codec, pretrained, images(1), hole(1, 0, 0, 16)).seen, found.seen)


def test_an_image_depends_on_no_other_of_its_batch(codec: Codec, pretrained: Pretrained) -> None:
    x, levels = images(3), torch.cat([hole(1), hole(1, 2, 9, 6), hole(1, 0, 0, 9)])
    together = given_latents(codec, pretrained, x, levels)
    made = decoded(codec, pretrained, together.given.images, together.seen)
    for k in range(3):
        alone = given_latents(codec, pretrained, x[k : k + 1], levels[k : k + 1])
        assert torch.equal(alone.given.images[0], together.given.images[k])
        assert torch.equal(decoded(codec, pretrained, alone.given.images, alone.seen)[0], made[k])
    twice = together.repeated(2)
    assert torch.equal(twice.seen[3:], together.seen)
    assert torch.equal(twice.given.known[:3], together.given.known)


def test_decoding_is_told_what_was_seen(codec: Codec, pretrained: Pretrained) -> None:
    z, seen = torch.randn(2, 4, 8, 8, generator=Generator().manual_seed(3)), hole(2) == 0
    assert torch.equal(
        decoded(codec, pretrained, z, seen),
        torch.cat([codec.decode(SCALE.restore(z[k : k + 1]), seen[k : k + 1]) for k in range(2)]),
    )
    assert not torch.equal(decoded(codec, pretrained, z, seen), decoded(codec, pretrained, z))


def test_a_film_of_latents_becomes_one_of_images(codec: Codec, pretrained: Pretrained) -> None:
    recorder = Recorder(pretrained.patchify, most=3)
    made = generate(pretrained.model, pretrained.patchify, Recipe(steps=6), [5], on_step=recorder).images
    film = decoded_film(codec, pretrained, recorder.frames())
    assert [(frame.step, frame.levels.tolist()) for frame in film] == [
        (frame.step, frame.levels.tolist()) for frame in recorder.frames()
    ]
    assert torch.equal(film[-1].image, decoded(codec, pretrained, made)[0])
    strip = film_strip(film, image_patchify(codec, pretrained.patchify))
    assert strip.width > 3 * 64


def test_images_of_another_size_are_refused(codec: Codec, pretrained: Pretrained) -> None:
    with pytest.raises(CodecError, match="take images of 3×16×16, got 3×8×8"):
        given_latents(codec, pretrained, torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="dilate"):
        given_latents(codec, pretrained, images(1), hole(1), -1)


def test_completions_with_growth_keep_known_pixels(codec: Codec, pretrained: Pretrained) -> None:
    x, levels = to_image(images(1)[0]), hole(1)[0]
    asked: list[tuple[Tensor, Tensor]] = []

    def two(pixels: Tensor, visible: Tensor) -> int:
        asked.append((pixels, visible))
        return 2

    run: Any = lambda dilate: complete(pretrained, Recipe(steps=2), x, levels, [0, 1], codec=codec, dilate=dilate)
    by_function, by_number = run(two), run(2)
    assert [each.tobytes() for each in by_function.images] == [each.tobytes() for each in by_number.images]
    assert [each.tobytes() for each in run(0).images] != [each.tobytes() for each in by_number.images]
    ((pixels, visible),) = asked
    assert torch.equal(visible, levels == 0)
    assert (pixels[:, levels == 1] == 0).all()
    (window,) = by_number.windows
    assert window.mask.grown == 2
    assert torch.equal(
        window.mask.clean,
        ~patches(*((r, c) for r in range(3) for c in range(3))).repeat_interleave(2, 0).repeat_interleave(2, 1),
    )
    assert "128 of them in patches that are not known whole or within 2 cells of what" in window.mask.report
    known = levels == 0
    for made in by_number.images:
        assert (values(made)[known] == values(x)[known]).all()


def test_samples_of_standardised_latents_decode_at_the_scale_of_the_data() -> None:
    """A model that predicts no flow leaves noise as it is: latents that are N(0, 1), of which the images, of an
    autoencoder that changes nothing, have the mean and the standard deviation of each channel."""
    scale = LatentScale((0.2, -0.3, 0.1), (0.1, 0.2, 0.3), identity(3).digest)
    model = DiT(DiTConfig((16, 16), 3, width=8, depth=1, heads=1)).eval()
    pretrained = Pretrained(model, Patchify(16, 16, 3, 1), (), "", scale)
    latents = generate(model, pretrained.patchify, Recipe(steps=2, eta=0.0), range(64)).images
    pixels = decoded(identity(3), pretrained, latents)
    count = pixels[:, 0].numel()
    for channel in range(3):
        mean, std = pixels[:, channel].mean(), pixels[:, channel].std()
        assert abs(mean - scale.mean[channel]) < 5 * scale.std[channel] / count**0.5
        assert abs(std / scale.std[channel] - 1) < 5 / (2 * count) ** 0.5
