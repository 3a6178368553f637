"""The server that is measured: how it is reached, and what it says of itself.

Why an answer did not come is told by `harness.causes`.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Thread
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import httpx2

from harness.address import CHAT_PATH, OPENAI_BASE
from harness.causes import (
    explain_exception,
    explain_status,
    other_limit,
)
from harness.errors import EndpointError, UsageError
from harness.kinds import Flag
from harness.texts import scrub

__all__ = [
    "Access",
    "EndpointFacts",
    "ServedModel",
    "access",
    "exists",
    "explain_exception",
    "explain_refusal",
    "explain_status",
    "look",
    "reports_usage",
    "require_name",
    "tls_context",
]

T = TypeVar("T")

_MODELS_PATH = "/v1/models"
_NAME_TIMEOUT_S = 3.0
_VERSION_TIMEOUT_S = 2.0
_GRACE_S = 1.0  # for a server that answers just within its time-out
_MAX_BODY_BYTES = 1 << 20
_BRIEF_TOKENS = 2
_PAUSES_S = (0.2, 0.4, 0.8)  # before a busy server is asked again
_LONGEST_PAUSE_S = 2.0
#: What can go wrong while asking; name look-ups and our own time limits raise OSErrors.
_TRANSPORT_ERRORS = (OSError, httpx2.HTTPError, httpx2.InvalidURL)


@dataclass(frozen=True, slots=True)
class Access:
    """How the server is reached: straight on, unless the settings say otherwise, as AIPerf does."""

    proxy: str | None = field(default=None, repr=False)  # may hold a password
    verify: bool = True
    ca_file: str | None = None


DIRECT = Access()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of /v1/models; ``root`` is what it was loaded from, the length counts tokens."""

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
    """An answer, whatever its status; header names are in small letters."""

    status: int
    body: str
    headers: Mapping[str, str]


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
        reply = _within(limit_s, lambda: _ask(base + _MODELS_PATH, key, None, timeout_s, how))
    except _TRANSPORT_ERRORS as error:
        asked = urlsplit(base).path + _MODELS_PATH
        raise explain_exception(error, base, key, timeout_s, asked) from None
    if _is_refusal(reply):
        raise _explained(reply, base, key)
    version = None if base == OPENAI_BASE else _version(base, how)
    return EndpointFacts(_models(reply), version, reply.headers.get("server"))


def reports_usage(
    base: str, key: str | None, model: str, timeout_s: float, how: Access = DIRECT
) -> bool:
    """Tell whether the server counts tokens itself: one streamed request of two tokens.

    A busy server is asked a few times, all within ``timeout_s``; one that then still is, or breaks
    off, does not say: the run will tell more. Raises EndpointError when the request is refused for
    another reason than asking for the count.
    """
    limit, deadline_s = "max_tokens", time.monotonic() + timeout_s
    try:
        reply = _patiently(base, key, _brief(model, limit), deadline_s, how)
        if swapped := other_limit(limit, reply.status, reply.body):
            reply = _patiently(base, key, _brief(model, swapped), deadline_s, how)
    except _TRANSPORT_ERRORS:
        return False
    if _is_busy(reply) or (reply.status in (400, 422) and "stream_options" in reply.body):
        return False
    if reply.status != HTTPStatus.OK:
        raise explain_refusal(reply, base, key, model, how)
    return any(isinstance(event.get("usage"), dict) for event in _events(reply.body))


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
        return _ask(url, key, None, timeout_s, how, method="HEAD")

    try:
        return _within(timeout_s, ask).status < HTTPStatus.BAD_REQUEST
    except _TRANSPORT_ERRORS:
        return False


def require_name(base: str, timeout_s: float = _NAME_TIMEOUT_S, how: Access = DIRECT) -> None:
    """Look the server's name up, as clients do without any time-out of their own.

    Raises EndpointError when it is not known, or no name server answers in time.
    """
    url = urlsplit(base)
    if how.proxy:
        return  # the proxy looks it up
    try:
        _within(timeout_s, lambda: socket.getaddrinfo(url.hostname, url.port or 0))
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


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; TimeoutError if that takes longer.

    A name server that is silent, or a server that sends a byte now and then, escapes the
    time-outs of sockets. The thread that waits for it does not keep the process alive.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(seconds)


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
        reply = _within(limit_s, lambda: _ask(f"{base}/version", None, None, limit_s, how))
    except _TRANSPORT_ERRORS:
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
    length = card.get("max_model_len")
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


def _brief(model: str, limit: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: _BRIEF_TOKENS,
    }


def _patiently(
    base: str, key: str | None, fields: Mapping[str, object], deadline_s: float, how: Access
) -> Reply:
    """Send one chat request, up to three times more while the server is busy or failing.

    TimeoutError after ``deadline_s`` (of the monotonic clock).
    """
    url, body = base + CHAT_PATH, json.dumps(fields).encode()
    reply = _once(url, key, body, deadline_s - time.monotonic(), how)
    for default_s in _PAUSES_S:
        pause_s = _asked_pause_s(reply, default_s)
        if not _is_busy(reply) or time.monotonic() + pause_s >= deadline_s:
            break
        time.sleep(pause_s)
        reply = _once(url, key, body, deadline_s - time.monotonic(), how)
    return reply


def _once(url: str, key: str | None, body: bytes, timeout_s: float, how: Access) -> Reply:
    if timeout_s <= 0:
        raise TimeoutError
    return _within(timeout_s, lambda: _ask(url, key, body, timeout_s, how))


def _is_busy(reply: Reply) -> bool:
    """Tell whether the same request may succeed a little later."""
    return reply.status == HTTPStatus.TOO_MANY_REQUESTS or reply.status // 100 == 5


def _asked_pause_s(reply: Reply, default_s: float) -> float:
    """Return the pause that the server asks for, as far as it is short."""
    asked = reply.headers.get("retry-after", "").strip()
    is_number = asked.isascii() and asked.isdigit()  # else a date
    return min(float(asked), _LONGEST_PAUSE_S) if is_number else default_s


def _events(stream: str) -> Iterator[Mapping[str, object]]:
    for line in stream.splitlines():
        if line.startswith("data:"):
            yield _object(line.removeprefix("data:"))


def _ask(
    url: str, key: str | None, body: bytes | None, timeout_s: float, how: Access, method: str = ""
) -> Reply:
    """Send one request and read the answer, whatever its status.

    No redirect is followed: the key would go along, and AIPerf's POST would become a GET.
    ``timeout_s`` bounds each wait of the socket and the reading as a whole.
    """
    headers = {"Accept": "application/json, text/event-stream", "User-Agent": "aiperf-harness"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if body:
        headers["Content-Type"] = "application/json"
    # Reading the system's certificates takes a while: not for plain HTTP.
    verify = tls_context(how) if url.startswith("https:") else False
    method = method or ("POST" if body else "GET")
    with (
        httpx2.Client(
            verify=verify, proxy=how.proxy, trust_env=False, timeout=timeout_s, headers=headers
        ) as client,
        client.stream(method, url, content=body) as answer,
    ):
        text = _read(answer, time.monotonic() + timeout_s).decode("utf-8", "replace")
        return Reply(answer.status_code, text, dict(answer.headers))


def _read(answer: httpx2.Response, deadline_s: float) -> bytes:
    body = bytearray()
    for piece in answer.iter_bytes():
        body += piece
        if len(body) > _MAX_BODY_BYTES:
            break
        if time.monotonic() > deadline_s:
            raise TimeoutError
    return bytes(body)
