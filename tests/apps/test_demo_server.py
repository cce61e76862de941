"""The demo's server: what it draws, for whom, and what it refuses."""

import base64
import importlib.util
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from apd_generate import Given, Recipe, generate, to_image
from apd_models import save_pretrained
from app_runner import app_here, assert_refused
from demo_client import (
    DEMO,
    HERE,
    SIDE,
    Drawn,
    Film,
    Frame,
    Runs,
    Task,
    build,
    demo,
    draw,
    events_of,
    hole_of,
    image_of,
    picture,
    start,
    tiny_model,
    until,
)
from image_bytes import png_header, png_of

PRETRAINED = tiny_model()
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[3:, 2:] = True  # cuts patches


@pytest.fixture
def client() -> Iterator[TestClient]:
    with demo(PRETRAINED) as (client, _):
        yield client


def task(**parts: Any) -> dict[str, Any]:
    return {"class": "dog", "seeds": [3, 8], "recipe": {"steps": 4}, **parts}


def completion(**parts: Any) -> dict[str, Any]:
    return task(image=image_of(picture(0)), hole=hole_of(HOLE), **parts)


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image).reshape(SIDE, SIDE, -1)


def drawn(client: TestClient, task: dict[str, Any]) -> list[bytes]:
    run = start(client, task)
    assert events_of(client, run)[-1][0] == "done"
    return [client.get(f"/api/runs/{run}/{k}.png").content for k in range(len(task["seeds"]))]


# What it draws


def test_images_are_those_that_the_library_draws_and_known_pixels_come_back(client: TestClient) -> None:
    got = [decoded(png) for png in drawn(client, completion())]
    x = torch.from_numpy(picture(0)).permute(2, 0, 1).float().div(127.5).sub(1)[None]
    given = Given(x, ~torch.from_numpy(HOLE)[None]).repeated(2)
    labels = torch.tensor([1, 1])
    model, patchify = PRETRAINED.model, PRETRAINED.patchify
    direct = generate(model, patchify, Recipe(steps=4), [3, 8], labels, given=given).images
    for mine, image in zip(got, direct, strict=True):
        assert np.array_equal(mine[..., 0], np.asarray(to_image(image)))
        assert np.array_equal(mine[~HOLE], picture(0)[~HOLE])
    assert not np.array_equal(got[0], got[1])


def test_a_painted_level_rules_its_patch(client: TestClient) -> None:
    """0 keeps a patch in the hole, above 0 one outside of it is changed, and none keeps what the hole says."""
    levels: list[list[float | None]] = [[None] * 4 for _ in range(4)]
    levels[3][3], levels[0][0] = 0.0, 0.6
    (first, _) = (decoded(png) for png in drawn(client, completion(levels=levels)))
    same = (first == picture(0))[..., 0]
    assert same[6:, 6:].all()
    assert not same[:2, :2].all()
    assert same[:3, 2:].all()
    assert not same[3:6, 2:].all()


def test_a_little_noise_changes_little(client: TestClient) -> None:
    changes = []
    for level in (0.05, 0.5, 1.0):
        levels = [[level] * 4 for _ in range(4)]
        (image, _) = (decoded(png) for png in drawn(client, task(image=image_of(picture(0)), levels=levels)))
        changes.append(np.abs(image.astype(float) - picture(0)).mean())
    assert 0 < changes[0] < changes[1] / 2 < changes[2] / 2


def test_the_recipe_of_a_run_draws_it_again_to_the_bit(client: TestClient) -> None:
    order = [[float((3 * i + 5 * j) % 7) for j in range(4)] for i in range(4)]
    recipe = {"scheduler": "sequential", "order": "drawn", "drawn": order, "steps": 14, "solver": "adams"}
    levels = [[0.75, None, None, 0.0]] + [[None] * 4] * 3
    first = start(client, completion(recipe=recipe, levels=levels, seeds=[5, 2**53 - 1]))
    events_of(client, first)
    saved = client.get(f"/api/runs/{first}/recipe.json")
    assert saved.headers["content-disposition"] == 'attachment; filename="recipe.json"'
    record = saved.json()
    assert record["recipe"]["drawn"] == order
    assert record["seeds"] == [5, 2**53 - 1]
    assert client.post("/api/check", json=record).json() == {"task": record, "note": ""}
    again = drawn(client, record)
    assert [client.get(f"/api/runs/{first}/{k}.png").content for k in (0, 1)] == again
    for name in ("weights", "sha256"):  # of two trainings of one length the first is the same
        other = {**record, "model": {**record["model"], name: "others"}}
        assert "another model" in client.post("/api/check", json=other).json()["note"]
    earlier = {**record, "model": {"weights": record["model"]["weights"]}}
    assert client.post("/api/check", json=earlier).json()["note"] == ""


