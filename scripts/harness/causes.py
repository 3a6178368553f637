"""What went wrong between client and server: errors and refusals become cause and hint. Pure."""

from __future__ import annotations

import difflib
import errno
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from harness.address import CHAT_PATH
from harness.errors import EndpointError
from harness.texts import one_line, said_in, scrub

NOT_SERVED = "is not served here"
_SHOWN_MODELS = 8
_NO_SUCH_MODEL = re.compile(
    r"\bmodels?\b.{0,160}?(not found|not exist|no longer exist|unknown|not available|not served"
    r"|not loaded|no such|not recogni[sz]ed)"
    r"|(unknown|invalid|no such|unrecogni[sz]ed|unsupported) model\b|no models? loaded",
    re.IGNORECASE | re.DOTALL,
)
_NO_SUCH_FIELD = re.compile(
    r"unsupported|not supported|unknown|unrecogni[sz]ed|unexpected|extra|not permitted|instead",
    re.IGNORECASE,
)
_LIMIT_FIELDS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


@dataclass(frozen=True, slots=True)
class Cause:
    """What happened, and what a person can do about it."""

    what: str
    remedy: str


def explain_exception(
    error: BaseException,
    base: str,
    key: str | None = None,
    waited_s: float | None = None,
    asked: str = "",
) -> EndpointError:
    """Return why no answer came, from the errors of any HTTP client.

    The cause is looked for along the chain of errors, in the standard library's own classes, and
    only last in names. ``waited_s`` is the time limit that applied (seconds), ``asked`` the path
    that was asked for: another one may still be answered.
    """
    chain = tuple(_chain(error))
    url = urlsplit(base)
    for find in _FINDERS:
        if cause := find(chain, url):
            break
    else:
        cause = _timeout(chain, waited_s, asked) or _broken_off(chain, asked) or _unknown(error)
    return _error(base, cause, key)


def explain_status(
    status: int,
    body: str,
    *,
    base: str,
    model: str | None = None,
    key_sent: bool,
    served: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
) -> EndpointError:
    """Return why the server refused, from a body and headers that are scrubbed of the key.

    ``served`` are the models it lists, empty = not known. Header names are in small letters.
    """
    message, code = said_in(body)
    refusal = _Refusal(status, message, code, key_sent, headers or {})
    if model is not None and _is_about_model(refusal, model, served):
        return _error(base, _not_served(refusal, model, served), None)
    explain = _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, _other_status)
    return _error(base, explain(refusal, base), None)


def other_limit(field: str, status: int, body: str) -> str | None:
    """Return the other name for the output limit, if the refusal is about the one that was used."""
    about_it = re.search(rf"\b{field}\b", body) and _NO_SUCH_FIELD.search(body)
    return _LIMIT_FIELDS[field] if status in (400, 422) and about_it else None


def _error(base: str, cause: Cause, key: str | None) -> EndpointError:
    return EndpointError(scrub(base, key), scrub(cause.what, key), scrub(cause.remedy, key))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        reason = getattr(error, "reason", None)  # urllib's URLError
        inner = reason if isinstance(reason, BaseException) else None
        error = inner or error.__cause__ or error.__context__


Chain = tuple[BaseException, ...]


def _name(chain: Chain, url: SplitResult) -> Cause | None:
    if not any(isinstance(error, socket.gaierror) for error in chain):
        return None
    remedy = "check AIPERF_URL for a slip, and the network (VPN, DNS)"
    return Cause(f"the name {url.hostname} is not known", remedy)


def _refused(chain: Chain, url: SplitResult) -> Cause | None:
    if not any(isinstance(error, ConnectionRefusedError) for error in chain):
        return None
    remedy = "start the server, or set AIPERF_URL to where it listens"
    if url.hostname in ("localhost", "127.0.0.1", "::1"):
        remedy += "; inside a container this machine is host.docker.internal"
    return Cause(f"connection refused: nothing listens on port {_port(url)}", remedy)


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _unreachable(chain: Chain, url: SplitResult) -> Cause | None:
    numbers = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
    if not any(isinstance(error, OSError) and error.errno in numbers for error in chain):
        return None
    return Cause(f"no route to {url.hostname}", "check the address and the network (VPN)")


def _certificate(chain: Chain, url: SplitResult) -> Cause | None:
    for error in chain:
        if isinstance(error, ssl.SSLCertVerificationError):
            what, remedy = _CERTIFICATE.get(error.verify_code, (error.verify_message, _TRUST_IT))
            return Cause(f"TLS: {what.format(host=url.hostname)}", remedy)
    return None


