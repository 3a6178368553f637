"""Short streamed chat requests, and what their answers show of the server.

`brief` is what a run asks before it starts; `make doctor` asks a little more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from harness.address import CHAT_PATH
from harness.causes import other_limit
from harness.endpoint import (
    TRANSPORT_ERRORS,
    Reply,
    Server,
    explain_refusal,
    send,
    within,
)
from harness.errors import EndpointError
from harness.texts import one_line, said_in, scrub

Limit = Literal["max_completion_tokens", "max_tokens"]
#: The name of the output length in requests, as AIPerf sends it, and as it was before.
NEW_LIMIT: Limit = "max_completion_tokens"
OLD_LIMIT: Limit = "max_tokens"
BRIEF_TOKENS = 2
STREAM_TYPE = "text/event-stream"
_LENGTHS = (NEW_LIMIT, OLD_LIMIT)
_SPARE_EVENTS = 6  # the role, the end, the usage: events without a token
_EVENT_BYTES = 4096  # more than any server spends on one
_PAUSES_S = (0.2, 0.4, 0.8)  # before a busy server is asked again
_LONGEST_PAUSE_S = 2.0
#: Together these mean that the whole answer was held back: no model thinks for so long and then
#: makes a thousand tokens a second for one user.
_HELD_BACK_SHARE = 0.05
_HELD_BACK_GAP_S = 0.001
_HELD_BACK_PIECES = 8
_HELD_BACK_WAIT_S = 0.25


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: for an answer of ``n_tokens``, under that name, with the fields of a run."""

    model: str
    n_tokens: int = BRIEF_TOKENS
    limit: Limit = NEW_LIMIT
    extra: Mapping[str, object] | None = None

    def fields(self) -> dict[str, object]:
        """Return the request's fields. A run's own lengths give way to the short one."""
        extra = {name: value for name, value in (self.extra or {}).items() if name not in _LENGTHS}
        if "min_tokens" in extra:  # more than the limit would be refused for another reason
            extra["min_tokens"] = self.n_tokens
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            self.limit: self.n_tokens,
            **extra,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """The last reply, and what had to be changed in the request until it came.

    ``arrivals_s``: when each event with a token came, in seconds since the request. ``usage`` is
    the server's own count, None without one. ``limit`` is the name of the output length that the
    server understands, None if it follows neither.
    """

    reply: Reply
    limit: Limit | None
    counts_refused: bool  # it does not take stream_options
    arrivals_s: tuple[float, ...]
    usage: Mapping[str, object] | None
    reasons: bool
    error: str  # what it reports in mid-stream

    @property
    def is_stream(self) -> bool:
        """Whether the server answered with a stream."""
        return self.reply.status == HTTPStatus.OK and _kind(self.reply) == STREAM_TYPE


@dataclass(frozen=True, slots=True)
class Change:
    """A request without the field that the server refuses; ``instead`` of it another, or none."""

    fields: dict[str, object]
    refused: str
    instead: str | None


def brief(server: Server, question: Question, timeout_s: float) -> Answer | None:
    """Send one request of two tokens; None if the server does not answer it.

    A busy server is asked a few times, all within ``timeout_s``; one that then still is, or breaks
    off, does not say: the run will tell more. Raises EndpointError when the request is refused, or
    answered with anything but a stream.
    """
    try:
        answer = ask(server, question, timeout_s)
    except TRANSPORT_ERRORS:
        return None
    if is_busy(answer.reply):
        return None
    if answer.reply.status != HTTPStatus.OK:
        raise explain_refusal(answer.reply, server.base, server.key, question.model, server.how)
    if not answer.is_stream:
        raise no_stream(_kind(answer.reply), answer.reply.body, server)
    return answer


def ask(server: Server, question: Question, timeout_s: float) -> Answer:
    """Send a request, and again without what the server refuses. Raises TRANSPORT_ERRORS."""
    deadline_s = time.monotonic() + timeout_s
    fields, limit, counts_refused = question.fields(), question.limit, False
    reply = _patiently(server, fields, question.n_tokens, deadline_s)
    while change := adapted(fields, question.limit, reply.status, reply.body):
        limit = _other(limit) if change.instead else limit
        counts_refused = counts_refused or change.refused == "stream_options"
        fields = change.fields
        reply = _patiently(server, fields, question.n_tokens, deadline_s)
    if not _is_too_long(reply, question):
        return _answer(reply, limit, counts_refused)
    fields[_other(limit)] = fields.pop(limit)
    again = _patiently(server, fields, question.n_tokens, deadline_s)
    if again.status != HTTPStatus.OK or _is_too_long(again, question):
        return _answer(reply, None, counts_refused)
    return _answer(again, _other(limit), counts_refused)


def adapted(fields: Mapping[str, object], limit: str, status: int, body: str) -> Change | None:
    """Return the request without the field that is refused; None if the refusal is another.

    ``limit`` is the name that the output length had at first: it is not swapped back, so that two
    refusals do not go in circles.
    """
    if limit in fields and (other := other_limit(limit, status, body)):
        rest = {name: value for name, value in fields.items() if name != limit}
        return Change(rest | {other: fields[limit]}, limit, other)
    if "stream_options" in fields and status in (400, 422) and "stream_options" in body:
        rest = {name: value for name, value in fields.items() if name != "stream_options"}
        return Change(rest, "stream_options", None)
    return None


