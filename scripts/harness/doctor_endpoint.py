"""Checks of the server: from its name to what it does with connections, a few short requests.

Each step rests on the one before it. What rests on a failed one is not asked.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from harness import tokenizer
from harness.address import CHAT_PATH
from harness.causes import NOT_SERVED, nearest
from harness.connections import Keeping, keeping
from harness.doctor import Check, State, failed
from harness.endpoint import (
    TRANSPORT_ERRORS,
    EndpointFacts,
    ServedModel,
    Server,
    access,
    explain_exception,
    explain_refusal,
    in_background,
    look,
    require_name,
    tls_context,
    within,
)
from harness.errors import EndpointError, HarnessError, UsageError
from harness.probes import (
    NEW_LIMIT,
    OLD_LIMIT,
    Answer,
    Limit,
    Question,
    ask,
    came_at_once,
    held_back,
    is_busy,
    no_stream,
)
from harness.settings import Settings
from harness.tokenizer import TokenizerChoice

#: In the order in which they are told.
NAMES = (
    "URL",
    "name",
    "TCP",
    "TLS",
    "key",
    "path",
    "model",
    "stream",
    "usage",
    "output limit",
    "exact length",
    "reasoning",
    "context",
    "tokenizer",
    "clock",
    "connections",
)
N_TOKENS = 16  # enough to see whether they come one by one
_REACH_TIMEOUT_S = 3.0
_LOOK_TIMEOUT_S = 5.0
_ASK_TIMEOUT_S = 30.0
_IDLE_S = 0.6  # between two requests over one connection
_AT_ONCE_S = 0.1
_MOST_SKEW_S = 2.0  # the header counts whole seconds
_MOST_NAMED = 8
_LENGTH_FIELDS: Mapping[str, object] = {"ignore_eos": True, "min_tokens": 2}


def endpoint_checks(settings: Settings, environ: Mapping[str, str]) -> list[Check]:
    """Check the server, and each of MORE_URLS; those not asked have nothing found."""
    checks = []
    for base in (settings.base, *settings.more_urls):
        how = access(base, {**settings.handed_on, **environ})
        visit = _Visit(settings, Server(base, settings.openai_api_key, how), environ)
        found = {check.name: check for check in visit.checks()}
        checks += [found.get(check.name, check) for check in not_asked()]
    return checks


def not_asked() -> list[Check]:
    """Return the checks of a server that was not asked at all."""
    return [Check("endpoint", name, State.UNKNOWN, "") for name in NAMES]


@dataclass(frozen=True, slots=True)
class _Visit:
    """One server while it is looked at."""

    settings: Settings
    server: Server
    environ: Mapping[str, str]

    def checks(self) -> list[Check]:
        """Ask step by step, and stop at the first that fails."""
        checks = [_ok("URL", self.server.base + CHAT_PATH)]
        for step in (self._name, self._tcp, self._tls):
            checks.append(step())
            if checks[-1].state is State.FAILED:
                return checks
        return checks + self._asked()

    def _name(self) -> Check:
        if self.server.how.proxy:
            return _unknown("name", "asked for by the proxy")
        host = urlsplit(self.server.base).hostname or ""
        try:
            require_name(self.server.base, _REACH_TIMEOUT_S, self.server.how)
        except EndpointError as error:
            return failed("endpoint", "name", error)
        return _ok("name", host)

    def _tcp(self) -> Check:
        if self.server.how.proxy:
            return _unknown("TCP", "through the proxy")
        address = _address(self.server)
        started_s = time.monotonic()
        try:
            with within(
                _REACH_TIMEOUT_S + 1, lambda: socket.create_connection(address, _REACH_TIMEOUT_S)
            ):
                waited_ms = (time.monotonic() - started_s) * 1e3
        except TimeoutError:
            remedy = "check address and port; a firewall or VPN may swallow the packets"
            return _failed("TCP", f"no connection within {_REACH_TIMEOUT_S:g} s", remedy)
        except OSError as error:
            return failed("endpoint", "TCP", explain_exception(error, self.server.base))
        return _ok("TCP", f"port {address[1]}, {waited_ms:.1f} ms")

    def _tls(self) -> Check:
        if not self.server.base.startswith("https:"):
            return _ok("TLS", "none (http://)")
        if self.server.how.proxy:
            return _unknown("TLS", "through the proxy")
        try:
            found = within(_REACH_TIMEOUT_S + 1, self._handshake)
        except OSError as error:
            told = explain_exception(error, self.server.base)
            return _failed("TLS", told.what.removeprefix("TLS: "), told.remedy)
        except UsageError as error:
            return failed("endpoint", "TLS", error)
        if self.server.how.verify:
            return _ok("TLS", f"{found}, certificate trusted")
        remedy = "name its issuer in SSL_CERT_FILE, and take AIPERF_HTTP_SSL_VERIFY out"
        return _caution("TLS", f"{found}, certificate not checked", remedy)

    def _handshake(self) -> str:
        context, address = tls_context(self.server.how), _address(self.server)
        with (
            socket.create_connection(address, _REACH_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=address[0]) as secured,
        ):
            return secured.version() or "TLS"

    def _asked(self) -> list[Check]:
        """Ask for the models and one answer; then, if that came, what else there is to ask."""
        base, key, how = self.server.base, self.server.key, self.server.how
        sent_s = time.time()
        models = in_background(lambda: look(base, key, _LOOK_TIMEOUT_S, how))
        answers = in_background(lambda: ask(self.server, self._question(), self._patience_s))
        try:
            answer = answers.result()
        except TRANSPORT_ERRORS as error:
            told = explain_exception(error, base, key, self._patience_s, CHAT_PATH)
            return [failed("endpoint", "stream", told)]
        came_s = time.time()
        if answer.reply.status != HTTPStatus.OK:
            return self._refused(answer)
        facts = _facts(models)
        if isinstance(facts, EndpointError):  # profile asks for them first, and stops there
            return [failed("endpoint", "key", facts)]
        checks = self._answered(answer, facts)
        if not answer.is_stream or checks[-1].state is State.FAILED:
            return checks
        clock = check_clock(answer.reply.headers.get("date"), sent_s, came_s)
        return [*checks, *self._streamed(answer, facts), clock, *self._more(answer, facts)]

    def _answered(self, answer: Answer, facts: EndpointFacts) -> list[Check]:
        """Return what any answer shows; whether it is a stream is the last."""
        path = _ok("path", "a chat request is answered")
        return [self._key(), path, self._model(facts), check_stream(answer, self.server)]

    def _streamed(self, answer: Answer, facts: EndpointFacts) -> list[Check]:
        """Return what a streamed answer shows."""
        return [
            check_usage(answer),
            check_limit(answer, self.settings),
            check_reasoning(answer),
            check_context(_context_tokens(facts, self.settings.model), self.settings),
        ]

    def _question(self) -> Question:
        limit: Limit = OLD_LIMIT if self.settings.use_legacy_max_tokens else NEW_LIMIT
        return Question(self.settings.model, N_TOKENS, limit, self.settings.extra_inputs)

    @property
    def _patience_s(self) -> float:
        return min(self.settings.request_timeout_seconds, _ASK_TIMEOUT_S)

    def _more(self, answer: Answer, facts: EndpointFacts) -> list[Check]:
        """Ask, side by side, what rests on the answer."""
        short = Question(self.settings.model, limit=answer.limit or NEW_LIMIT)
        lengths = {
            name: in_background(self._taker(replace(short, extra={name: value})))
            for name, value in _LENGTH_FIELDS.items()
        }
        kept = in_background(lambda: keeping(self.server, short, _IDLE_S, self._patience_s))
        chosen = self._tokenizer(answer, facts)
        taken = {name: future.result() for name, future in lengths.items()}
        reuse = self.settings.connection_reuse
        return [check_lengths(taken), chosen, check_connections(kept.result(), reuse)]

    def _taker(self, question: Question) -> Callable[[], bool | None]:
        """Return what tells whether the server takes a field; None where it does not say."""

        def taken() -> bool | None:
            try:
                reply = ask(self.server, question, self._patience_s).reply
            except TRANSPORT_ERRORS:
                return None
            if reply.status in (400, 422):
                return False
            return True if reply.status == HTTPStatus.OK else None

        return taken

    def _tokenizer(self, answer: Answer, facts: EndpointFacts) -> Check:
        roots = {model.id: model.root for model in facts.models or ()}
        resolve = tokenizer.hugging_face({**self.settings.handed_on, **self.environ})
        counts = answer.usage is not None
        files = tokenizer.offline_files()
        try:
            choice = tokenizer.choose(self.settings, roots, resolve, lambda: counts, files)
        except HarnessError as error:
            return failed("settings", "tokenizer", error)
        return check_tokenizer(choice)

    def _refused(self, answer: Answer) -> list[Check]:
        """Return the check that a refusal fails, and those that it shows to be well."""
        reply, (base, key, how) = answer.reply, (self.server.base, self.server.key, self.server.how)
        error = explain_refusal(reply, base, key, self.settings.model, how)
        if reply.status in (401, 403, 407):
            return [failed("endpoint", "key", error)]
        if NOT_SERVED in error.what:
            return [self._key(), _ok("path", CHAT_PATH), failed("endpoint", "model", error)]
        if reply.status in (404, 405, 501) or reply.status // 100 == 3:
            return [failed("endpoint", "path", error)]
        known = [] if is_busy(reply) else [self._key(), _ok("path", CHAT_PATH)]
        return [*known, failed("endpoint", "stream", error)]

    def _key(self) -> Check:
        return _ok("key", "accepted" if self.server.key else "none is wanted")

    def _model(self, facts: EndpointFacts) -> Check:
        name, served = self.settings.model, [model.id for model in facts.models or ()]
        if not served:
            return _ok("model", f"answers to {name}; the server lists none")
        if name in served:
            return _ok("model", name)
        near = nearest(name, served)
        found = f"answers to {name}, but lists {', '.join(served[:_MOST_NAMED])}"
        remedy = f"did you mean {near}? " if near else ""
        return _caution("model", found, f"{remedy}Set MODEL to a listed name")


def check_stream(answer: Answer, server: Server) -> Check:
    """Check that tokens come one by one, and that any do."""
    kind = answer.reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not answer.is_stream:
        return failed("endpoint", "stream", no_stream(kind, answer.reply.body, server))
    if answer.error:
        found = f"the server reports an error in the stream: {answer.error}"
        return _failed("stream", found, "see the server's log")
    return _check_arrivals(answer.arrivals_s) if answer.arrivals_s else _check_silence(answer)


def _check_silence(answer: Answer) -> Check:
    if answer.reasons:
        found = f"no token of {N_TOKENS} was shown: the model's reasoning is kept back"
        return _caution("stream", found, "TTFT will hold all of the reasoning; ask for more tokens")
    remedy = "see the server's log; the model may have no chat template"
    return _failed("stream", "the stream ended without a token", remedy)


def _check_arrivals(arrivals_s: Sequence[float]) -> Check:
    first_ms, spread_ms = arrivals_s[0] * 1e3, (arrivals_s[-1] - arrivals_s[0]) * 1e3
    if came_at_once(arrivals_s):
        found = f"all {len(arrivals_s)} pieces came at once, after {first_ms:.0f} ms"
        remedy = "turn off buffering in the server, or in the proxy before it"
        check = _failed if held_back(arrivals_s, 0.0) else _caution
        return check("stream", found, remedy)
    if spread_ms < len(arrivals_s):
        n = len(arrivals_s)
        return _unknown("stream", f"too few pieces to tell: {n}, at once, after {first_ms:.0f} ms")
    found = f"first piece after {first_ms:.0f} ms, {len(arrivals_s)} within {spread_ms:.0f} ms more"
    return _ok("stream", found)


def check_usage(answer: Answer) -> Check:
    """Check whether the server counts tokens."""
    if answer.usage is not None:
        return _ok("usage", "sent: the server counts tokens")
    found = "not sent" + (" (stream_options are refused)" if answer.counts_refused else "")
    return _caution("usage", found, "set TOKENIZER to the model's own, which then counts")


def check_limit(answer: Answer, settings: Settings) -> Check:
    """Check the name under which the server takes the output length."""
    asked = OLD_LIMIT if settings.use_legacy_max_tokens else NEW_LIMIT
    if answer.limit is None:
        found = f"neither {NEW_LIMIT} nor {OLD_LIMIT} is followed"
        return _caution("output limit", found, "OUTPUT_TOKENS_MEAN will not hold: limit the server")
    if answer.limit == asked:
        return _ok("output limit", asked)
    return _ok("output limit", f"{answer.limit} only; AIPerf is told so by itself")


def check_lengths(taken: Mapping[str, bool | None]) -> Check:
    """Check which of the fields the server takes that make an answer as long as asked."""
    good = [name for name, is_taken in taken.items() if is_taken]
    if good:
        value = "true" if good[0] == "ignore_eos" else "OUTPUT_TOKENS_MEAN"
        return _ok("exact length", f"takes {' and '.join(good)} (EXTRA_INPUTS={good[0]}:{value})")
    if all(is_taken is False for is_taken in taken.values()):
        found = f"{' and '.join(taken)} are refused: answers may be shorter than asked"
        return _caution("exact length", found, "choose prompts that call for long answers")
    return _unknown("exact length", "the server did not say")


def check_reasoning(answer: Answer) -> Check:
    """Tell whether the model thinks before it answers."""
    if answer.reasons:
        return _ok("reasoning", "yes: TTFT counts the first token of the reasoning, where shown")
    return _ok("reasoning", f"none in {N_TOKENS} tokens")


def check_context(n_tokens: int | None, settings: Settings) -> Check:
    """Check that prompt and answer fit into what the server holds."""
    if n_tokens is None:
        return _unknown("context", "the server does not tell its length")
    found = f"{n_tokens} tokens"
    answer = settings.output_tokens_mean
    if settings.input_file:
        return _ok("context", f"{found} for prompts of INPUT_FILE and {answer} of answer")
    mean = settings.input_tokens_mean + answer
    longest = mean + 2 * settings.input_tokens_stddev
    found += f", prompt and answer ask for {mean}, at times {longest}"
    remedy = "lower INPUT_TOKENS_MEAN or OUTPUT_TOKENS_MEAN, or start the server with more"
    if mean > n_tokens:
        return _failed("context", found, remedy)
    return _ok("context", found) if longest <= n_tokens else _caution("context", found, remedy)


def check_tokenizer(choice: TokenizerChoice) -> Check:
    """Tell which tokenizer counts, and whether its counts are exact."""
    found = f"{choice.name}: {choice.why}"
    if choice.exact or choice.server_counts:
        return _ok("tokenizer", found)
    return _caution("tokenizer", found, "set TOKENIZER to the model's own (a name or a folder)")


def check_clock(date: str | None, sent_s: float, came_s: float) -> Check:
    """Check this clock against the server's Date header, which counts whole seconds."""
    try:
        server_s = parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return _unknown("clock", "the server sends no date")
    ahead_s = server_s - came_s if server_s > came_s else min(server_s + 1 - sent_s, 0.0)
    if abs(ahead_s) <= _MOST_SKEW_S:
        return _ok("clock", "agrees with the server's")
    found = f"the server's is {abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}"
    return _caution("clock", found, "set both by NTP: logs and traces will not match")


