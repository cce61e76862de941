"""What an autoencoder is trained and measured on: functions of the seed and a counter, masks of every kind."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from apd_generate import draw_mask
from apd_train import AutoencoderLoss
from apd_train._held_out_images import HeldOutReconstruction
from apd_train._image_batches import ImageBatch, ImageBatches, fixed_masks, some_known
from apd_train._loader import loader
from apd_train._signals import Stopped
from autoencoder_cases import some_autoencoder, some_images, training_of


def same(one: ImageBatch, other: ImageBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    images = some_images()
    one, two = (ImageBatches(training_of(), images) for _ in range(2))
    state = torch.get_rng_state()
    late = one(7)
    assert torch.equal(torch.get_rng_state(), state)
    two(3)
    assert same(two(7), late)
    assert not same(two(8), late)
    assert not same(ImageBatches(training_of(seed=1), images)(7), late)
    assert late.x.shape == (4, 1, 8, 8)
    assert late.eps is not None
    assert late.eps.shape == (4, 2, 4, 4)
    assert ImageBatches(training_of(codes=3), images)(7).eps is None


def test_devices_and_readers_share_a_batch() -> None:
    batches = ImageBatches(training_of(batch_size=6), some_images())
    parts = [batches(2, rank, 3) for rank in range(3)]
    for whole, *shares in zip(batches(2).tensors, *(part.tensors for part in parts), strict=True):
        assert torch.equal(torch.stack(shares, 1).flatten(0, 1), whole)
    read = [*loader(batches, first_step=1, steps=4, workers=2)]
    assert [same(batch, batches(step)) for step, batch in zip(range(1, 4), read, strict=True)] == [True] * 3


def test_each_image_comes_once_an_epoch_in_two_orientations() -> None:
    images = some_images()
    for flip in (False, True):
        batches = ImageBatches(training_of(batch_size=20, flip=flip), images)
        seen = torch.cat([batches(step).x for step in range(2)])
        matches = lambda a, b: (a[:, None] == b).flatten(2).all(2)
        plain, mirrored = matches(seen, images.squares()), matches(seen, images.squares().flip(-1))
        assert (plain | mirrored).sum(0).tolist() == [1] * 40
        assert (5 < int(plain.sum()) < 35) if flip else bool(plain.sum() == 40)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_samples_is_masked(share: float) -> None:
    batches = ImageBatches(training_of(batch_size=60, masked=share), some_images())
    masked = (~batches(0).known).flatten(1).any(1).float()
    assert masked.mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / 60) ** 0.5)


def test_masks_are_of_every_kind_and_their_complements() -> None:
    """The centred square, known or hidden, is two of ten: it comes in a fifth of the draws each way."""
    count = 250
    draws = [some_known(8, Generator().manual_seed(k)) for k in range(count)]
    square = draw_mask("square", 8, 8, Generator())
    error = 5 * (0.2 * 0.8 / count) ** 0.5
    for mask in (square, ~square):
        assert sum(torch.equal(mask, drawn) for drawn in draws) / count == pytest.approx(0.2, abs=error)
    assert all(drawn.any() and not drawn.all() for drawn in draws)
    others = [drawn for drawn in draws if not torch.equal(drawn, square) and not torch.equal(drawn, ~square)]
    filled = lambda mask: bool(mask[mask.any(1)][:, mask.any(0)].all())
    assert sum(filled(drawn) for drawn in others) > 10  # boxes that are known
    assert sum(filled(~drawn) for drawn in others) > 10  # and boxes that are hidden
    strokes = [float(drawn.float().mean()) for drawn in others if not filled(drawn) and not filled(~drawn)]
    assert sum(share < 0.5 for share in strokes) > 10  # drawn strokes hide at most a half: these are the complements
    assert sum(share > 0.5 for share in strokes) > 10


def test_fixed_masks_hide_a_share_of_the_images() -> None:
    masks = fixed_masks(10, 8, 0.3)
    assert [bool(mask.all()) for mask in masks].count(False) == 3
    assert torch.equal(masks, fixed_masks(10, 8, 0.3))
    assert fixed_masks(3, 8, 0.0).all()
    assert not fixed_masks(3, 8, 1.0).flatten(1).all(1).any()


@pytest.mark.parametrize("codes", [None, 5], ids=["normal", "codebook"])
def test_the_held_out_loss_is_the_same_for_every_seed_and_chunk(codes: int | None) -> None:
    config = training_of(codes=codes, agreement_weight=0.0, code_weight=0.0 if codes else 0.5)
    module = AutoencoderLoss(some_autoencoder(codes).float(), config)
    images = some_images(10)
    measure = lambda config, chunk: HeldOutReconstruction(config, images, module, chunk)()
    one, seed, chunks = measure(config, 10), measure(replace(config, seed=3), 10), measure(config, 3)
    assert one == seed
    assert chunks.loss == pytest.approx(one.loss, rel=1e-5)
    assert chunks.others == pytest.approx(one.others, rel=1e-5)
    names = {"reconstruction", "features", "code", "agreement", "psnr", "psnr_masked"}
    assert {*one.others} == names | ({"codes_used"} if codes else set())
    assert one.loss == pytest.approx(sum(one.others[name] for name in ("reconstruction", "code")))
    assert {*one.metrics()} == {"heldout_loss", *(f"heldout_{name}" for name in one.others)}
    if codes:  # nothing is drawn
        parts, _ = module(images.squares(), fixed_masks(10, 8, 0.5))
        assert parts[0].item() == pytest.approx(one.others["reconstruction"], rel=1e-5)


def test_an_evaluation_can_be_stopped() -> None:
    module, answers = AutoencoderLoss(some_autoencoder().float(), training_of()), iter([False, True])
    with pytest.raises(Stopped):
        HeldOutReconstruction(training_of(), some_images(10), module, 4)(lambda: next(answers))