_TRUST_IT = (
    "name the certificate of its issuer in .env as SSL_CERT_FILE=/path/to/ca.pem, "
    "or on a network you trust set AIPERF_HTTP_SSL_VERIFY=false there"
)
_OTHER_NAME = "use the name that the certificate is made out to"
#: OpenSSL's verification codes: x509_vfy.h.
_CERTIFICATE = {
    9: ("the certificate is not valid yet", "check the clock of this machine"),
    10: ("the certificate has expired", "have it renewed, and check the clock of this machine"),
    18: ("the certificate is self-signed", _TRUST_IT),
    19: ("the certificate is signed by an issuer of its own (self-signed)", _TRUST_IT),
    20: ("the issuer of the certificate is not known here", _TRUST_IT),
    21: ("the issuer of the certificate is not known here", _TRUST_IT),
    62: ("the certificate is not made out to {host}", _OTHER_NAME),
    64: ("the certificate is not made out to {host}", _OTHER_NAME),
}
_PLAIN_HTTP = re.compile(r"(?i)WRONG_VERSION_NUMBER|RECORD_LAYER|HTTP_REQUEST|packet length")


def _handshake(chain: Chain, url: SplitResult) -> Cause | None:
    if not any("handshake operation timed out" in str(error) for error in chain):
        return None
    what = f"TLS: port {_port(url)} does not answer its handshake"
    return Cause(what, "if the server speaks plain HTTP, write http:// in AIPERF_URL")


def _tls(chain: Chain, url: SplitResult) -> Cause | None:
    for error in chain:
        if isinstance(error, ssl.SSLError) and not isinstance(error, TimeoutError):
            if _PLAIN_HTTP.search(str(error)):
                what = f"TLS: port {_port(url)} does not speak it"
                return Cause(what, "write http:// instead of https:// in AIPERF_URL")
            what = f"TLS: {one_line(str(error))}"
            return Cause(what, "check that AIPERF_URL names the TLS port of the server")
    return None


_FINDERS: tuple[Callable[[Chain, SplitResult], Cause | None], ...] = (
    _name,
    _refused,
    _unreachable,
    _certificate,
    _handshake,
    _tls,
)


def _timeout(chain: Chain, waited_s: float | None, asked: str) -> Cause | None:
    names = {type(error).__name__ for error in chain}
    if not (names & _TIMEOUTS or any(isinstance(error, TimeoutError) for error in chain)):
        return None
    within = "in time" if waited_s is None else f"within {waited_s:g} s"
    if names & _WHILE_CONNECTING:
        remedy = "check address and port of AIPERF_URL; a firewall or VPN may swallow the packets"
        return Cause(f"no connection {within}", remedy)
    remedy = "the server may hang, be busy or still be loading the model: see its log"
    answer = f"answer from {asked}" if asked else "answer"
    return Cause(f"time-out: no {answer} {within}", remedy)


_TIMEOUTS = {"ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout", "APITimeoutError"}
_WHILE_CONNECTING = {"ConnectTimeout", "URLError"}
_BROKEN_OFF = {"RemoteProtocolError", "ReadError", "WriteError", "IncompleteRead", "BadStatusLine"}


def _broken_off(chain: Chain, asked: str) -> Cause | None:
    names = {type(error).__name__ for error in chain}
    if not (names & _BROKEN_OFF or any(isinstance(error, ConnectionError) for error in chain)):
        return None
    remedy = "see the server's log; if this is a TLS port, write https:// in AIPERF_URL"
    when = f" when asked for {asked}" if asked else ""
    return Cause(f"the server closed the connection{when}, or does not speak HTTP", remedy)


def _unknown(error: BaseException) -> Cause:
    what = f"{type(error).__name__}: {one_line(str(error))}"
    return Cause(what, "check AIPERF_URL and the server's log")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An answer other than 200."""

    status: int
    message: str
    code: str
    key_sent: bool
    headers: Mapping[str, str]

    def told(self, note: str = "") -> str:
        """Return status, name and the server's own words on one line."""
        try:
            name = f"HTTP {self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            name = f"HTTP {self.status}"
        said = one_line(self.message)
        return name + (f" {note}" if note else "") + (f": {said}" if said else "")


def _is_about_model(refusal: _Refusal, model: str, served: Sequence[str]) -> bool:
    if refusal.status not in (400, 404, 422) or model in served:
        return False
    named = bool(_NO_SUCH_MODEL.search(f"{refusal.code.replace('_', ' ')}\n{refusal.message}"))
    return named or (refusal.status == HTTPStatus.NOT_FOUND and bool(served))


