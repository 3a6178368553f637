"""The server that is measured: how it is reached, and what it says of itself.

Why an answer did not come is told by `harness.causes`, what chat requests show by `harness.probes`.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Thread
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import httpx2

from harness.address import OPENAI_BASE
from harness.causes import explain_exception, explain_status
from harness.errors import EndpointError, UsageError
from harness.kinds import Flag
from harness.texts import scrub

__all__ = [
    "TRANSPORT_ERRORS",
    "Access",
    "EndpointFacts",
    "Reply",
    "ServedModel",
    "Server",
    "access",
    "exists",
    "explain_exception",
    "explain_refusal",
    "explain_status",
    "in_background",
    "look",
    "request_headers",
    "require_name",
    "send",
    "tls_context",
    "within",
]

T = TypeVar("T")

_MODELS_PATH = "/v1/models"
_NAME_TIMEOUT_S = 3.0
_VERSION_TIMEOUT_S = 2.0
_GRACE_S = 1.0  # for a server that answers just within its time-out
_MAX_BODY_BYTES = 1 << 20
#: What can go wrong while asking; name look-ups and our own time limits raise OSErrors.
TRANSPORT_ERRORS = (OSError, httpx2.HTTPError, httpx2.InvalidURL)


@dataclass(frozen=True, slots=True)
class Access:
    """How the server is reached: straight on, unless the settings say otherwise, as AIPerf does."""

    proxy: str | None = field(default=None, repr=False)  # may hold a password
    verify: bool = True
    ca_file: str | None = None


DIRECT = Access()


@dataclass(frozen=True, slots=True)
class Server:
    """Who is asked, with which key, and how it is reached."""

    base: str
    key: str | None = field(repr=False)
    how: Access = DIRECT


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of /v1/models; ``root`` is what it was loaded from.

    ``max_model_len`` is the longest prompt and answer together (tokens).
    """

    id: str
    root: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What the server says of itself; None = it does not say. No models listed: empty."""

    models: tuple[ServedModel, ...] | None
    version: str | None
    server: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whatever its status; header names are in small letters.

    ``pieces``: how its body came in, as (seconds since it was asked for, bytes so far).
    """

    status: int
    body: str
    headers: Mapping[str, str]
    pieces: tuple[tuple[float, int], ...] = ()


def access(base: str, variables: Mapping[str, str]) -> Access:
    """Return how AIPerf would reach the server under these variables.

    A proxy counts only with AIPERF_HTTP_TRUST_ENV, and not for the hosts of NO_PROXY.
    """
    trusts = _flag(variables, "AIPERF_HTTP_TRUST_ENV", default=False)
    proxy = _proxy(urlsplit(base), variables) if trusts else None
    verify = _flag(variables, "AIPERF_HTTP_SSL_VERIFY", default=True)
    return Access(proxy, verify, variables.get("SSL_CERT_FILE") or None)


def tls_context(how: Access) -> ssl.SSLContext:
    """Return the rules for TLS: the system's certificates, and those of ``ca_file``.

    Raises UsageError for a ``ca_file`` that cannot be read.
    """
    context = ssl.create_default_context()
    if not how.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if how.ca_file:
        try:
            context.load_verify_locations(how.ca_file)
        except OSError:
            what = f"{how.ca_file} holds no certificates that can be read"
            raise UsageError("SSL_CERT_FILE", what, "name a PEM file") from None
    return context


def look(base: str, key: str | None, timeout_s: float = 5.0, how: Access = DIRECT) -> EndpointFacts:
    """Ask the server for its models and version.

    A server that keeps no list has models None. Raises EndpointError, after at most a little more
    than ``timeout_s``, when nothing answers or the key is refused.
    """
    require_name(base, min(timeout_s, _NAME_TIMEOUT_S), how)
    try:
        limit_s = timeout_s + _GRACE_S
        reply = within(limit_s, lambda: send(base + _MODELS_PATH, key, None, timeout_s, how))
    except TRANSPORT_ERRORS as error:
        asked = urlsplit(base).path + _MODELS_PATH
        raise explain_exception(error, base, key, timeout_s, asked) from None
    if _is_refusal(reply):
        raise _explained(reply, base, key)
    version = None if base == OPENAI_BASE else _version(base, how)
    return EndpointFacts(_models(reply), version, reply.headers.get("server"))


def explain_refusal(
    reply: Reply, base: str, key: str | None, model: str, how: Access = DIRECT
) -> EndpointError:
    """Return why a chat request was refused; for an unknown model with those that are served."""
    served: tuple[str, ...] = ()
    if reply.status in (400, 404, 422):
        with suppress(EndpointError):  # the refusal itself is the news
            served = tuple(card.id for card in look(base, key, how=how).models or ())
    return _explained(reply, base, key, model, served)


def exists(url: str, key: str | None, timeout_s: float, how: Access = DIRECT) -> bool:
    """Tell whether a file can be had from there, within ``timeout_s``; a redirect counts as yes."""

    def ask() -> Reply:
        return send(url, key, None, timeout_s, how, method="HEAD")

    try:
        return within(timeout_s, ask).status < HTTPStatus.BAD_REQUEST
    except TRANSPORT_ERRORS:
        return False


