"""The page and its volumes over HTTP, for one person on this machine.

What a request can name is a key of a table made beforehand: no part of it becomes a path. It listens on the loopback
address alone; whoever does not know the token in the URL is refused, and so is a request that names another host, as
that of a web page whose name was made to point here would (DNS rebinding).
"""

from __future__ import annotations

import hmac
import json
import secrets
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

from imgsynth.show.shelf import Shelf
from imgsynth.show.wire import encode
from imgsynth.types import ImgsynthError

PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the URL holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class ShowServer(ThreadingHTTPServer):
    """Serves ``shelf`` at ``url`` on 127.0.0.1; ``port`` 0 takes a free one."""

    daemon_threads = True  # an open download does not keep the program from ending

    def __init__(self, shelf: Shelf, port: int = 0):
        self.shelf = shelf
        self.token = secrets.token_urlsafe(32)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    @cached_property
    def documents(self) -> dict[str, tuple[bytes, str]]:
        """(content, type) of all that is no volume, by what follows the token in the URL."""
        page = resources.files("imgsynth.show") / "page"
        found = {name: ((page / file).read_bytes(), kind) for name, (file, kind) in PAGE.items()}
        listing = json.dumps(self.shelf.listing(), allow_nan=False).encode()
        return found | {"list.json": (listing, "application/json")}

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that went away midway; faults of volumes are answered, not raised."""


class _Handler(BaseHTTPRequestHandler):
    server: ShowServer
    server_version = "imgsynth"
    sys_version = ""
    timeout = 60  # seconds that a connection may be silent

    def do_GET(self) -> None:
        if self.headers.get_all("Host") not in self._own_names():
            self._answer(HTTPStatus.FORBIDDEN, b"Another host's name.\n")
            return
        _, _, rest = self.path.partition("/")
        token, _, key = rest.partition("/")
        if not self.path.startswith("/") or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.FORBIDDEN, b"Open the whole address that imgsynth show printed.\n")
            return
        if key in self.server.documents:
            self._answer(HTTPStatus.OK, *self.server.documents[key])
        elif (number := _number(key)) is not None and number < len(self.server.shelf.entries):
            self._volume(number)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"Nothing of that name.\n")

    def _volume(self, number: int) -> None:
        try:
            content = encode(self.server.shelf.entries[number].read())
        except (ImgsynthError, OSError) as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode())
        else:
            self._answer(HTTPStatus.OK, content, "application/octet-stream")

    def _refused(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET only.\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refused

    def _own_names(self) -> list[list[str]]:
        return [[f"{name}:{self.server.server_port}"] for name in ("127.0.0.1", "localhost")]

    def _answer(self, status: HTTPStatus, content: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: a request holds the token."""


def _number(key: str) -> int | None:
    """N of "volume/N"; None for anything else."""
    folder, _, number = key.partition("/")
    return int(number) if folder == "volume" and number.isascii() and number.isdigit() and len(number) < 10 else None
