"""Serve the page to this machine's browser, with full-size images, search by example and labels.

Only this machine can connect unless another address is asked for, and then only with a random token. Requests
under another host's name, which DNS rebinding would make, are refused, and so are changes that another site's
page asks for. Images are served by their row, never by a name.
"""

import json
import secrets
import socket
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from siam.atlas.studio import Studio
from siam.data.decode import BrokenImage
from siam.errors import DataError, SettingsError, SiamError

LARGEST = 64 * 2**20
"""Bytes of a request, at most: an image to search by, or the rows of a selection."""

_COOKIE = "siam-token"
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
}
_IMAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=600",
}


class Guard:
    """Refuses requests that this server's own page did not make. Wraps an ASGI application."""

    def __init__(self, app: ASGIApp, port: int, token: str | None = None) -> None:
        """token: what browsers must show; None on the loopback address, where the host's name is checked."""
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}" for name in _LOOPBACK} | (set(_LOOPBACK) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS.items()]
            await send(message)

        answer = self._refusal(Request(scope)) or self.app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is not the page's own; None for one that is."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self.token is None and host not in self.hosts:
            return PlainTextResponse("this server answers on the loopback address only\n", 421)
        if self.token is not None:
            given = request.query_params.get("token", "")
            if secrets.compare_digest(given.encode(), self.token.encode()):
                answer = RedirectResponse("/", 303)
                answer.set_cookie(_COOKIE, self.token, httponly=True, samesite="strict")
                return answer
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(_COOKIE)
            if cookie is None or not secrets.compare_digest(cookie.value.encode(), self.token.encode()):
                return PlainTextResponse("open the address that siam explore printed, with its token\n", 403)
        # A page of another site can send neither this header nor this origin without asking first.
        own = request.headers.get("x-siam") == "1" and origin in (None, f"http://{host}")
        if request.method not in ("GET", "HEAD") and not own:
            return JSONResponse({"error": "this request is not from the page"}, 403)
        return None


def make_app(studio: Studio, port: int, token: str | None = None) -> ASGIApp:
    """Return the page's server as an ASGI application."""
    page = b"".join(studio.page.parts(live=True))

    def home(request: Request) -> Response:
        return Response(page, media_type="text/html", headers={"Cache-Control": "no-cache"})

    def beside(request: Request) -> Response:
        name = f"map-{request.path_params['name']}.js"
        if name not in studio.page.beside:
            return PlainTextResponse("no such file\n", 404)
        return Response((studio.folder / name).read_bytes(), media_type="text/javascript")

    def image(request: Request) -> Response:
        try:
            data, kind = studio.pictures.encoded(request.path_params["row"])
        except BrokenImage as error:
            return PlainTextResponse(f"this image cannot be shown: {error.reason}\n", 404)
        return Response(data, media_type=kind, headers=_IMAGE_HEADERS)

    def icon(request: Request) -> Response:
        return Response(status_code=204)  # browsers ask for it, and would report that it is missing

    routes = [
        Route("/", home),
        Route("/favicon.ico", icon),
        Route("/map-{name}.js", beside),
        Route("/image/{row:int}", image),
    ]
    for name, act in _actions(studio).items():
        routes.append(Route(f"/api/{name}", _endpoint(act), methods=["POST"]))
    return Guard(Starlette(routes=routes), port, token)


Act = Callable[[bytes, Request], dict[str, Any]]
"""Answers a request with this body."""


def _actions(studio: Studio) -> dict[str, Act]:
    def label(body: bytes, request: Request) -> dict[str, Any]:
        rows, name = _fields(body, rows=list, name=(str, type(None)))
        return studio.label(rows, name)

    def search(body: bytes, request: Request) -> dict[str, Any]:
        k = request.query_params.get("k", "60")
        count = int(k) if k.isdecimal() and len(k) < 6 else 60
        if request.headers.get("content-type") != "application/json":
            return studio.search_by_image(body, count)
        if b'"path"' in body:
            (path,) = _fields(body, path=str)
            return studio.search_by_path(path, count)
        (row,) = _fields(body, row=int)
        return studio.search_by_row(row, count)

    return {
        "labels": lambda body, request: studio.state(),
        "label": label,
        "suggest": lambda body, request: studio.suggest(*_fields(body, by=str)),
        "accept": lambda body, request: studio.accept(*_fields(body, threshold=(int, float))),
        "save": lambda body, request: studio.save(),
        "search": search,
    }


def _fields(body: bytes, **kinds: type | tuple[type, ...]) -> list[Any]:
    """Return the fields of a JSON object. Raises DataError if one is missing, or of another type."""
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict) or not all(
        isinstance(plain.get(name), kind) for name, kind in kinds.items()
    ):
        raise DataError(f"the request needs {' and '.join(kinds)}")
    return [plain.get(name) for name in kinds]


def _endpoint(act: Act) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                return JSONResponse({"error": f"the request is larger than {LARGEST:,} bytes"}, 413)
        try:
            return JSONResponse(await run_in_threadpool(act, bytes(body), request))
        except SiamError as error:
            return JSONResponse({"error": str(error)}, 400)

    return answer


class Server:
    """A running or waiting server and its address."""

    def __init__(self, studio: Studio, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on an address; port 0 takes a free one. Raises SettingsError if it is not free."""
        import uvicorn

        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self.socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SettingsError(
                f"cannot listen on {host}, port {port}: {reason}; choose another --port"
            ) from None
        port = self.socket.getsockname()[1]
        loopback = host in ("127.0.0.1", "localhost", "::1")
        token = None if loopback else secrets.token_urlsafe(24)
        name = f"[{host}]" if ":" in host else host
        self.address = f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")
        """The address to open in a browser."""
        config = uvicorn.Config(make_app(studio, port, token), log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until `stop` is called, or the process is interrupted."""
        self._server.run(sockets=[self.socket])

    def stop(self) -> None:
        """Ask `run` to return."""
        self._server.should_exit = True
