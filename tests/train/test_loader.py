"""Batches from other processes: the same as from this one, in order, and faults as they are."""

import dataclasses
import os
import pickle
import signal
import warnings
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Generator, Tensor

from apd_models import Patchify
from apd_train import Animals28, Batch, Batches, DataError, Execution, TrainConfig, dry_run, load_animals28
from apd_train._data import ImageFolder, ImageLmdb, ImageSet, Latents
from apd_train._loader import loader
from apd_train._random import generator
from image_files import encoded, pixels, write_folder, write_lsun, write_shard

CONFIG = TrainConfig(data=Animals28(), image_size=28, batch_size=6, steps=50, seed=3)
SMALL = dataclasses.replace(CONFIG, image_size=8)
SQUARES = Patchify(8, 8, 3, 4)


@pytest.fixture(scope="module")
def batches() -> Batches:
    return Batches(CONFIG, load_animals28().subset(range(0, 10_000, 200)), Patchify(28, 28, 1, 4))


def tensors(batch: Batch) -> list[Tensor]:
    return [batch.x, batch.eps, batch.draw.noise.log_snr, batch.draw.weight, batch.label]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def children() -> set[int]:
    (task,) = [Path(f"/proc/self/task/{os.getpid()}/children")]
    return {int(number) for number in task.read_text().split()}


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_come_in_order_from_any_step_on(batches: Batches, workers: int) -> None:
    found = [*loader(batches, 1, 3, 4, 9, workers)]
    assert len(found) == 5
    for step, batch in enumerate(found, 4):
        assert same(batch, batches(step, 1, 3))


def test_the_global_generator_is_left_alone_and_workers_end(batches: Batches) -> None:
    state, before = torch.get_rng_state(), children()
    ahead = loader(batches, 0, 1, 0, 50, 2)
    next(ahead)
    assert len(children() - before) == 2
    ahead.close()
    assert children() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_signals_are_left_to_this_process(batches: Batches) -> None:
    """What a terminal, a queue or a supervisor sends to the whole group does not end a worker."""
    before = children()
    ahead = loader(batches, 0, 1, 0, 20, 2)
    first = [next(ahead), next(ahead)]  # one from each
    for worker in children() - before:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(worker, number)
    rest = [*first, *ahead]
    assert len(rest) == 20
    assert same(rest[19], batches(19))


def test_a_worker_that_is_killed_is_a_data_error(batches: Batches) -> None:
    before = children()
    ahead = loader(batches, 0, 1, 0, 200, 1)
    next(ahead)
    (worker,) = children() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(DataError, match="a process that reads data died, perhaps of too little memory: "):
        list(ahead)
    assert children() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_is_one_line_wherever_it_happens(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path, ["0.png", "1.png"])
    images = ImageFolder(tmp_path, in_memory=False).load(8)
    for k in range(2):
        (tmp_path / f"{k}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^\d\.png and the images of its class that follow it cannot be read: .*\?$"):
        next(loader(Batches(SMALL, images, SQUARES), 0, 1, 0, 3, workers, on_unreadable=lambda problem: None))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_told_of_once(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path, [f"{k}.png" for k in range(5)])
    images = ImageFolder(tmp_path, in_memory=False).load(8)
    (tmp_path / "3.png").write_bytes(b"")
    told: list[str] = []
    found = [*loader(Batches(SMALL, images, SQUARES), 0, 1, 0, 6, workers, on_unreadable=told.append)]
    assert told == ["3.png: cannot identify image file"]
    assert sum(len(batch.unreadable) for batch in found) == 7  # of 36 samples, one in five
    assert all(same(batch, Batches(SMALL, images, SQUARES)(step)) for step, batch in enumerate(found))


def test_neither_workers_nor_devices_change_what_stands_in(tmp_path: Path) -> None:
    """An LMDB, opened in this process and in each worker."""
    write_lsun(tmp_path / "db", 5)
    images = ImageLmdb(tmp_path / "db", in_memory=False).load(8)
    batches = Batches(SMALL, images, SQUARES)
    whole = [batches(step) for step in range(4)]
    for rank in range(2):
        for step, part in enumerate(loader(batches, rank, 2, 0, 4, 1)):
            for mine, full in zip(tensors(part), tensors(whole[step]), strict=True):
                assert torch.equal(mine, full[rank::2])


def latents(folder: Path, **more: Tensor) -> ImageSet:
    z = torch.randn(5, 4, 8, 8, generator=Generator().manual_seed(0))
    write_shard(folder / "0.safetensors", {"moments": z, **more}, mean=[0.0, 0.0], std=[1.0, 1.0])
    return Latents(folder).load(8)


def test_latents_are_drawn_anew_for_each_sample_and_shift_nothing_else(tmp_path: Path) -> None:
    config, patchify = dataclasses.replace(SMALL, flip=False), Patchify(8, 8, 2, 4)
    images = latents(tmp_path)
    batches = Batches(config, images, patchify)
    first, second = batches(0), batches(1)  # twelve samples of five images
    assert len({x.numpy().tobytes() for x in torch.cat([first.x, second.x])}) == 12
    assert same(first, batches(0))
    stream = generator(3, "sample", 7)
    torch.rand(3, generator=stream)
    assert torch.equal(second.eps[1], torch.randn(4, 32, generator=stream))
    index = int(
        torch.randperm(5, generator=generator(3, "order", 1))[2]
    )  # the seventh sample is the third of its epoch
    assert torch.equal(second.x[1], patchify.to_tokens(images.square(index, generator=stream)))
    with pytest.raises(DataError, match="latents without encodings of the mirrored images cannot be flipped"):
        Batches(SMALL, images, patchify)
    with pytest.raises(DataError, match="cannot be flipped"):
        dry_run(SMALL, images, Fabric(accelerator="cpu", devices=1), Execution())
    mirrored = latents(tmp_path, mirrored=torch.full((5, 4, 8, 8), -30.0))
    flipped = (Batches(SMALL, mirrored, patchify)(0).x < -25).flatten(1).all(1)
    assert 0 < flipped.sum() < 6


def test_a_batch_survives_pickling(batches: Batches) -> None:
    batch = dataclasses.replace(batches(0), unreadable=("x",))
    back = pickle.loads(pickle.dumps(batch))
    assert isinstance(back, Batch)
    assert same(batch, back)
    assert back.unreadable == ("x",)


def test_batches_are_pinned_where_there_is_a_gpu(batches: Batches) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError):
            batches(0).pin_memory()
        return
    pinned = next(loader(batches, 0, 1, 0, 2, 1, pin=True))
    assert all(each.is_pinned() for each in tensors(pinned))
    assert same(pinned, batches(0))


def test_a_warning_is_the_default(tmp_path: Path) -> None:
    write_folder(tmp_path, ["0.png", "1.png"])
    images = ImageFolder(tmp_path, in_memory=False).load(8)
    (tmp_path / "1.png").write_bytes(encoded(pixels(0))[:40])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        [*loader(Batches(SMALL, images, SQUARES), 0, 1, 0, 3)]
    assert [str(warning.message)[:7] for warning in caught] == ["1.png: "]
