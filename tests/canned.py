"""Small servers with canned answers, in threads: for what the simulator is too well-behaved for."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Canned:
    """An answer, given to requests whose body holds ``to``."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    to: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came in; header names are in small letters."""

    path: str
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class Place:
    """A running server, and the requests it got so far."""

    url: str
    seen: list[Seen]

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.url.rsplit(":", 1)[1])


EVENTS = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}


@contextmanager
def canned(answers: Mapping[str, list[Canned]], certificate: Path | None = None) -> Iterator[Place]:
    """Serve the first answer of a path whose ``to`` stands in the request; 404 for other paths."""
    seen: list[Seen] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def _answer(self, body: str) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append(Seen(self.path, headers, body))
            offered = answers.get(self.path, [])
            answer = next((a for a in offered if a.to in body), Canned(404, "Not Found"))
            content = answer.body.encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # refused TLS handshakes
    scheme = "http"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Place(f"{scheme}://localhost:{server.server_port}", seen)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def hanging_up() -> AbstractContextManager[str]:
    """Accept connections and close them at once."""
    return _listening(lambda _: None)


def dripping() -> AbstractContextManager[str]:
    """Answer with a header that gains a byte each 0.05 s, for 5 s."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(100):
            time.sleep(0.05)
            connection.sendall(b"x")

    return _listening(drip)


@contextmanager
def _listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection after the other by ``serve``, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with suppress(OSError):  # the listener is shut down at the end
                while True:
                    connection = listener.accept()[0]
                    with connection, suppress(OSError):
                        serve(connection)

        threading.Thread(target=run, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):  # macOS: not connected
            listener.shutdown(socket.SHUT_RDWR)


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def self_signed(folder: Path) -> Path:
    """Make a self-signed certificate for localhost; the file holds its key as well."""
    if not shutil.which("openssl"):
        pytest.skip("the openssl command is not installed")
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(key.read_text() + cert.read_text())
    return both


def stream(*events: str) -> Canned:
    """Return a stream of these events, ended as OpenAI ends it."""
    body = "".join(f"data: {event}\n\n" for event in (*events, "[DONE]"))
    return Canned(200, body, EVENTS)