def check_connections(found: Keeping | None, reuse: str) -> Check:
    """Check what the server does with a connection after an answer."""
    if found is None:
        return _unknown("connections", "could not be told")
    if found.end == "kept":
        return _ok("connections", f"kept open after an answer and {_IDLE_S:g} s")
    if found.end == "announced":
        return _ok("connections", "closed after each answer, which its header announces")
    when = "right after an answer" if found.after_s < _AT_ONCE_S else f"idle {found.after_s:.1f} s"
    what = f"dropped without a word, {when}"
    if reuse == "never":
        return _ok("connections", f"{what}; CONNECTION_REUSE=never copes with it")
    check = _failed if found.after_s < _AT_ONCE_S else _caution
    return check("connections", f"{what}: requests are lost", "set CONNECTION_REUSE=never")


def _facts(models: Future[EndpointFacts]) -> EndpointFacts | EndpointError:
    try:
        return models.result()
    except EndpointError as error:
        return error


def _context_tokens(facts: EndpointFacts, model: str) -> int | None:
    cards: Sequence[ServedModel] = facts.models or ()
    named = [card for card in cards if card.id == model] or (cards if len(cards) == 1 else ())
    return named[0].max_model_len if named else None


def _address(server: Server) -> tuple[str, int]:
    url = urlsplit(server.base)
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _ok(name: str, found: str) -> Check:
    return Check("endpoint", name, State.OK, found)


def _unknown(name: str, found: str) -> Check:
    return Check("endpoint", name, State.UNKNOWN, found)


def _caution(name: str, found: str, remedy: str) -> Check:
    return Check("endpoint", name, State.CAUTION, found, remedy)


def _failed(name: str, found: str, remedy: str) -> Check:
    return Check("endpoint", name, State.FAILED, found, remedy)
