"""The demo's server around a model of latents: the page is about images all the same."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from apd_generate import Recipe, decoded, generate, to_image
from apd_models import Codec, Pretrained, from_pretrained, image_patchify, load_codec
from app_runner import app_here, assert_refused
from demo_client import HERE, Runs, build, draw, events_of, hole_of, image_of, start
from latent_cases import make_codec, make_latent_model

SIDE = 16
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[5:9, 4:8] = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images of 16×16, latents of 8×8."""
    place = tmp_path_factory.mktemp("latents")
    return make_latent_model(place / "model", make_codec(place / "codec"), names=("cat", "dog"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Pretrained, Codec]:
    return from_pretrained(folder), load_codec(folder / "codec")


def served(pretrained: Pretrained, codec: Codec, **how: Any) -> Iterator[TestClient]:
    runs = Runs(partial(draw, pretrained, codec=codec, **how))
    shown = replace(pretrained, patchify=image_patchify(codec, pretrained.patchify))
    app = build(shown, "tiny", runs, HERE)
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(loaded: tuple[Pretrained, Codec]) -> Iterator[TestClient]:
    yield from served(*loaded, dilate=1)


def a_picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def pixels(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


def test_the_page_is_told_of_images(client: TestClient) -> None:
    model = client.get("/api/model").json()
    told = {"height": 16, "width": 16, "channels": 3, "patch": 4, "grid": [4, 4], "of_latents": True}
    assert {name: model[name] for name in told} == told


def test_images_are_decoded_also_in_the_last_frame(client: TestClient, loaded: tuple[Pretrained, Codec]) -> None:
    run = start(client, {"class": "dog", "seeds": [3, 8], "recipe": {"steps": 4}})
    (*frames, (kind, end)) = events_of(client, run)
    pretrained, codec = loaded
    latents = generate(pretrained.model, pretrained.patchify, Recipe(steps=4), [3, 8], torch.tensor([1, 1])).images
    expected = [np.array(to_image(image)) for image in decoded(codec, pretrained, latents)]
    for k in range(2):
        assert (pixels(client.get(f"/api/runs/{run}/{k}.png").content) == expected[k]).all()
    last = frames[-1][1]
    assert base64.b64decode(last["images"]) == b"".join(image.tobytes() for image in expected)
    assert len(base64.b64decode(last["levels"])) == 2 * 16
    assert (kind, end["note"], len(end["spread"])) == ("done", "", 16)
    film = client.get(f"/api/runs/{run}/frames").json()
    assert len(base64.b64decode(film["images"])) == len(film["steps"]) * 2 * SIDE * SIDE * 3
    assert pixels(client.get(f"/api/runs/{run}/0-levels.png").content).shape[-1] == 3


def test_a_slow_decoder_holds_nothing_up_and_the_last_frame_is_the_image(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock on which decoding alone takes time, one image is decoded on the way, and that in the end."""
    clock = [0.0]

    def slowly(*told: Any) -> torch.Tensor:
        clock[0] += 1
        return decoded(*told)

    monkeypatch.setattr("demo_views.decoded", slowly)
    monkeypatch.setattr("demo_views.perf_counter", lambda: clock[0])
    run = start(client, {"seeds": [3], "recipe": {"steps": 4}})
    assert events_of(client, run)[-1][0] == "done"
    film = client.get(f"/api/runs/{run}/frames").json()
    shown = np.frombuffer(base64.b64decode(film["images"]), np.uint8).reshape(-1, SIDE, SIDE, 3)
    assert film["steps"] == [1, 2, 3, 4, 4]
    assert (shown[:4] == shown[0]).all()
    assert (shown[4] == pixels(client.get(f"/api/runs/{run}/0.png").content)).all()
    assert (shown[4] != shown[0]).any()
    assert clock == [2.0]


def test_known_pixels_come_back_and_the_growth_is_told(client: TestClient) -> None:
    given = {"image": image_of(a_picture(0)), "hole": hole_of(HOLE)}
    run = start(client, {"class": "cat", "seeds": [1], "recipe": {"steps": 3}, **given})
    end = events_of(client, run)[-1][1]
    made = pixels(client.get(f"/api/runs/{run}/0.png").content)
    assert (made[~HOLE] == a_picture(0)[~HOLE]).all()
    assert (made[HOLE] != a_picture(0)[HOLE]).any()
    assert end["note"] == "Latents within 1 cell of what is hidden were made anew, too."
    film = client.get(f"/api/runs/{run}/frames").json()
    levels = np.frombuffer(base64.b64decode(film["levels"]), np.uint8).reshape(-1, 4, 4)[0]
    shown = np.frombuffer(base64.b64decode(film["images"]), np.uint8).reshape(-1, SIDE, SIDE, 3)
    assert (shown[:, ~HOLE] == a_picture(0)[~HOLE]).all()  # on the way too
    assert (levels[:3, :3] > 0).all()
    assert (levels[3] == 0).all()
    other = a_picture(0)
    other[HOLE] = 255 - other[HOLE]
    again = start(client, {"class": "cat", "seeds": [1], "recipe": {"steps": 3}, **given, "image": image_of(other)})
    events_of(client, again)
    assert (pixels(client.get(f"/api/runs/{again}/0.png").content) == made).all()


def test_painted_levels_start_from_the_image(client: TestClient) -> None:
    levels: list[list[float | None]] = [[None] * 4, [None, 0.2, None, None], [None] * 4, [None] * 4]
    task = {"seeds": [1], "recipe": {"steps": 3}, "image": image_of(a_picture(0)), "levels": levels}
    run = start(client, task)
    assert events_of(client, run)[-1][0] == "done"
    made = pixels(client.get(f"/api/runs/{run}/0.png").content)
    changed = (made != a_picture(0)).any(-1)
    assert changed[4:8, 4:8].any()
    changed[4:8, 4:8] = False
    assert not changed.any()
    record = json.loads(client.get(f"/api/runs/{run}/recipe.json").text)
    assert record["levels"] == levels
    whole = start(client, {**task, "levels": [[0.0] * 4] * 4})
    assert "all of the image is kept" in events_of(client, whole)[-1][1]["error"]


def test_a_wrong_command_line_is_refused(folder: Path, tmp_path: Path) -> None:
    bare = make_latent_model(tmp_path / "bare", folder / "codec", inside=False)
    serve = lambda model, *more: app_here("demo", "--model", model, "--port", 0, *more)
    assert_refused(serve(bare), "say --codec PATH")
    assert_refused(serve(bare, "--codec", make_codec(tmp_path / "other", 1)), "of another autoencoder")
    assert_refused(serve(folder, "--leak", -1), "--leak must be")
