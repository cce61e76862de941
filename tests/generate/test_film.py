"""Films: which frames are kept, and what pictures show of them."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apd_generate import Frame, Recipe, Recorder, film_strip, generate, level_colours, level_picture, save_animation
from apd_generate._level_colours import VIRIDIS
from apd_models import DiT, DiTConfig, Patchify

PATCHIFY = Patchify(8, 12, 1, 2)


@pytest.fixture(scope="module")
def model() -> DiT:
    torch.manual_seed(0)
    return DiT(DiTConfig((4, 6), 4, width=32, depth=1, heads=2)).eval()


def film(model: DiT, rows: list[int], most: int = 60, batch: int = 64, **how: Any) -> Recorder:
    recorder = Recorder(PATCHIFY, rows, most)
    recorder.images = generate(model, PATCHIFY, Recipe(**how), range(5), batch=batch, on_step=recorder).images  # type: ignore
    return recorder


def test_a_film_ends_with_the_image_and_follows_the_path(model: DiT) -> None:
    recorder = film(model, [0, 3], order="raster", cells=2, steps=8, batch=2)
    for row in (0, 3):
        frames = recorder.frames(row)
        assert [frame.step for frame in frames] == [*range(1, 9)]
        assert torch.equal(frames[-1].image, recorder.images[row])  # type: ignore
        assert (frames[-1].levels < 2e-3).all()
        levels = torch.stack([frame.levels for frame in frames]).unflatten(1, (4, 6))
        assert (levels[1, :2, :3] < 2e-3).all()  # the first cell is done after two steps
        assert (levels[1, 2:] > 0.99).all()
        assert (levels.diff(dim=0) <= 0).all()


@pytest.mark.parametrize(("steps", "most"), [(8, 3), (7, 7), (5, 60), (9, 1), (1, 4)])
def test_no_more_frames_than_asked_for_evenly_spread_and_the_last(model: DiT, steps: int, most: int) -> None:
    frames = film(model, [1], most, steps=steps).frames(1)
    found = [frame.step for frame in frames]
    assert found[0] == 1 or most == 1
    assert found[-1] == steps
    assert len(found) <= most + 2
    gaps = {b - a for a, b in pairwise(found[1:-1])}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_nothing_recorded_of_others(model: DiT) -> None:
    recorder = film(model, [2], steps=2)
    assert [*recorder.rows] == [2]
    with pytest.raises(KeyError):
        recorder.frames(0)
    with pytest.raises(ValueError, match="at least one frame"):
        Recorder(PATCHIFY, [0], 0)


def test_colours_run_from_dark_to_light_through_the_anchors() -> None:
    colours = level_colours(torch.linspace(0, 1, 9)).add(1).mul(127.5)
    torch.testing.assert_close(colours.T, torch.tensor(VIRIDIS).float(), rtol=0, atol=1e-3)
    fine = level_colours(torch.linspace(0, 1, 101))
    grey = torch.tensor([0.299, 0.587, 0.114]) @ fine
    assert (grey.diff() > 0).all()


def test_a_level_picture_lies_as_the_image_does() -> None:
    levels = torch.zeros(24)
    levels[7] = 1.0  # second row, second column
    picture = np.asarray(level_picture(levels, (4, 6), 5))
    assert picture.shape == (20, 30, 3)
    assert (picture[5:10, 5:10] == VIRIDIS[-1]).all()
    picture = picture.copy()
    picture[5:10, 5:10] = VIRIDIS[0]
    assert (picture == VIRIDIS[0]).all()
    with pytest.raises(ValueError, match="a grid of 4 by 6 does not hold 5 tokens"):
        level_picture(torch.zeros(5), (4, 6))


def frames(count: int, level: float = 0.5) -> list[Frame]:
    return [Frame(k + 1, torch.full((1, 8, 12), k / count), torch.full((24,), level)) for k in range(count)]


def test_a_strip_shows_maps_above_images() -> None:
    strip = np.asarray(film_strip(frames(20), PATCHIFY, columns=4))
    tiles = 4 * (96 + 4) + 4
    assert strip.shape[1] > tiles
    left = strip.shape[1] - tiles
    assert (strip[22 + 4 + 10, left + 20] == VIRIDIS[4]).all()
    shown = [strip[22 + 4 + 64 + 4 + 10, left + 20 + 100 * k, 0] for k in range(4)]
    assert shown == sorted(shown)
    assert shown[0] == 128
    assert film_strip(frames(1), PATCHIFY).width > 100
    with pytest.raises(ValueError, match="at least one frame"):
        film_strip([], PATCHIFY)


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_an_animation_plays_films_side_by_side(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"film{ending}"
    save_animation([frames(5), frames(3, 1.0)], PATCHIFY, file, side=8)
    with Image.open(file) as found:
        assert found.n_frames == 5  # type: ignore
        assert found.info["loop"] == 0
        found.seek(4)
        last = np.asarray(found.convert("RGB")).astype(int)
    assert last.shape == (2 * 12 + 4, 2 * 16 + 4, 3)
    assert abs(last[8, 8] - 230).max() < 12  # the first film's last image
    assert abs(last[8, 24] - VIRIDIS[4]).max() < 24
    assert abs(last[20, 8] - 213).max() < 12  # the shorter one rests at its end
    assert abs(last[20, 24] - VIRIDIS[-1]).max() < 24


def test_an_animation_goes_into_an_open_file() -> None:
    into = io.BytesIO()
    save_animation([frames(3)], PATCHIFY, into, format="webp")
    with Image.open(into) as found:
        assert (found.format, found.n_frames) == ("WEBP", 3)  # type: ignore
    with pytest.raises(ValueError, match="got 'nothing'"):
        save_animation([frames(3)], PATCHIFY, io.BytesIO())


def test_what_is_no_animation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an animation ends in .gif, .webp, .png, got 'mp4'"):
        save_animation([frames(2)], PATCHIFY, tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="at least one film"):
        save_animation([], PATCHIFY, tmp_path / "film.gif")
    with pytest.raises(ValueError, match="at least one frame"):
        save_animation([[]], PATCHIFY, tmp_path / "film.gif")
    assert not [*tmp_path.iterdir()]