def _not_served(refusal: _Refusal, model: str, served: Sequence[str]) -> Cause:
    what = refusal.told(f"(the model {model} {NOT_SERVED})")
    if not served:
        return Cause(what, "set MODEL to the name the server was started with")
    if near := nearest(model, served):
        return Cause(what, f"did you mean {near}? Set MODEL to one of: {_listed(served, near)}")
    return Cause(what, f"set MODEL to one of: {_listed(served)}")


def nearest(model: str, served: Sequence[str]) -> str | None:
    """Return the served name most like ``model``, whatever the case and the owner before a /.

    None if none is alike.
    """
    wanted = model.lower()
    for name in served:
        if wanted.rsplit("/")[-1] == name.lower().rsplit("/")[-1]:
            return name
    lowered = {name.lower(): name for name in served}
    near = difflib.get_close_matches(wanted, lowered, n=1, cutoff=0.5)
    return lowered[near[0]] if near else None


def _listed(served: Sequence[str], first: str | None = None) -> str:
    names = sorted(served, key=lambda name: name != first)
    more = len(names) - _SHOWN_MODELS
    return ", ".join(names[:_SHOWN_MODELS]) + (f" and {more} more" if more > 0 else "")


def _unauthorized(refusal: _Refusal, _: str) -> Cause:
    if refusal.key_sent:
        remedy = "set OPENAI_API_KEY in .env to a key that this server accepts"
        return Cause(refusal.told("(the key that was sent is refused)"), remedy)
    remedy = "the server wants a key: set OPENAI_API_KEY in .env"
    return Cause(refusal.told("(no key was sent)"), remedy)


def _forbidden(refusal: _Refusal, base: str) -> Cause:
    if not refusal.key_sent:
        return _unauthorized(refusal, base)
    remedy = "see whether the key in OPENAI_API_KEY may use this model from here"
    return Cause(refusal.told("(a key was sent, and it may not do this)"), remedy)


def _no_such_path(refusal: _Refusal, base: str) -> Cause:
    remedy = "check host, port and path of AIPERF_URL; /v1 is added where it is missing"
    return Cause(refusal.told(f"(no {CHAT_PATH} under {base})"), remedy)


def _rate_limited(refusal: _Refusal, _: str) -> Cause:
    if "quota" in refusal.code or "quota" in refusal.message.lower():
        return Cause(refusal.told(), "the account has no credit left: see its billing page")
    if wait := one_line(refusal.headers.get("retry-after", "")):
        wait += " s" if wait.isdigit() else ""
        return Cause(refusal.told(f"(Retry-After: {wait})"), f"try again after {wait}")
    return Cause(refusal.told(), "wait a while, or ask for a higher limit")


def _redirected(refusal: _Refusal, _: str) -> Cause:
    target = one_line(refusal.headers.get("location") or "another place")
    return Cause(refusal.told(f"(it leads to {target})"), "set AIPERF_URL to that address itself")


def _rejected(refusal: _Refusal, _: str) -> Cause:
    if "HTTPS" in refusal.message and "HTTP request" in refusal.message:
        return Cause(refusal.told(), "write https:// instead of http:// in AIPERF_URL")
    remedy = "change what the server names (MODEL, EXTRA_INPUTS or a length)"
    return Cause(refusal.told(), remedy)


def _proxy_wants_key(refusal: _Refusal, _: str) -> Cause:
    return Cause(refusal.told(), "the proxy wants a name: put it into HTTP_PROXY or HTTPS_PROXY")


def _not_up(refusal: _Refusal, _: str) -> Cause:
    remedy = "the server, or the one behind it, is down or still loading: see its log, try again"
    return Cause(refusal.told(), remedy)


def _failed(refusal: _Refusal, _: str) -> Cause:
    return Cause(refusal.told(), "the server itself failed: see its log")


def _other_status(refusal: _Refusal, _: str) -> Cause:
    return Cause(refusal.told(), "check AIPERF_URL and the server's log")


_Explain = Callable[[_Refusal, str], Cause]
_BY_STATUS: dict[int, _Explain] = {
    401: _unauthorized,
    403: _forbidden,
    404: _no_such_path,
    405: _no_such_path,
    407: _proxy_wants_key,
    429: _rate_limited,
    501: _no_such_path,
    502: _not_up,
    503: _not_up,
    504: _not_up,
}
_BY_CLASS: dict[int, _Explain] = {3: _redirected, 4: _rejected, 5: _failed}