def require_name(base: str, timeout_s: float = _NAME_TIMEOUT_S, how: Access = DIRECT) -> None:
    """Look the server's name up, as clients do without any time-out of their own.

    Raises EndpointError when it is not known, or no name server answers in time.
    """
    url = urlsplit(base)
    if how.proxy:
        return  # the proxy looks it up
    try:
        within(timeout_s, lambda: socket.getaddrinfo(url.hostname, url.port or 0))
    except TimeoutError:
        what = f"the name {url.hostname} was not found out within {timeout_s:g} s"
        raise EndpointError(base, what, "check the network (VPN, DNS)") from None
    except OSError as error:
        raise explain_exception(error, base) from None


def _flag(variables: Mapping[str, str], name: str, *, default: bool) -> bool:
    try:
        return Flag().parse(variables[name].strip())
    except (KeyError, ValueError):  # AIPerf itself complains of a value that is none
        return default


def _proxy(url: SplitResult, variables: Mapping[str, str]) -> str | None:
    def value(name: str) -> str:
        return variables.get(name.lower()) or variables.get(name) or ""

    no_proxy = {"no": value("NO_PROXY")}
    if proxy_bypass_environment(url.netloc, no_proxy):
        return None
    return value(f"{url.scheme.upper()}_PROXY") or None


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; TimeoutError if that takes longer.

    A name server that is silent, or a server that sends a byte now and then, escapes the
    time-outs of sockets.
    """
    return in_background(work).result(seconds)


def in_background(work: Callable[[], T]) -> Future[T]:
    """Start ``work`` in a thread, which does not keep the process alive; return its outcome."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _is_refusal(reply: Reply) -> bool:
    """Tell whether this answer to /v1/models means that requests will fail as well."""
    if reply.status == HTTPStatus.FORBIDDEN:  # OpenAI: a key may chat, but not list models
        return "scope" not in reply.body
    return reply.status in (401, 407, 502, 503, 504) or reply.status // 100 == 3


def _explained(
    reply: Reply,
    base: str,
    key: str | None,
    model: str | None = None,
    served: tuple[str, ...] = (),
) -> EndpointError:
    return explain_status(
        reply.status,
        scrub(reply.body, key),
        base=base,
        model=model,
        key_sent=key is not None,
        served=served,
        headers={name: scrub(value, key) for name, value in reply.headers.items()},
    )


def _version(base: str, how: Access) -> str | None:
    try:
        limit_s = _VERSION_TIMEOUT_S
        reply = within(limit_s, lambda: send(f"{base}/version", None, None, limit_s, how))
    except TRANSPORT_ERRORS:
        return None
    found = _object(reply.body) if reply.status == HTTPStatus.OK else {}
    return _text(found.get("version"))


def _models(reply: Reply) -> tuple[ServedModel, ...] | None:
    found = _object(reply.body)
    if reply.status != HTTPStatus.OK or "data" not in found:
        return None
    cards = found["data"]
    if not isinstance(cards, list):  # Ollama without a model: null
        return ()
    return tuple(_model(card) for card in cards if isinstance(card, dict) and _text(card.get("id")))


def _model(card: Mapping[str, object]) -> ServedModel:
    meta = card.get("meta")  # llama.cpp: n_ctx is that of one request
    length = card.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    tokens = length if isinstance(length, int) and length > 0 else None
    return ServedModel(str(card["id"]), _text(card.get("root")), tokens)


def _object(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def send(
    url: str,
    key: str | None,
    body: bytes | None,
    timeout_s: float,
    how: Access,
    method: str = "",
    most_bytes: int = _MAX_BODY_BYTES,
) -> Reply:
    """Send one request and read the answer, whatever its status, up to ``most_bytes``.

    No redirect is followed: the key would go along, and AIPerf's POST would become a GET.
    ``timeout_s`` bounds each wait of the socket and the reading as a whole. Raises one of
    TRANSPORT_ERRORS.
    """
    headers = request_headers(key, has_body=body is not None)
    started_s = time.monotonic()
    # Reading the system's certificates takes a while: not for plain HTTP.
    verify = tls_context(how) if url.startswith("https:") else False
    method = method or ("POST" if body else "GET")
    with (
        httpx2.Client(
            verify=verify, proxy=how.proxy, trust_env=False, timeout=timeout_s, headers=headers
        ) as client,
        client.stream(method, url, content=body) as answer,
    ):
        body_read, pieces = _read(answer, started_s, timeout_s, most_bytes)
        text = body_read.decode("utf-8", "replace")
        return Reply(answer.status_code, text, dict(answer.headers), pieces)


def request_headers(key: str | None, *, has_body: bool) -> dict[str, str]:
    """Return the headers of every request of the harness."""
    headers = {"Accept": "application/json, text/event-stream", "User-Agent": "aiperf-harness"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if has_body:
        headers["Content-Type"] = "application/json"
    return headers


def _read(
    answer: httpx2.Response, started_s: float, timeout_s: float, most_bytes: int
) -> tuple[bytes, tuple[tuple[float, int], ...]]:
    body, pieces = bytearray(), []
    deadline_s = time.monotonic() + timeout_s
    for piece in answer.iter_bytes():
        body += piece
        now_s = time.monotonic()
        pieces.append((now_s - started_s, len(body)))
        if len(body) > most_bytes:
            break
        if now_s > deadline_s:
            raise TimeoutError
    return bytes(body), tuple(pieces)
