"""Addresses: what a person writes as AIPERF_URL, and the one form in which it is used."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, urlsplit

from harness.errors import UsageError

OPENAI_HOST = "api.openai.com"
OPENAI_BASE = f"https://{OPENAI_HOST}"
CHAT_PATH = "/v1/chat/completions"
_KNOWN_TAIL = re.compile(r"/v1(/chat(/completions)?|/models)?/*$")
_OTHER_TAIL = re.compile(r"/(completions|responses|embeddings|generate)/*$")
_WITH_HOST = "write it as http://host:port"
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.%]+")  # a name, or an IPv6 address


def base_url(text: str) -> str:
    """Return scheme, host, port and path of the server, without /v1 and what follows it.

    http:// is added where no scheme is written. Raises UsageError for what cannot be a server's
    address, without repeating a password that stands in it.
    """
    url = _split(text)
    host, port = _checked_host(url), _checked_port(url)
    if host == OPENAI_HOST:  # never without TLS: the key of an account goes there
        return OPENAI_BASE
    shown = f"[{host}]" if ":" in host else host
    path = _checked_path(url.path)
    return f"{url.scheme}://{shown}" + (f":{port}" if port else "") + path


def _split(text: str) -> SplitResult:
    """Split the URL, with the scheme that a person meant."""
    if any(char.isspace() or not char.isprintable() for char in text) or "\\" in text:
        raise UsageError("AIPERF_URL", "holds a space or a backslash", _WITH_HOST)
    if "://" not in text:
        text = f"http://{text}"
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise UsageError("AIPERF_URL", f"is no URL ({error})", _WITH_HOST) from None
    if url.username is not None or url.password is not None:
        remedy = "leave it out and set OPENAI_API_KEY"
        raise UsageError("AIPERF_URL", "holds a user name or password", remedy)
    if url.query or url.fragment:
        remedy = "leave out the ? or # and what follows"
        raise UsageError("AIPERF_URL", "holds more than an address", remedy)
    if url.scheme not in ("http", "https"):
        remedy = "write http:// or https://"
        raise UsageError("AIPERF_URL", f"{url.scheme}:// is not measured", remedy)
    return url


def _checked_host(url: SplitResult) -> str:
    try:
        host = (url.hostname or "").encode("ascii" if url.netloc.isascii() else "idna").decode()
    except UnicodeError:
        host = ""
    if not _HOST.fullmatch(host) or host.startswith(".") or ".." in host:
        raise UsageError("AIPERF_URL", f"{url.netloc!r} names no host", _WITH_HOST)
    return host


def _checked_port(url: SplitResult) -> int | None:
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0 or url.netloc.endswith(":"):
        raise UsageError("AIPERF_URL", f"{url.netloc!r} has no port from 1 to 65535", _WITH_HOST)
    return port


def _checked_path(path: str) -> str:
    path = _KNOWN_TAIL.sub("", path.rstrip("/"))
    if _OTHER_TAIL.search(path):
        what = f"{path} is not the chat interface"
        raise UsageError("AIPERF_URL", what, f"end it before {CHAT_PATH}, the one measured")
    return quote(path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