def test_events_end_in_the_image_and_in_a_clean_map(client: TestClient) -> None:
    run = start(client, completion())
    events = events_of(client, run)
    kinds = [kind for kind, _ in events]
    assert kinds[-2:] == ["frame", "done"]
    last, end = events[-2][1], events[-1][1]
    assert (last["step"], last["total"]) == (4, 4)
    assert end["evaluations"] == last["evaluations"] == 8  # guided by the class
    pixels = np.frombuffer(base64.b64decode(last["images"]), np.uint8).reshape(2, SIDE, SIDE, 1)
    images = [decoded(client.get(f"/api/runs/{run}/{k}.png").content) for k in (0, 1)]
    assert np.array_equal(pixels, images)
    film = client.get(f"/api/runs/{run}/frames").json()
    assert film["steps"] == [1, 2, 3, 4]
    levels = np.frombuffer(base64.b64decode(film["levels"]), np.uint8).reshape(4, 2, 4, 4)
    cut = HOLE.reshape(4, 2, 4, 2).any((1, 3))
    assert (levels[:, :, cut].T == np.array([191, 128, 64, 0])).all()
    assert (levels[:, :, ~cut] == 0).all()
    assert (levels[-1] == 0).all()
    assert (np.diff(levels.astype(int), axis=0) <= 0).all()
    spread = np.array(end["spread"]).reshape(4, 4)
    per_pixel = np.var(np.array(images, float), axis=0, ddof=1)[..., 0].reshape(4, 2, 4, 2).mean((1, 3))
    assert np.allclose(spread, np.sqrt(per_pixel), atol=1.0)  # of images before they are rounded
    assert (spread[~cut] == 0).all()
    with Image.open(io.BytesIO(client.get(f"/api/runs/{run}/0.webp").content)) as animation:
        assert getattr(animation, "n_frames", 1) == 4
    with Image.open(io.BytesIO(client.get(f"/api/runs/{run}/0-levels.png").content)) as strip:
        assert strip.format == "PNG"
        assert strip.width > 4 * 64


def test_without_an_image_everything_is_drawn_and_one_candidate_has_no_spread(client: TestClient) -> None:
    run = start(client, {"class": None, "seeds": [1], "recipe": {"steps": 2}})
    kind, end = events_of(client, run)[-1]
    assert (kind, end["spread"]) == ("done", None)
    whole = drawn(client, task(seeds=[1], image=image_of(picture(0)), hole=["#" * SIDE] * SIDE))
    assert whole == drawn(client, task(seeds=[1]))


def test_colours_stay_colours() -> None:
    pretrained = tiny_model(channels=3, classes=())
    with demo(pretrained) as (client, _):
        given = {"image": image_of(picture(1, 3)), "hole": hole_of(HOLE)}
        (image,) = (decoded(png) for png in drawn(client, {"seeds": [4], "recipe": {"steps": 2}, **given}))
    assert np.array_equal(image[~HOLE], picture(1, 3)[~HOLE])
    assert not np.array_equal(image, picture(1, 3))


def test_a_page_is_told_which_fields_matter(client: TestClient) -> None:
    """A choice that has no meaning with the others is left out; a wrong value is named."""
    ask = lambda **wanted: client.post("/api/recipe", json=wanted)
    staggered = ask(scheduler="staggered", cells=2, patience=0.3, eta=0.5, steps=7).json()
    assert {"cells": 2, "eta": 0.5, "steps": 7, "width": 0.5}.items() <= staggered.items()
    assert "patience" not in staggered
    assert "cells" not in ask(scheduler="synchronous", cells=2).json()
    assert ask(order="drawn", scheduler="sequential", drawn=[[0, 0, 1, 2]] * 4).json()["steps"] == 24
    assert "cells" not in ask(scheduler="sequential", order="hilbert", cells=3).json()
    for wanted, field in (({"steps": -1}, "steps"), ({"scheduler": "slow"}, "scheduler"), ({"eta": "x"}, "eta")):
        answer = ask(**wanted)
        assert (answer.status_code, answer.json()["field"]) == (400, field)
    facts = client.get("/api/model").json()
    assert facts["classes"] == ["cat", "dog", "owl"]
    assert facts["examples"] == []
    assert len(facts["ramp"]) == 256


