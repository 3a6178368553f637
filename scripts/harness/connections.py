"""Whether a server keeps a connection open after an answer, as pooled clients trust it to."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal
from urllib.parse import urlsplit

from harness.address import CHAT_PATH
from harness.endpoint import Server, request_headers, tls_context
from harness.probes import Question

_GLANCE_S = 0.005


@dataclass(frozen=True, slots=True)
class Keeping:
    """What became of a connection after an answer.

    It was kept; or its end was announced in the answer's header; or it was dropped without a word,
    ``after_s`` seconds later.
    """

    end: Literal["kept", "announced", "dropped"]
    after_s: float = 0.0


def keeping(server: Server, question: Question, pause_s: float, timeout_s: float) -> Keeping | None:
    """Send two requests over one connection with a pause between; None where that cannot be told.

    Through a proxy it cannot: that keeps connections of its own.
    """
    if server.how.proxy:
        return None
    connection = _connection(server, timeout_s)
    try:
        return _tried(connection, server, question, pause_s)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _tried(
    connection: http.client.HTTPConnection, server: Server, question: Question, pause_s: float
) -> Keeping | None:
    response = _exchange(connection, server, question)
    if response.status != HTTPStatus.OK:
        return None
    if response.will_close:
        return Keeping("announced")
    after_s = _dropped_after_s(connection, pause_s)
    if after_s is not None:
        return Keeping("dropped", after_s)
    connection.auto_open = 0  # else a lost connection is quietly opened anew
    try:
        _exchange(connection, server, question)
    except (ConnectionError, http.client.BadStatusLine):
        return Keeping("dropped", pause_s)
    return Keeping("kept")


def _connection(server: Server, timeout_s: float) -> http.client.HTTPConnection:
    url = urlsplit(server.base)
    host, port = url.hostname or "", url.port
    if url.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = tls_context(server.how)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _exchange(
    connection: http.client.HTTPConnection, server: Server, question: Question
) -> http.client.HTTPResponse:
    """Send one request and read its answer to the end."""
    path = urlsplit(server.base).path + CHAT_PATH
    headers = request_headers(server.key, has_body=True)
    connection.request("POST", path, json.dumps(question.fields()), headers)
    response = connection.getresponse()
    response.read()
    return response


def _dropped_after_s(connection: http.client.HTTPConnection, pause_s: float) -> float | None:
    """Watch an idle connection; return when it was closed (s), None if it is open after the pause.

    A server says nothing of its own accord: what can be read is the end.
    """
    started_s, limit_s = time.monotonic(), connection.sock.gettimeout()
    connection.sock.settimeout(_GLANCE_S)
    while (idle_s := time.monotonic() - started_s) < pause_s:
        try:
            if not connection.sock.recv(1):
                return idle_s
        except TimeoutError:  # nothing yet; TLS's own messages are read on the way
            continue
        except OSError:
            return idle_s
    connection.sock.settimeout(limit_s)
    return None
