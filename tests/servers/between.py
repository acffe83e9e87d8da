"""A server between a client and another server, which passes everything on, or answers as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests


@dataclass
class Answer:
    status: int
    kind: str  # content type
    body: bytes
    length: int | None = None  # that is claimed; default: the true one


# Sees the path and how often it was asked for, and what the real server says; gives the answer, or None to hang up.
Meddler = Callable[[str, int, Answer], Answer | None]


@dataclass
class Between:
    """``url`` stands for the other server's; ``asked`` is every path that came, ``headers`` the last ones."""

    url: str
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def between(target: str, meddle: Meddler | None = None) -> Iterator[Between]:
    """Listen on loopback and pass GET on to ``target`` until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                seen.asked.append(self.path)
                seen.headers = dict(self.headers)
                times = seen.asked.count(self.path)
            passed = {k: v for k, v in self.headers.items() if k in ("Accept", "Authorization")}
            with requests.Session() as session:
                session.trust_env = False  # no credentials of its own
                real = session.get(f"{target}{self.path}", headers=passed, timeout=60)
            answer: Answer | None = Answer(real.status_code, real.headers.get("Content-Type", ""), real.content)
            if meddle is not None and answer is not None:
                answer = meddle(self.path, times, answer)
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen = Between(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
