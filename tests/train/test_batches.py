"""Counter-based randomness: a batch is a function of the seed and the step, whoever computes it."""

import dataclasses

import pytest
import torch
from torch import Tensor

from apd_models import Patchify
from apd_samplers import shared
from apd_train import Animals28, Batch, Batches, ImageSet, TrainConfig, load_animals28
from apd_train._batches import pixel_masks
from apd_train._random import generator

CONFIG = TrainConfig(data=Animals28(), image_size=28, batch_size=12, steps=50, seed=3)
PATCHIFY = Patchify(28, 28, 1, 4)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_animals28().subset(range(0, 10_000, 200))


def tensors(batch: Batch) -> list[Tensor]:
    return [batch.x, batch.eps, batch.draw.noise.log_snr, batch.draw.weight, batch.label]


def test_a_step_is_the_same_whenever_it_is_asked_for(images: ImageSet) -> None:
    one, other = Batches(CONFIG, images, PATCHIFY), Batches(CONFIG, images, PATCHIFY)
    for step in (0, 1, 2, 3, 9):
        one(step)
    for a, b in zip(tensors(one(5)), tensors(other(5)), strict=True):
        assert torch.equal(a, b)


def test_the_global_generator_is_left_alone(images: ImageSet) -> None:
    before = torch.get_rng_state()
    Batches(CONFIG, images, PATCHIFY)(0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_devices_share_the_batch_of_one(images: ImageSet, world: int) -> None:
    batches = Batches(CONFIG, images, PATCHIFY)
    whole = tensors(batches(7))
    for rank in range(world):
        for part, full in zip(tensors(batches(7, rank, world)), whole, strict=True):
            assert torch.equal(part, full[rank::world])


def test_seed_and_step_matter(images: ImageSet) -> None:
    first = Batches(CONFIG, images, PATCHIFY)(0)
    for other in (
        Batches(CONFIG, images, PATCHIFY)(1),
        Batches(dataclasses.replace(CONFIG, seed=4), images, PATCHIFY)(0),
    ):
        assert all(not torch.equal(a, b) for a, b in zip(tensors(first)[:4], tensors(other)[:4], strict=True))


def test_an_epoch_visits_every_image_once_and_the_next_in_another_order(images: ImageSet) -> None:
    """50 images, flips off, read back by their content."""
    config = dataclasses.replace(CONFIG, flip=False, batch_size=25)
    batches = Batches(config, images, PATCHIFY)
    index = {PATCHIFY.to_tokens(images.square(i)).numpy().tobytes(): i for i in range(50)}
    order = [index[x.numpy().tobytes()] for step in range(4) for x in batches(step).x]
    assert sorted(order[:50]) == sorted(order[50:]) == list(range(50))
    assert order[:50] != order[50:]


def test_labels_belong_to_their_images_and_are_dropped_at_the_stated_rate(images: ImageSet) -> None:
    config = dataclasses.replace(CONFIG, flip=False, batch_size=1000, label_drop=0.25)
    batch = Batches(config, images, PATCHIFY)(0)
    label_of = {PATCHIFY.to_tokens(images.square(i)).numpy().tobytes(): int(images.labels[i]) for i in range(50)}
    true = torch.tensor([label_of[x.numpy().tobytes()] for x in batch.x])
    dropped = batch.label == 10
    assert torch.equal(batch.label[~dropped], true[~dropped])
    assert abs(dropped.float().mean().item() - 0.25) < 5 * (0.25 * 0.75 / 1000) ** 0.5


def test_half_of_the_images_are_mirrored(images: ImageSet) -> None:
    config = dataclasses.replace(CONFIG, batch_size=1000)
    straight = {PATCHIFY.to_tokens(images.square(i)).numpy().tobytes() for i in range(50)}
    kept = sum(x.numpy().tobytes() in straight for x in Batches(config, images, PATCHIFY)(0).x)
    assert abs(kept / 1000 - 0.5) < 5 * (0.25 / 1000) ** 0.5


def test_noise_is_standard_normal_and_levels_are_on_the_grid(images: ImageSet) -> None:
    batch = Batches(dataclasses.replace(CONFIG, batch_size=400, level_bins=8), images, PATCHIFY)(0)
    eps = batch.eps.double()
    assert abs(eps.mean().item()) < 5 / eps.numel() ** 0.5
    assert abs(eps.var().item() - 1) < 5 * (2 / eps.numel()) ** 0.5
    assert len(batch.draw.noise.log_snr.unique()) <= 8 + 2


def test_unconditional_sets_have_the_null_label_alone() -> None:
    plain = dataclasses.replace(load_animals28().subset(range(50)), class_names=())
    assert (Batches(CONFIG, plain, PATCHIFY)(0).label == 0).all()


def test_purposes_and_counters_give_unrelated_streams() -> None:
    draws = [
        torch.rand(4, generator=generator(seed, purpose, counter))
        for seed in (0, 1)
        for purpose in ("a", "b")
        for counter in (0, 1)
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 8


def test_pixels_have_levels_of_their_own_if_asked(images: ImageSet) -> None:
    """A quarter of the maps of a batch of 12 under masks of pixels: clean there, and weighing nothing."""
    config = dataclasses.replace(CONFIG, element_levels=True, known_pixels=0.25, levels=lambda grid: shared(49))
    draw = Batches(config, images, PATCHIFY)(0).draw
    assert draw.noise.log_snr.shape == (12, 49, 16)
    clean = draw.noise.log_snr == config.schedule(torch.zeros(()))
    laid = clean.any(-1).any(-1)
    assert laid.sum() == 3
    partly = clean.any(-1) & ~clean.all(-1)
    assert partly[laid].any(-1).all()  # pixels, not whole tokens
    assert (draw.weight[clean] == 0).all()
    assert (draw.weight[~clean] > 0).all()


def test_masks_of_pixels_lie_as_the_image_does() -> None:
    known = pixel_masks(PATCHIFY)(40, torch.Generator().manual_seed(0))
    seen = PATCHIFY.to_images(known.float())[:, 0]
    bands = [bool((mask == mask[:1]).all() or (mask == mask[:, :1]).all()) for mask in seen]
    assert 5 <= sum(bands) <= 35  # halves are bands from edge to edge, boxes and strokes are not
    assert ((seen == 0) | (seen == 1)).all()
    assert all(0 < mask.mean() < 1 for mask in seen)
