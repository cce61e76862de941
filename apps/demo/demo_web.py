"""What the page asks the server. Nothing of it is ever written to disk."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from demo_about import about
from demo_drawing import eight_bit
from demo_events import events
from demo_film import animation, strip, whole_film
from demo_guards import guarded, read_body, read_json
from demo_runs import BusyError, Run, Runs
from demo_tasks import TaskError, read_task, settle, write_task
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apd_generate import ImageError, fit_image, read_image
from apd_models import Pretrained

MOST_UPLOADED = 20_000_000
MOST_PIXELS = 16_000_000
"""Bytes of an image file."""
PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def build(
    pretrained: Pretrained,
    name: str,
    runs: Runs,
    names: frozenset[str],
    closing: Callable[[], bool] = lambda: False,
) -> Starlette:
    """The web app.

    Args:
        pretrained: with the patches of the images that the page shows; those of a model of latents are not its own.
        name: of the model, as the page shows it.
        names: that this server goes by; see :func:`guarded`.
        closing: whether streams have to end.
    """
    patchify = pretrained.patchify
    most_json = 100_000 + 4 * patchify.height * patchify.width * (patchify.channels + 1)
    facts = about(pretrained, name, MOST_UPLOADED)

    async def model(_: Request) -> Response:
        return JSONResponse(facts)

    reading = asyncio.Semaphore(1)

    async def fit(request: Request) -> Response:
        """An image file as the body, whatever it says of itself; its pixels as the model takes them."""
        body = await read_body(request, MOST_UPLOADED)
        async with reading:  # one at a time: a large image takes twenty times its pixels in bytes
            read = lambda: fit_image(read_image(body, max_pixels=MOST_PIXELS), patchify)
            fitted = await asyncio.to_thread(read)
        pixels = eight_bit(fitted.pixels[None])[0].tobytes()
        return JSONResponse({"pixels": base64.b64encode(pixels).decode(), "report": fitted.report})

    async def settled(request: Request) -> Response:
        """What of a recipe has a meaning, with its defaults."""
        wanted = read_json(await read_body(request, most_json))
        if not isinstance(wanted, dict):
            raise HTTPException(400, "a recipe is an object of named fields")
        return JSONResponse(settle(wanted, pretrained).to_dict())

    async def check(request: Request) -> Response:
        """A recipe file as the page writes it, or why it cannot be used."""
        record = read_json(await read_body(request, most_json))
        told = read_task(record, pretrained)
        task = await asyncio.to_thread(write_task, told, pretrained)  # the first reads all weights
        made_with = record.get("model") if isinstance(record, dict) else None
        # A file of an earlier version says less of the model.
        same = not isinstance(made_with, dict) or made_with.items() <= task["model"].items()
        return JSONResponse({"task": task, "note": "" if same else "This recipe was made with another model."})

    async def start(request: Request) -> Response:
        task = read_task(read_json(await read_body(request, most_json)), pretrained)
        run = runs.add(task)
        return JSONResponse({"id": run.id, "ahead": runs.ahead(run)}, 201)

    async def watch(request: Request) -> Response:
        stream = events(find(request), runs, closing)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def cancel(request: Request) -> Response:
        run = find(request)
        runs.cancel(run)
        return JSONResponse({"state": run.state})

    def find(request: Request) -> Run:
        run = runs.find(request.path_params["id"])
        if run is None:
            raise HTTPException(404, "there is no such run: it is too old, or the server has started anew")
        return run

    def candidate(request: Request) -> tuple[Run, int]:
        run, index = find(request), request.path_params["index"]
        if run.drawn is None or index >= len(run.task.seeds):
            raise HTTPException(404, "there is no such image")
        return run, index

    def image(request: Request) -> Response:
        run, index = candidate(request)
        assert run.drawn is not None
        return _download(run.drawn.png(index), "image/png", f"seed-{run.task.seeds[index]}.png")

    def film(request: Request) -> Response:
        run, index = candidate(request)
        data = animation(run.film.frames(), index, patchify)
        return _download(data, "image/webp", f"seed-{run.task.seeds[index]}.webp")

    def film_strip(request: Request) -> Response:
        run, index = candidate(request)
        data = strip(run.film.frames(), index, patchify)
        return _download(data, "image/png", f"seed-{run.task.seeds[index]}-levels.png")

    def frames(request: Request) -> Response:
        return JSONResponse(whole_film(find(request).film.frames()))

    def recipe(request: Request) -> Response:
        text = json.dumps(write_task(find(request).task, pretrained), indent=1) + "\n"
        return _download(text.encode(), "application/json", "recipe.json")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async def tidy() -> None:
            while True:
                await asyncio.sleep(0.5)
                runs.tidy()

        tidying = asyncio.create_task(tidy())
        yield
        tidying.cancel()
        runs.close()

    id = "/api/runs/{id:str}"
    routes = [
        *_page(),
        Route("/api/model", model),
        Route("/api/fit", fit, methods=["POST"]),
        Route("/api/recipe", settled, methods=["POST"]),
        Route("/api/check", check, methods=["POST"]),
        Route("/api/runs", start, methods=["POST"]),
        Route(id + "/events", watch),
        Route(id + "/cancel", cancel, methods=["POST"]),
        Route(id + "/frames", frames),
        Route(id + "/recipe.json", recipe),
        Route(id + "/{index:int}.png", image),
        Route(id + "/{index:int}.webp", film),
        Route(id + "/{index:int}-levels.png", film_strip),
    ]
    handlers: Any = {
        HTTPException: _refused,
        TaskError: _wrong,
        ImageError: _wrong,
        BusyError: _busy,
        Exception: _defect,
    }
    guard = Middleware(guarded, names=names)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, lifespan=lifespan)


def _page() -> list[Route]:
    """The files of the page, read once: no request ever names a file."""

    def route(path: str, file: Traversable) -> Route:
        content, kind = file.read_bytes(), KINDS[Path(file.name).suffix]

        async def static(_: Request) -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        return Route(path, static)

    files = [file for file in sorted(PAGE.iterdir()) if file.suffix in KINDS]
    return [route("/" if file.name == "index.html" else f"/{file.name}", file) for file in files]


def _download(content: bytes, kind: str, name: str) -> Response:
    return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _wrong(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error), "field": getattr(error, "field", "image")}, 400)


async def _busy(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503, {"Retry-After": "5"})


async def _defect(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "the server made a mistake; its log says which"}, 500)
