"""The demo's server around a model small enough for a test, and what a page would send it."""

import base64
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from starlette.testclient import TestClient

from apd_models import DiT, DiTConfig, Patchify, Pretrained

DEMO = Path(__file__).parents[1] / "apps" / "demo"
sys.path.append(str(DEMO))  # apps are folders of flat modules

from demo_drawing import Drawn as Drawn, Frame as Frame, draw  # noqa: E402
from demo_film import Film as Film  # noqa: E402
from demo_runs import Runs  # noqa: E402
from demo_tasks import Task as Task  # noqa: E402
from demo_web import build  # noqa: E402

SIDE, PATCH, CLASSES = 8, 2, ("cat", "dog", "owl")
HERE = frozenset({"localhost", "127.0.0.1"})


def tiny_model(channels: int = 1, classes: tuple[str, ...] = CLASSES) -> Pretrained:
    """With random weights, of which none are zero: what it draws depends on all that it is told."""
    torch.manual_seed(0)
    patchify = Patchify(SIDE, SIDE, channels, PATCH)
    config = DiTConfig(
        patchify.grid, patchify.token_dim, width=16, depth=1, heads=2, classes=len(classes), data_std=0.7
    )
    model = DiT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.2)
    return Pretrained(model, patchify, classes, "raw at step 0")


@contextmanager
def demo(pretrained: Pretrained, draws: Callable[..., Any] = draw, **options: Any) -> Iterator[tuple[TestClient, Runs]]:
    """The app, as a client on this machine sees it."""
    runs = Runs(partial(draws, pretrained), **options)
    app = build(pretrained, "tiny", runs, HERE)
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client, runs


def picture(seed: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)


def image_of(pixels: np.ndarray) -> dict[str, Any]:
    """An image as JSON has it."""
    height, width, channels = pixels.shape
    text = base64.b64encode(pixels.tobytes()).decode()
    return {"height": height, "width": width, "channels": channels, "pixels": text}


def hole_of(hidden: np.ndarray) -> list[str]:
    return ["".join(".#"[int(cut)] for cut in row) for row in hidden]


def events_of(client: TestClient, run: str) -> list[tuple[str, dict[str, Any]]]:
    """All events of a run, to its end."""
    text = client.get(f"/api/runs/{run}/events").text
    found = []
    for block in filter(None, text.split("\n\n")):
        kind, data = block.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def start(client: TestClient, task: dict[str, Any]) -> str:
    answer = client.post("/api/runs", json=task)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def until(holds: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
