"""A web page on which a model can be tried out: `uv run apps/demo --model runs/animals28/model --open`.

Paint a hole, a noise level for each patch, the order in which patches are made, and watch the generation. The page is
for this machine alone unless `--host` says otherwise. It asks nothing of the network, and nothing is written to disk:
images and recipes are downloaded from the page.

`uv run apps/demo --model runs/animals28/model --port 0` takes any free port.
"""

import logging
import os
import socket
import sys
import webbrowser
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

# Threads that wait for each other spin; with PyTorch's default, a core that something else uses then makes every step
# eight times as long. This many turns cost an idle machine nothing measurable. Must precede the import of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if os.environ.get("APD_CHECK") == "1":  # shapes and types at every call; must precede the imports
    from jaxtyping import install_import_hook

    packages = ["apd_schedules", "apd_samplers", "apd_models", "apd_generate", "apd_metrics", "apd_train"]
    install_import_hook(packages, "beartype.beartype")

import torch
import tyro
import uvicorn
from demo_drawing import draw
from demo_runs import Runs
from demo_web import build

from apd_models import Pretrained, from_pretrained, image_patchify
from apd_train.app import UsageError, run_app
from apd_train.drawing import LatentFlags, codec_of
from apd_train.flags import flags_of

HERE = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Options:
    model: Path
    """Model folder, such as runs/animals28/model."""
    port: int = 7860
    """Where the page is; 0 takes any free one."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is for this machine alone; 0.0.0.0 lets everybody in who can reach it."""
    open: bool = False
    """Open the page in the browser."""
    threads: int | None = None
    """CPU threads. By default what PyTorch finds."""
    latents: Annotated[LatentFlags, tyro.conf.OmitArgPrefixes, tyro.conf.arg(constructor=flags_of(LatentFlags))] = (
        field(default_factory=LatentFlags)
    )
    """Of models of latents."""


def serve(options: Options) -> None:
    if not 0 <= options.port < 65536:
        raise UsageError(f"--port must be from 0 to 65535, got {options.port}")
    if options.threads is not None:
        if options.threads < 1:
            raise UsageError(f"--threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    options.latents.check()
    with listen(options.host, options.port) as listener:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        pretrained = from_pretrained(options.model, device)
        codec = codec_of(options.latents.codec, options.model, pretrained, device)
        options.latents.check_against(codec)
        drawing: dict[str, Any] = {}
        shown = pretrained
        if codec is not None:
            drawing = {"codec": codec, "dilate": options.latents.dilate(codec, pretrained, lambda _: None)}
            shown = replace(pretrained, patchify=image_patchify(codec, pretrained.patchify))
        names, told = HERE, options.host.lower()
        if told not in HERE:
            names |= {told, socket.gethostname().lower()}
            print(f"apps/demo: {told} is not for this machine alone: who can reach it can use it", file=sys.stderr)
        address = f"http://{f'[{told}]' if ':' in told else told}:{listener.getsockname()[1]}"
        print(f"{address}  (Ctrl-C ends)", flush=True)
        if options.open:
            webbrowser.open(address)
        runs = Runs(partial(draw, pretrained, **drawing))
        run(listener, shown, "/".join(options.model.parts[-2:]), runs, names)


def run(listener: socket.socket, shown: Pretrained, name: str, runs: Runs, names: frozenset[str]) -> None:
    """Until Ctrl-C; streams to pages end with it."""
    logging.basicConfig(format="%(message)s")  # warnings and worse, on stderr
    server: uvicorn.Server
    app = build(shown, name, runs, names, closing=lambda: server.should_exit)
    quiet = {"log_config": None, "access_log": False, "server_header": False, "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(app, **quiet, timeout_graceful_shutdown=1, limit_concurrency=200))
    server.run([listener])
    if server.started:  # nothing but a signal ends it, whatever became of the exception
        raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a port in use is known before the model is read."""
    try:
        family, _, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(at[:2], family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{host}:{port} cannot be listened on: {reason}; try another --port, or 0") from error


if __name__ == "__main__":
    run_app("apps/demo", Options, serve, (__doc__ or "").replace("`", ""), sys.argv[1:])
