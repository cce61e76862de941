"""Pictures during training: always the same ones, whole or not at all, and nothing else changes by them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from apd_models import DiT, DiTConfig, Patchify
from apd_train import ImageSet
from apd_train._data._image_set import LatentScale
from apd_train._grids import _CANDIDATES, _COLUMNS, STEPS, Grids, draw_grids, grids_of

PATCHIFY = Patchify(8, 8, 1, 2)


def model_of(classes: int = 3, channels: int = 1, **options: object) -> DiT:
    generator = Generator().manual_seed(0)
    config = DiTConfig((4, 4), 4 * channels, width=16, depth=1, heads=2, classes=classes, **options)  # pyrefly: ignore
    model = DiT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def held_out(classes: int = 3, channels: int = 1, count: int = 20) -> ImageSet:
    generator = Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % max(classes, 1)
    return ImageSet([*images], labels, tuple("abcdefghijklmnopqrstuvwxyz"[:classes]), 8)


@pytest.fixture(scope="module")
def model() -> DiT:
    return model_of()


@pytest.fixture(scope="module")
def grids() -> Grids:
    return grids_of(held_out(), PATCHIFY, seed=0)


def pixels(file: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(file)))


def test_what_is_shown_is_a_function_of_the_seed_and_the_weights(model: DiT, grids: Grids, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    one = draw_grids(grids, model, tmp_path / "one", 1000)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    two = draw_grids(grids_of(held_out(), PATCHIFY, seed=0), model, tmp_path / "two", 1000)
    other = draw_grids(grids_of(held_out(), PATCHIFY, seed=1), model, tmp_path / "three", 1000)
    assert [file.name for file in one.values()] == ["samples-00001000.png", "inpainting-00001000.png"]
    assert [*one] == ["samples", "inpainting"]
    for name in one:
        assert torch.equal(pixels(one[name]), pixels(two[name]))
        assert not torch.equal(pixels(one[name]), pixels(other[name]))
    with torch.no_grad():
        changed = model_of()
        changed.head.weight += 0.1
    late = draw_grids(grids, changed, tmp_path / "late", 2000)
    assert not torch.equal(pixels(late["samples"]), pixels(one["samples"]))


def test_the_model_is_left_as_it_was(model: DiT, grids: Grids, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    draw_grids(grids, model, tmp_path, 1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_classes_and_held_out_images_are_spread(grids: Grids) -> None:
    assert grids.classes == {0: "a", 1: "b", 2: "c"}
    many = grids_of(held_out(classes=20, count=40), PATCHIFY, 0)
    assert [*many.classes] == [0, 2, 5, 7, 10, 12, 15, 17]
    assert [*many.classes.values()] == [*"acfhkmpr"]
    assert many.labels is not None
    assert len({*many.labels.tolist()}) == len(many.known)
    of = held_out(classes=20, count=40)
    for original, label in zip(many.originals, many.labels, strict=True):
        assert any(torch.equal(original, of.square(i)) for i in range(40) if of.labels[i] == label)


def test_completions_keep_what_is_known_and_stand_beside_the_image(model: DiT, grids: Grids, tmp_path: Path) -> None:
    """In the picture: shown, completed, …, held out; the pixels that are known agree in all columns of a row."""
    sheet = pixels(draw_grids(grids, model, tmp_path, 1)["inpainting"])
    side, gap = 64, 4
    columns, left, top = _CANDIDATES + 2, sheet.shape[1] - (_CANDIDATES + 2) * (side + gap), 22
    assert sheet.shape[0] == top + len(grids.known) * (side + gap) + gap
    for i, known in enumerate(grids.known.values()):
        rows = slice(top + gap + i * (side + gap), top + i * (side + gap) + gap + side)
        tiles = [sheet[rows, left + j * (side + gap) :][:, :side] for j in range(columns)]
        shown, *completed, original = tiles
        big = known.repeat_interleave(8, 0).repeat_interleave(8, 1)
        assert torch.equal(shown[big], original[big])
        assert (shown[~big] == torch.tensor([120, 150, 200], dtype=torch.uint8)).all()
        assert torch.equal(original[::8, ::8, 0].float(), ((grids.originals[i, 0] + 1) * 127.5).round())
        for each in completed:
            assert torch.equal(each[big], original[big])
            assert not torch.equal(each[~big], original[~big])
        assert not torch.equal(completed[0], completed[1])


def test_without_classes_there_are_rows_without_names(tmp_path: Path) -> None:
    grids = grids_of(held_out(classes=0), PATCHIFY, 0)
    assert (grids.labels, grids.classes) == (None, {})
    sheet = pixels(draw_grids(grids, model_of(classes=0), tmp_path, 1)["samples"])
    assert sheet.shape == (4 * 68 + 4, _COLUMNS * 68 + 4, 3)


@pytest.mark.parametrize("channels", [2, 4])
def test_latents_are_shown_as_colours(channels: int, tmp_path: Path) -> None:
    of = held_out(channels=channels)
    latents = ImageSet(
        of.images, of.labels, of.class_names, 8, latents=LatentScale((0.0,) * channels, (1.0,) * channels)
    )
    grids = grids_of(latents, Patchify(8, 8, channels, 2), 0)
    assert grids.view.scale is not None
    sheet = pixels(draw_grids(grids, model_of(channels=channels), tmp_path, 1)["inpainting"])
    original = sheet[26:90, -68:-4]
    assert bool((original == original[..., :1]).all()) == (channels == 2)
    # A third of the values in [-1, 1] that the held-out images have here.
    assert original.float().sub(127.5).abs().max() <= 127.5 / 3 + 1


@pytest.mark.parametrize("asked", [0, 1, STEPS - 1, STEPS, STEPS + 3])
def test_it_stops_between_two_steps_and_leaves_nothing(asked: int, model: DiT, grids: Grids, tmp_path: Path) -> None:
    calls = []

    def should_stop() -> bool:
        calls.append(1)
        return len(calls) > asked

    assert draw_grids(grids, model, tmp_path / "grids", 1, should_stop) == {}
    assert len(calls) == asked + 1
    assert not (tmp_path / "grids").exists()


def test_every_process_asks_equally_often_and_one_writes(model: DiT, grids: Grids, tmp_path: Path) -> None:
    counts = []
    for write in (True, False):
        asked: list[bool] = []
        files = draw_grids(grids, model, tmp_path / str(write), 1, lambda: bool(asked.append(True)), write)  # noqa: B023
        counts.append(len(asked))
        assert len(files) == 2 * write
    assert counts[0] == counts[1] == 1 + 2 * STEPS
    assert not (tmp_path / "False").exists()


def test_a_folder_that_cannot_be_written_stops_nothing(model: DiT, grids: Grids, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    problems: list[str] = []
    assert draw_grids(grids, model, tmp_path / "file", 1, on_problem=problems.append) == {}
    assert len(problems) == 2
    assert problems[0].startswith(f"{tmp_path}/file/samples-00000001.png cannot be written: ")


def test_a_full_disk_leaves_no_part_of_a_picture(
    model: DiT, grids: Grids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: Image.Image, file: Path, **options: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    draw_grids(grids, model, tmp_path, 1)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(Image.Image, "save", save)
    problems: list[str] = []
    assert draw_grids(grids, model, tmp_path, 1, on_problem=problems.append) == {}
    assert problems[1] == f"{tmp_path}/inpainting-00000001.png cannot be written: No space left on device"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_model_that_puts_out_nonsense_has_no_pictures(grids: Grids, tmp_path: Path) -> None:
    broken = model_of()
    with torch.no_grad():
        broken.head.bias.fill_(torch.nan)
    for write in (True, False):
        problems: list[str] = []
        assert draw_grids(grids, broken, tmp_path, 7, write=write, on_problem=problems.append) == {}
        assert len(problems) == write
        assert not write or problems[0].startswith("no pictures at step 7: ")
    assert [*tmp_path.iterdir()] == []
