"""A run as a stream of server-sent events: where it is in the queue, its frames as they come, and how it ended."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from demo_drawing import Frame
from demo_runs import ENDED, Run, Runs

PER_SECOND = 12
"""Looks at a run, and so frames at most."""
BYTES_PER_SECOND = 6_000_000
"""Of frames; large ones come less often."""
SILENCE = 10.0
"""Seconds after which something is sent anyway, so that a reader who has gone is noticed."""


async def events(run: Run, runs: Runs, closing: Callable[[], bool]) -> AsyncIterator[str]:
    """From where the run is to its end; who reads it is a watcher meanwhile."""
    run.watchers += 1
    clock = asyncio.get_running_loop().time
    told, frame_due, silent_since = None, 0.0, clock()
    try:
        while not closing():
            state, text = run.state, None
            frame, now = run.film.latest, clock()
            if state in ENDED:
                if frame is not None and frame is not told:
                    yield _event("frame", of_frame(frame, run.seconds))
                yield _event(state, of_end(run))
                return
            if state == "waiting":
                ahead = runs.ahead(run)
                if ahead != told:
                    told, text = ahead, _event("waiting", {"ahead": ahead})
            elif frame is not None and frame is not told and now >= frame_due:
                told, text = frame, _event("frame", of_frame(frame, run.seconds))
                frame_due = now + len(text) / BYTES_PER_SECOND
            if text is None and now - silent_since > SILENCE:
                text = ": still here\n\n"
            if text is not None:
                silent_since = now
                yield text
            await asyncio.sleep(1 / PER_SECOND)
    finally:
        run.watchers -= 1


def of_frame(frame: Frame, seconds: float) -> dict[str, Any]:
    return {
        "step": frame.step,
        "total": frame.total,
        "evaluations": frame.evaluations,
        "seconds": round(seconds, 2),
        "images": base64.b64encode(frame.images).decode(),
        "levels": base64.b64encode(frame.levels).decode(),
    }


def of_end(run: Run) -> dict[str, Any]:
    end: dict[str, Any] = {"seconds": round(run.seconds, 2), "error": run.error, "field": run.field_of_error}
    if run.drawn is not None:
        end |= {"evaluations": run.drawn.evaluations, "spread": run.drawn.spread, "note": run.drawn.note}
    return end


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
