"""What is asked of a request before anything reads it, and the headers of every answer."""

import ipaddress
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guarded(app: ASGIApp, names: frozenset[str]) -> ASGIApp:
    """The app behind two checks.

    The Host must be an address or one of ``names``: a page elsewhere can have its own name point at this machine (DNS
    rebinding), but not an address. What changes something must come from this page or from no page at all: browsers
    say in Origin where a request comes from.
    """

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not _is_own(host, names):
            refusal = JSONResponse({"error": f"this server is not {_short(host)}: use its address"}, 400)
            await refusal(scope, receive, answer)
        elif scope["method"] not in ("GET", "HEAD") and _is_foreign(headers):
            refusal = JSONResponse({"error": "only this server's own page may do that"}, 403)
            await refusal(scope, receive, answer)
        else:
            await app(scope, receive, answer)

    return checked


def _is_own(host: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_foreign(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is not None:  # compared as it stands: a page elsewhere has another scheme, name or port
        return origin.lower() not in (f"http://{headers['host'].lower()}", f"https://{headers['host'].lower()}")
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _short(text: str) -> str:
    return ascii(text[:60])


async def read_body(request: Request, most: int) -> bytes:
    """The body, unless it is longer than ``most`` bytes: no more than that is ever kept."""
    too_long = HTTPException(413, f"that is too large: at most {most / 1e6:.3g} MB are taken")
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said[:20]) > most:
        raise too_long
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_long
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended early") from error
    return bytes(body)


def read_json(body: bytes) -> object:
    """JSON, without the numbers that JSON has not: NaN and infinities."""

    def refuse(word: str) -> Callable[[], None]:
        raise ValueError(f"{word} is no number that can be used")

    try:
        return json.loads(body, parse_constant=refuse)
    except RecursionError as error:
        raise HTTPException(400, "this JSON is nested too deeply") from error
    except ValueError as error:  # of UnicodeDecodeError too
        raise HTTPException(400, f"this is not JSON: {' '.join(str(error).split())[:120]}") from error