def no_stream(kind: str, body: str, server: Server) -> EndpointError:
    """Return what an answer of content type ``kind`` is, where a stream was asked for."""
    message, code = said_in(body)
    if kind == "application/json" and '"choices"' in body:
        what = "does not stream: it answered with one JSON body"
        remedy = "switch streaming on in the server, or in the proxy before it"
    elif code or '"error"' in body:
        what, remedy = f"answered with an error: {message}", "change what the server names"
    else:
        what = f"answered with {kind or 'no content type'} instead of {STREAM_TYPE}"
        remedy = "check that AIPERF_URL is the address of the API, not of a web page"
    return EndpointError(server.base, one_line(scrub(what, server.key)), remedy)


def held_back(arrivals_s: Sequence[float], started_s: float) -> bool:
    """Tell whether the pieces were made one by one, but sent all at once at the end."""
    first_s, last_s = arrivals_s[0], arrivals_s[-1]
    return (
        came_at_once(arrivals_s)
        and first_s - started_s >= _HELD_BACK_WAIT_S
        and last_s - first_s < _HELD_BACK_SHARE * (last_s - started_s)
    )


def came_at_once(arrivals_s: Sequence[float]) -> bool:
    """Tell whether enough pieces came faster than models make them."""
    n = len(arrivals_s)
    return n >= _HELD_BACK_PIECES and arrivals_s[-1] - arrivals_s[0] < n * _HELD_BACK_GAP_S


def is_busy(reply: Reply) -> bool:
    """Tell whether the same request may succeed a little later."""
    return reply.status == HTTPStatus.TOO_MANY_REQUESTS or reply.status // 100 == 5


def _answer(reply: Reply, limit: Limit | None, counts_refused: bool) -> Answer:
    events = list(_events(reply))
    deltas = [(at_s, *_delta(event)) for at_s, event in events]
    usages = [event["usage"] for _, event in events if isinstance(event.get("usage"), dict)]
    errors = [event["error"] for _, event in events if event.get("error")]
    usage = usages[-1] if usages else None
    assert usage is None or isinstance(usage, dict)
    return Answer(
        reply=reply,
        limit=limit,
        counts_refused=counts_refused,
        arrivals_s=tuple(at_s for at_s, text, thought in deltas if text or thought),
        usage=usage,
        reasons=_reasons("".join(text for _, text, _ in deltas), usage)
        or any(thought for _, _, thought in deltas),
        error=said_in(json.dumps({"error": errors[0]}))[0] if errors else "",
    )


def _reasons(text: str, usage: Mapping[str, object] | None) -> bool:
    """Tell whether the answer begins with thoughts, or the server counts some that it keeps."""
    details = (usage or {}).get("completion_tokens_details")
    n_kept = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return text.lstrip().startswith("<think>") or bool(n_kept)


def _delta(event: Mapping[str, object]) -> tuple[str, str]:
    """Return the text and the reasoning of an event; empty where it has none."""
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    delta = first.get("delta") if isinstance(first, dict) else None
    if not isinstance(delta, dict):
        return "", ""
    said = [delta.get(name) for name in ("content", "refusal", "reasoning_content", "reasoning")]
    texts = [text if isinstance(text, str) else "" for text in said]
    return texts[0] or texts[1], texts[2] or texts[3]


def _events(reply: Reply) -> Iterator[tuple[float, Mapping[str, object]]]:
    """Yield when each event had come in whole (s), and the object in it; empty for no object."""
    n_bytes, arrivals = 0, iter(reply.pieces)
    at_s, n_come = next(arrivals, (0.0, 0))
    for line in reply.body.split("\n"):
        n_bytes += len(line.encode())
        while n_come < n_bytes and (later := next(arrivals, None)):
            at_s, n_come = later
        n_bytes += 1
        if line.startswith("data:"):
            yield at_s, _object(line.removeprefix("data:"))


def _object(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _other(limit: Limit) -> Limit:
    return OLD_LIMIT if limit == NEW_LIMIT else NEW_LIMIT


def _is_too_long(reply: Reply, question: Question) -> bool:
    """Tell whether the output length was not followed; a token may take an event more."""
    n_spoken = sum(any(_delta(event)) for _, event in _events(reply))
    return reply.status == HTTPStatus.OK and n_spoken > question.n_tokens + _SPARE_EVENTS


def _kind(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def _patiently(
    server: Server, fields: Mapping[str, object], n_tokens: int, deadline_s: float
) -> Reply:
    """Send one chat request, up to three times more while the server is busy or failing.

    TimeoutError after ``deadline_s`` (of the monotonic clock).
    """
    body = json.dumps(fields).encode()
    most_bytes = _EVENT_BYTES * (n_tokens + 2 * _SPARE_EVENTS)
    reply = _once(server, body, deadline_s, most_bytes)
    for default_s in _PAUSES_S:
        pause_s = _asked_pause_s(reply, default_s)
        if not is_busy(reply) or time.monotonic() + pause_s >= deadline_s:
            break
        time.sleep(pause_s)
        reply = _once(server, body, deadline_s, most_bytes)
    return reply


def _once(server: Server, body: bytes, deadline_s: float, most_bytes: int) -> Reply:
    timeout_s = deadline_s - time.monotonic()
    if timeout_s <= 0:
        raise TimeoutError
    url, key, how = server.base + CHAT_PATH, server.key, server.how
    return within(timeout_s, lambda: send(url, key, body, timeout_s, how, most_bytes=most_bytes))


def _asked_pause_s(reply: Reply, default_s: float) -> float:
    """Return the pause that the server asks for, as far as it is short."""
    asked = reply.headers.get("retry-after", "").strip()
    is_number = asked.isascii() and asked.isdigit()  # else a date
    return min(float(asked), _LONGEST_PAUSE_S) if is_number else default_s
