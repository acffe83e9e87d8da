"""Only who has the address gets anything, and only what is on the table; nothing that a request says becomes a path."""

from __future__ import annotations

import http.client
import json
import re
import socket
from importlib import resources

import pytest

from imgsynth.show.server import PAGE, ShowServer
from imgsynth.show.shelf import Shelf


def ask(server: ShowServer, path: str, method: str = "GET", host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    return connection.getresponse()


def raw(server: ShowServer, request: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(request.encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_it_listens_on_the_loopback_address_alone(server: ShowServer, shelf: Shelf) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with ShowServer(shelf) as other:
        assert other.token != server.token and len(server.token) >= 43


def test_the_page_the_list_and_a_volume_are_served_to_who_has_the_address(server: ShowServer) -> None:
    page = ask(server, f"/{server.token}/")
    assert page.status == 200 and page.read() == (resources.files("imgsynth.show") / "page/index.html").read_bytes()
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    listing = json.loads(ask(server, f"/{server.token}/list.json").read())
    assert listing["local"] is True and listing["window"] == [-40, 260]
    assert listing["entries"][0] == {"kind": "real", "name": "ANNA-1", "label": "normal", "note": "train"}
    volume = ask(server, f"/{server.token}/volume/0", host=f"localhost:{server.server_port}")
    assert volume.status == 200 and len(volume.read()) > 420


@pytest.mark.parametrize(
    "path", ["/", "", "/wrong/", "/wrong/list.json", "/{short}/", "/{long}/", "/{upper}/", "{token}/",
             "/./{token}/", "/%2e/{token}/", "/list.json?token={token}", "/?{token}", "http://127.0.0.1/{token}/",
             "/\u00ff/list.json", "*"],
)  # fmt: skip
def test_without_the_token_nothing_is_told(server: ShowServer, path: str) -> None:
    token = server.token
    path = path.format(token=token, short=token[:-1], long=token + "A", upper=token.swapcase())
    said = raw(server, f"GET {path or '/'} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n")
    assert said.startswith(b"HTTP/1.0 403 ") and b"ANNA" not in said and token.encode() not in said


@pytest.mark.parametrize(
    "key", ["nothing", "index.html", "page/index.html", "../server.py", "..%2fserver.py", "%2e%2e/", "./list.json",
            "volume", "volume/", "volume/3", "volume/-1", "volume/+0", "volume/0/", "volume/0x0", "volume/ 0",
            "volume/\u00b2", "volume/1e0", "volume/" + "9" * 5000, "/etc/passwd", "list.json/", "list.json?x",
            "LIST.JSON", "volume/..", "viewer.js%00"],
)  # fmt: skip
def test_what_is_not_on_the_table_is_not_there(server: ShowServer, key: str) -> None:
    said = raw(server, f"GET /{server.token}/{key} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n")
    assert re.match(rb"HTTP/1.0 40[04] ", said) and b"ANNA" not in said  # 400: a blank within the request's line


@pytest.mark.parametrize(
    "hosts", [[], ["evil.example"], ["evil.example:{port}"], ["127.0.0.1"], ["127.0.0.1:1"], ["127.0.0.1:{port}"] * 2,
              ["127.0.0.1:{port}", "evil.example"], ["127.0.0.1:{port}@evil.example"], ["[::1]:{port}"], [""]],
)  # fmt: skip
def test_a_request_by_another_name_is_refused(server: ShowServer, hosts: list[str]) -> None:
    lines = "".join(f"Host: {host.format(port=server.server_port)}\r\n" for host in hosts)
    said = raw(server, f"GET /{server.token}/list.json HTTP/1.1\r\n{lines}\r\n")
    assert said.startswith(b"HTTP/1.0 403 ") and b"ANNA" not in said


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "LOOK"])
def test_nothing_but_get(server: ShowServer, method: str) -> None:
    answer = ask(server, f"/{server.token}/list.json", method)
    assert answer.status == (501 if method == "LOOK" else 405) and b"ANNA" not in answer.read()


@pytest.mark.parametrize("path", ["/{token}/", "/{token}/viewer.js", "/{token}/list.json", "/{token}/volume/0",
                                  "/{token}/volume/2", "/{token}/nothing", "/wrong/"])  # fmt: skip
def test_every_answer_forbids_what_the_page_does_not_need(server: ShowServer, path: str) -> None:
    headers = ask(server, path.format(token=server.token)).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("img-src") == "data:"
    assert {value for name, value in policy.items() if name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    others = {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert {policy[name] for name in others} == {"'none'"} and len(policy) == 7
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers and "Python" not in headers["Server"]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for file, _ in PAGE.values():
        text = (resources.files("imgsynth.show") / "page" / file).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]+\.|@import|innerHTML|eval\(|document\.write", text), file
        assert file != "index.html" or not re.search(r"\son[a-z]+=|\sstyle=|<script>|<style>", text)


def test_a_volume_that_cannot_be_read_says_why(server: ShowServer) -> None:
    answer = ask(server, f"/{server.token}/volume/2")
    assert answer.status == 500 and "a torn file" in answer.read().decode()
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_nothing_is_logged(server: ShowServer, capfd: pytest.CaptureFixture[str]) -> None:
    ask(server, f"/{server.token}/").read()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as torn:
        torn.sendall(b"GET /")
    assert capfd.readouterr() == ("", "")