# What it refuses


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"seeds": []}, "1 to 16 seeds"),
        ({"seeds": list(range(17))}, "1 to 16 seeds"),
        ({"seeds": "0-3"}, "1 to 16 seeds"),
        ({"seeds": [True]}, "whole number"),
        ({"seeds": [-1]}, "whole number"),
        ({"seeds": [2**53]}, "whole number"),
        ({"seeds": [0.5]}, "whole number"),
        ({"class": "horse"}, "there is no class 'horse'; this model has cat, dog, owl"),
        ({"class": 1}, "there is no class '1'"),
        ({"image": image_of(picture(0, 3))}, "8×8 with 1 channels"),
        ({"image": {**image_of(picture(0)), "pixels": "AAAA"}}, "64 bytes"),
        ({"image": {**image_of(picture(0)), "pixels": "é"}}, "base64"),
        ({"image": {**image_of(picture(0)), "pixels": 5}}, "base64"),
        ({"image": {**image_of(picture(0)), "channels": True}}, "1 channels"),
        ({"image": [1, 2]}, "height, width"),
        ({"hole": ["." * SIDE] * 7}, "8 rows of 8 letters"),
        ({"hole": ["x" * SIDE] * SIDE}, "8 rows of 8 letters"),
        ({"hole": [[0] * SIDE] * SIDE}, "8 rows of 8 letters"),
        ({"levels": [[0.5] * 4] * 3}, "4 rows of 4 numbers"),
        ({"levels": [[1.5] * 4] * 4}, "4 rows of 4 numbers"),
        ({"levels": [[True] * 4] * 4}, "4 rows of 4 numbers"),
        ({"levels": [["1"] * 4] * 4}, "4 rows of 4 numbers"),
        ({"recipe": {"speed": 3}}, "no field 'speed'"),
        ({"recipe": {"steps": "many"}}, "steps"),
        ({"recipe": {"steps": 2001}}, "at most 2000 steps"),
        ({"recipe": {"method": "repaint", "steps": 600}}, "at most 5000 steps of repaint"),
        ({"recipe": {"restarts": 200, "restart_steps": 11}}, "at most 2000 steps"),
        ({"recipe": {"autoguidance": 2.0}}, "weaker model"),
        ({"recipe": {"width": 0.5}}, "width"),
        ({"recipe": []}, "object"),
        ({"colour": "red"}, "no field 'colour'"),
        ({"format": "apd-demo/9"}, "format is not"),
    ],
    ids=range(32),
)
def test_what_is_wrong_in_a_task_is_said_in_one_line(client: TestClient, parts: dict[str, Any], message: str) -> None:
    answer = client.post("/api/runs", json={**completion(), **parts})
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert len(answer.json()["error"].splitlines()) == 1
    assert answer.json()["field"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b'{"seeds": [NaN]}', "NaN is no number"),
        (b'{"recipe": {"shift": -Infinity}}', "-Infinity is no number"),
        (b'{"seeds": [' + b"9" * 5000 + b"]}", "not JSON"),
        (b"[" * 50_000, "nested too deeply"),
        (b"[]", "object of named fields"),
        (b"null", "object of named fields"),
        (b'{"recipe": {"shift": 1e999}}', "shift"),
    ],
    ids=range(10),
)
def test_what_is_no_task_is_refused(client: TestClient, body: bytes, message: str) -> None:
    for path in ("/api/runs", "/api/check"):
        answer = client.post(path, content=body)
        assert answer.status_code == 400
        assert message in answer.json()["error"]


def test_nothing_to_generate_and_recipes_that_do_not_fit_end_the_run_with_a_word(client: TestClient) -> None:
    for wrong, message, field in (
        (task(image=image_of(picture(0))), "paint a hole", "hole"),
        (task(recipe={"steps": 2, "input_guidance": 1.0}), "input guidance", "recipe"),
    ):
        kind, end = events_of(client, start(client, wrong))[-1]
        assert (kind, end["field"]) == ("failed", field)
        assert message in end["error"]


MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../etc/passwd"\r\n'
    b"Content-Type: image/png\r\n\r\n" + png_of(picture(2)) + b"\r\n--x--\r\n"
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is a text, whatever it is called",
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
        png_header(20_000, 20_000),
        png_of(picture(2))[:-30],
        MULTIPART,
        b"GIF89a" + b"\xff" * 40,
    ],
    ids=["empty", "text", "svg", "entity", "huge", "cut", "multipart", "gif"],
)
def test_what_is_no_image_is_refused(client: TestClient, content: bytes) -> None:
    answer = client.post("/api/fit", content=content, headers={"Content-Type": "image/png"})
    assert answer.status_code == 400
    assert answer.json()["field"] == "image"
    assert len(answer.json()["error"].splitlines()) == 1
    assert not {"Traceback", "passwd"} & set(answer.text.split())


def test_an_image_of_the_models_size_comes_back_as_it_is(client: TestClient) -> None:
    answer = client.post("/api/fit", content=png_of(picture(2)), headers={"Content-Type": "text/html"}).json()
    assert answer["pixels"] == image_of(picture(2))["pixels"]
    assert "8×8 pixels" in answer["report"]


def test_bodies_that_are_too_long_are_not_read(client: TestClient) -> None:
    told = client.post("/api/fit", content=b"x", headers={"Content-Length": "20000001"})
    assert (told.status_code, told.json()) == (413, {"error": "that is too large: at most 20 MB are taken"})
    taken = 0

    def untold() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(500):
            taken += 100_000
            yield b"\0" * 100_000

    assert client.post("/api/fit", content=untold()).status_code == 413
    for path in ("/api/runs", "/api/check", "/api/recipe"):
        assert client.post(path, content=b" " * 200_000).status_code == 413
    assert client.post("/api/fit", content=b"x", headers={"Content-Length": "-1"}).status_code == 413


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "localhost.evil.example", "", "[", "a@b", "256.1.1.1"]
)
def test_only_its_own_names_are_answered(client: TestClient, host: str) -> None:
    answer = client.get("/api/model", headers={"Host": host})
    assert answer.status_code == 400
    assert "error" in answer.json()
    for own in ("localhost:1", "127.0.0.1", "[::1]:7860", "10.0.0.7:7860", "LOCALHOST"):
        assert client.get("/api/model", headers={"Host": own}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:7861"},
        {"Origin": "http://127.0.0.1:7860.evil.example"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_pages_elsewhere_cannot_start_or_cancel(client: TestClient, headers: dict[str, str]) -> None:
    run = start(client, task())
    for path in ("/api/runs", f"/api/runs/{run}/cancel", "/api/fit"):
        assert client.post(path, json=task(), headers=headers).status_code == 403
    own = {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/runs", json=task(), headers=own).status_code == 201


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/page/main.js",
        "/demo_web.py",
        "/main.js/../../demo_web.py",
        "/api/runs/..%2f..%2fetc/events",
        "/api/runs/../../etc/passwd/0.png",
        "/api/runs/none/events",
        "/api/runs/none/0.png",
        "/api/runs/none/-1.png",
    ],
)
def test_no_path_leads_to_other_files(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def test_every_answer_has_the_headers_that_protect_it(client: TestClient) -> None:
    answers = [
        *(client.get(path) for path in ("/", "/main.js", "/base.css", "/icon.svg", "/api/model", "/none")),
        client.post("/"),
        client.post("/api/runs", content=b"x"),
        client.get("/", headers={"Host": "evil.example"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 404, 405, 400, 400]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "access-control-allow-origin" not in answer.headers
    assert answers[1].headers["content-type"].startswith("text/javascript")


def test_the_page_has_nothing_inline_and_asks_nobody_else() -> None:
    page = Path(__file__).parents[2] / "apps" / "demo" / "page"
    text = "".join(file.read_text() for file in page.iterdir())
    for sign in ("https://", "//cdn", "innerHTML", "eval(", "style=", "onclick=", "<style"):
        assert sign not in text
    assert "<script>" not in text
    assert text.count("http://") == text.count('xmlns="http://www.w3.org/2000/svg"')


# Several users, the queue, and its end


def test_two_users_at_once_get_their_own() -> None:
    tasks = [completion(seeds=[1, 2]), completion(seeds=[7], **{"class": "owl"}), task(seeds=[4, 4, 9])]
    with demo(PRETRAINED) as (client, _):
        alone = [drawn(client, each) for each in tasks]
        runs = [start(client, tasks[k % 3]) for k in range(6)]
        assert len(set(runs)) == 6
        assert all(len(run) > 20 for run in runs)
        ends: dict[int, str] = {}
        watch = lambda k: ends.update({k: events_of(client, runs[k])[-1][0]})
        watchers = [threading.Thread(target=watch, args=(k,)) for k in (5, 0, 3, 1, 4, 2)]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
        assert ends == dict.fromkeys(range(6), "done")
        for k, run in enumerate(runs):
            expected = alone[k % 3]
            assert [client.get(f"/api/runs/{run}/{i}.png").content for i in range(len(expected))] == expected
            assert client.get(f"/api/runs/{run}/{len(expected)}.png").status_code == 404


def counted(steps: list[int]) -> Callable[..., Drawn]:
    """Draws as ever, and keeps count of the steps that were begun."""

    def draws(pretrained: Any, task: Any, on_frame: Callable[[Frame], None]) -> Drawn:
        def tell(frame: Frame) -> None:
            steps.append(frame.step)
            on_frame(frame)

        return draw(pretrained, task, tell)

    return draws


def test_a_cancelled_run_stops_within_a_step_and_the_next_goes_on() -> None:
    steps: list[int] = []
    with demo(PRETRAINED, counted(steps)) as (client, runs):
        long, next_one = (start(client, task(recipe={"steps": n})) for n in (2000, 2))
        until(lambda: len(steps) > 5)
        assert client.post(f"/api/runs/{long}/cancel").status_code == 200
        before = len(steps)
        run = runs.find(long)
        assert run is not None
        until(lambda: run.state == "cancelled")
        assert len([step for step in steps if step > 2]) <= before + 2
        assert events_of(client, next_one)[-1][0] == "done"
        assert events_of(client, long)[-1][0] == "cancelled"
        assert client.get(f"/api/runs/{long}/0.png").status_code == 404
        assert max(steps) < 1990


class Gate:
    """A drawing that waits until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, pretrained: Any, task: Any, on_frame: Callable[[Frame], None]) -> Drawn:
        while not self.open.wait(0.005):
            on_frame(Frame(0, 1, 0, b"", b"\0"))
        return draw(pretrained, task, on_frame)


def test_the_queue_is_short_tells_places_and_can_be_left() -> None:
    gate = Gate()
    with demo(PRETRAINED, gate, most_waiting=2) as (client, runs):
        first = start(client, task())
        until(lambda: runs.find(first).state == "running")  # type: ignore[union-attr]
        places = [client.post("/api/runs", json=task()).json() for _ in range(2)]
        assert [place["ahead"] for place in places] == [1, 2]
        full = client.post("/api/runs", json=task())
        assert full.status_code == 503
        assert "waiting already" in full.json()["error"]
        assert full.headers["retry-after"]
        assert client.post(f"/api/runs/{places[0]['id']}/cancel").json() == {"state": "cancelled"}
        assert client.post("/api/runs", json=task()).json()["ahead"] == 2
        gate.open.set()
        kinds = events_of(client, places[1]["id"])
        assert kinds[-1][0] == "done"
        assert events_of(client, places[0]["id"]) == [("cancelled", {"seconds": 0.0, "error": "", "field": ""})]


def test_a_run_that_nobody_looks_at_is_cancelled_and_old_ones_are_forgotten() -> None:
    gate = Gate()
    with demo(PRETRAINED, gate, unwatched=0.2, most_kept=2) as (client, runs):
        left = runs.find(start(client, task()))
        assert left is not None
        until(lambda: left.state == "cancelled")
        gate.open.set()
        ids = [start(client, task()) for _ in range(4)]
        for each in ids:
            events_of(client, each)
        until(lambda: [runs.find(each) is None for each in ids] == [True, True, False, False])


def test_a_page_that_goes_away_leaves_its_run_to_be_cancelled() -> None:
    """Over a real connection: the stream notices that nobody reads it."""
    runs = Runs(lambda task, on_frame: Gate()(PRETRAINED, task, on_frame), unwatched=1.5)
    config = uvicorn.Config(build(PRETRAINED, "tiny", runs, HERE), port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        id = httpx.post(f"{address}/api/runs", json=task()).json()["id"]
        run = runs.find(id)
        assert run is not None
        with httpx.stream("GET", f"{address}/api/runs/{id}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines)
            time.sleep(2)
            assert (run.state, run.watchers) == ("running", 1)
        until(lambda: run.watchers == 0)
        until(lambda: run.state == "cancelled")
    finally:
        server.should_exit = True
        thread.join()


def test_a_defect_shows_the_client_no_more_than_that(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> Drawn:
        raise RuntimeError("a secret of the server")

    with demo(PRETRAINED, broken) as (client, _):
        for _ in range(2):  # and the worker lives on
            kind, end = events_of(client, start(client, task()))[-1]
            assert (kind, end["error"]) == ("failed", "the run failed; the server's log says why")
    assert "a secret of the server" in caplog.text


def test_closing_ends_the_worker_within_a_second() -> None:
    runs = Runs(lambda task, on_frame: Gate()(PRETRAINED, task, on_frame))
    run = runs.add(Task(Recipe().resolved(PRETRAINED.model), (0,)))
    until(lambda: run.state == "running")
    runs.close()
    assert run.state == "cancelled"
    assert not runs._thread.is_alive()


def test_a_film_keeps_within_its_budget_and_has_its_ends() -> None:
    film = Film(budget=1000)
    for step in range(500):
        film.add(Frame(step, 500, 0, bytes(40), bytes(10)))
        kept = [frame.step for frame in film.frames()]
        assert len(kept) <= 21  # twenty and the latest
        assert (kept[0], kept[-1]) == (0, step)
        assert kept == sorted(set(kept))
    gaps = set(np.diff(kept[:-1]))
    assert gaps == {32}


def test_what_cannot_be_served_ends_in_one_line(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "model", PRETRAINED.model, PRETRAINED.patchify, PRETRAINED.class_names, "raw")
    latents = tiny_model(channels=4)
    save_pretrained(tmp_path / "latents", latents.model, latents.patchify, latents.class_names, "raw")
    serve = lambda *more: app_here("demo", "--model", tmp_path / "model", *more)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(serve("--port", port), f"127.0.0.1:{port} cannot be listened on: address already in use")
    assert_refused(serve("--port", 65536), "--port must be from 0 to 65535")
    assert_refused(serve("--threads", 0), "--threads must be at least 1")
    assert_refused(serve("--host", "no.such.host.invalid", "--port", 0), "cannot be listened on")
    assert_refused(app_here("demo", "--model", tmp_path / "none", "--port", 0), "holds no model")
    assert_refused(app_here("demo", "--model", tmp_path / "latents", "--port", 0), "latents of 4 channels")


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / "here", tmp_path / "temporary"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    monkeypatch.setenv("TMPDIR", str(folders[1]))
    monkeypatch.setattr("tempfile.tempdir", None)
    with demo(PRETRAINED) as (client, _):
        client.post("/api/fit", content=png_of(picture(2)) + b"\0" * 3_000_000)
        client.post("/api/fit", content=MULTIPART, headers={"Content-Type": "multipart/form-data; boundary=x"})
        run = start(client, completion())
        events_of(client, run)
        for name in ("0.png", "0.webp", "0-levels.png", "recipe.json", "frames"):
            assert client.get(f"/api/runs/{run}/{name}").status_code == 200
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


def test_a_recipe_is_readable_json(client: TestClient) -> None:
    run = start(client, completion())
    events_of(client, run)
    record = json.loads(client.get(f"/api/runs/{run}/recipe.json").text)
    assert record["hole"][3] == "..######"
    assert record["class"] == "dog"
    assert record["recipe"]["steps"] == 4
    assert record["model"]["weights"] == "raw at step 0"
    assert set(record["versions"]) == {"torch", "apd-generate", "apd-models"}


def test_a_server_that_ends_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes back as if nothing had been."""
    spec = importlib.util.spec_from_file_location("demo_main", DEMO / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    main = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo_main", main)
    spec.loader.exec_module(main)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: setattr(self, "started", True))
    with main.listen("127.0.0.1", 0) as listener, pytest.raises(KeyboardInterrupt):
        main.run(listener, tiny_model(), "model", Runs(lambda task, on_frame: draw(tiny_model(), task, on_frame)), HERE)
