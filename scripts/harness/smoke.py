"""One streamed request, timed: whether the server answers as a benchmark needs it to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx2  # the openai package's own client
import openai
from openai import APIError, APIStatusError, OpenAI, Stream
from openai.types.chat import ChatCompletionChunk

from harness import probes
from harness.endpoint import (
    Reply,
    Server,
    explain_exception,
    explain_refusal,
    require_name,
    tls_context,
)
from harness.errors import EndpointError
from harness.texts import one_line, scrub

_DUMMY_KEY = "dummy"  # the openai package insists on one
_HEADERS = frozenset({"accept", "content-length", "content-type", "host", "user-agent"})
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. ``timeout_s`` bounds each wait and the answer as a whole (seconds)."""

    model: str
    prompt: str
    max_tokens: int
    timeout_s: float
    extra: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of the stream: when it came (s), and what was new in it."""

    at_s: float
    text: str = ""
    reasoning: str = ""
    model: str | None = None
    n_tokens: int | None = None  # the server's count of the whole answer
    n_reasoning_tokens: int = 0

    @property
    def speaks(self) -> bool:
        """Whether it carries a token, or part of one."""
        return bool(self.text or self.reasoning)


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer. TTFT includes opening the connection, and counts reasoning, as AIPerf's does."""

    model: str
    text: str
    reasoning: str
    ttft_ms: float
    n_tokens: int
    counted_by_server: bool
    speed_tokens_per_s: float | None  # after the first token; None where nothing came after it


def ask(question: Question, server: Server) -> tuple[Heard, tuple[str, ...]]:
    """Send one streamed request; return the timed answer and notes on what had to be changed.

    A server that refuses max_tokens or stream_options is asked again without it. Raises
    EndpointError with the cause of any failure.
    """
    require_name(server.base, how=server.how)
    pieces: list[Piece] = []
    with _client(question, server) as client:
        try:
            started_s, stream, notes = _begin(client, question)
            with stream:
                _require_stream(stream, server)
                for piece in _pieces(stream):
                    pieces.append(piece)
                    _require_time(piece.at_s - started_s, question)
        except (openai.OpenAIError, httpx2.HTTPError, OSError, ValueError) as error:
            raise _explained(error, pieces, question, server) from None
    return hear(pieces, started_s, question, server), notes


def hear(pieces: Sequence[Piece], started_s: float, question: Question, server: Server) -> Heard:
    """Sum up the pieces of a whole answer; EndpointError if it was none, or not a stream."""
    spoken = [piece for piece in pieces if piece.speaks]
    if not spoken:
        raise _silent(pieces, server)
    if probes.held_back([piece.at_s for piece in spoken], started_s):
        wait_s = spoken[0].at_s - started_s
        what = f"does not stream: all {len(spoken)} pieces came at once, after {wait_s:.1f} s"
        remedy = "turn off buffering in the server or in the proxy before it"
        raise EndpointError(server.base, what, remedy)
    counts = [piece.n_tokens for piece in pieces if piece.n_tokens]
    return Heard(
        model=next((piece.model for piece in pieces if piece.model), question.model),
        text="".join(piece.text for piece in spoken),
        reasoning="".join(piece.reasoning for piece in spoken),
        ttft_ms=(spoken[0].at_s - started_s) * 1e3,
        n_tokens=counts[-1] if counts else len(spoken),
        counted_by_server=bool(counts),
        speed_tokens_per_s=_speed(spoken, pieces, counts[-1] if counts else len(spoken)),
    )


def adapted(
    fields: Mapping[str, object], status: int, body: str
) -> tuple[dict[str, object], str] | None:
    """Return the fields without the one that the server refuses, and a note; None if it is not one.

    Nothing is swapped back, so that two refusals do not go in circles.
    """
    change = probes.adapted(fields, "max_tokens", status, body)
    if change is None:
        return None
    again = f"with {change.instead}" if change.instead else "without a count of tokens"
    return change.fields, f"the server refuses {change.refused}; asked again {again}"


def _client(question: Question, server: Server) -> OpenAI:
    limit_s = question.timeout_s
    transport = openai.DefaultHttpxClient(
        trust_env=False,
        proxy=server.how.proxy,
        verify=tls_context(server.how),
        follow_redirects=False,
        event_hooks={"request": [lambda request: _own_headers(request, server)]},
    )
    return OpenAI(
        base_url=f"{server.base}/v1",
        api_key=server.key or _DUMMY_KEY,
        max_retries=0,
        timeout=openai.Timeout(limit_s, connect=min(_CONNECT_TIMEOUT_S, limit_s)),
        http_client=transport,
    )


def _own_headers(request: httpx2.Request, server: Server) -> None:
    """Take out what the openai package adds from the environment.

    It would hand OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS, which may hold another
    key, to any server.
    """
    for name in set(request.headers) - _HEADERS:
        del request.headers[name]
    request.headers["Authorization"] = f"Bearer {server.key or _DUMMY_KEY}"
    request.headers["Connection"] = "close"  # a second try opens its own: TTFT means the same


def _begin(
    client: OpenAI, question: Question
) -> tuple[float, Stream[ChatCompletionChunk], tuple[str, ...]]:
    """Return when the request was sent (s), its stream, and what had to be changed for it."""
    fields: dict[str, object] = {
        "max_tokens": question.max_tokens,
        "stream_options": {"include_usage": True},
        **(question.extra or {}),
    }
    notes: list[str] = []
    while True:
        started_s = time.perf_counter()
        try:
            return started_s, _create(client, question, fields), tuple(notes)
        except APIStatusError as error:
            change = adapted(fields, error.status_code, error.response.text)
            if change is None:
                raise
            fields, note = change
            notes.append(note)


def _create(
    client: OpenAI, question: Question, fields: Mapping[str, object]
) -> Stream[ChatCompletionChunk]:
    return client.chat.completions.create(
        model=question.model,
        messages=[{"role": "user", "content": question.prompt}],
        stream=True,
        extra_body=fields,
    )


def _require_stream(stream: Stream[ChatCompletionChunk], server: Server) -> None:
    kind = stream.response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != probes.STREAM_TYPE:
        body = stream.response.read().decode("utf-8", "replace")
        raise probes.no_stream(kind, body, server)


def _require_time(passed_s: float, question: Question) -> None:
    if passed_s > question.timeout_s:
        raise TimeoutError


def _pieces(stream: Stream[ChatCompletionChunk]) -> Iterator[Piece]:
    for event in stream:
        yield _piece(event, time.perf_counter())


def _piece(event: object, at_s: float) -> Piece:
    """Read one event; whatever a server leaves out or writes in its own form is empty."""
    usage = getattr(event, "usage", None)
    details = getattr(usage, "completion_tokens_details", None)
    choices = getattr(event, "choices", None)
    delta = getattr(choices[0], "delta", None) if choices else None
    return Piece(
        at_s=at_s,
        text=_text(delta, "content") or _text(delta, "refusal"),
        reasoning=_text(delta, "reasoning_content") or _text(delta, "reasoning"),
        model=_text(event, "model") or None,
        n_tokens=_count(usage, "completion_tokens"),
        n_reasoning_tokens=_count(details, "reasoning_tokens") or 0,
    )


def _text(holder: object, name: str) -> str:
    value = getattr(holder, name, None)
    return value if isinstance(value, str) else ""


def _count(holder: object, name: str) -> int | None:
    value = getattr(holder, name, None)
    return value if isinstance(value, int) else None


def _speed(spoken: Sequence[Piece], pieces: Sequence[Piece], n_tokens: int) -> float | None:
    """Return tokens per second after the first; reasoning that was kept back came before it."""
    kept_back = 0
    if not any(piece.reasoning for piece in spoken):
        kept_back = max(piece.n_reasoning_tokens for piece in pieces)
    n_after, spread_s = n_tokens - kept_back - 1, spoken[-1].at_s - spoken[0].at_s
    return n_after / spread_s if n_after > 0 and spread_s > 0 else None


def _silent(pieces: Sequence[Piece], server: Server) -> EndpointError:
    n_reasoning = max((piece.n_reasoning_tokens for piece in pieces), default=0)
    if n_reasoning:
        what = f"no token came: {n_reasoning} were spent on reasoning that the server keeps back"
        return EndpointError(server.base, what, "raise --max-tokens")
    what = f"the stream ended without a token ({len(pieces)} events, none with text)"
    remedy = "see the server's log; the model may have no chat template"
    return EndpointError(server.base, what, remedy)


def _explained(
    error: Exception, pieces: Sequence[Piece], question: Question, server: Server
) -> EndpointError:
    """Return why the answer failed, and where in it."""
    n_spoken = sum(piece.speaks for piece in pieces)
    cause = _cause(error, question, server)
    if not n_spoken:
        return cause
    what = f"after {n_spoken} pieces of the answer: {cause.what}"
    return EndpointError(cause.where, what, cause.remedy)


def _cause(error: Exception, question: Question, server: Server) -> EndpointError:
    base, key = server.base, server.key
    if isinstance(error, APIStatusError):
        response = error.response
        headers = {name.lower(): value for name, value in response.headers.items()}
        reply = Reply(error.status_code, response.text, headers)
        return explain_refusal(reply, base, key, question.model, server.how)
    if isinstance(error, ValueError):
        what = "the stream holds an event that is not JSON"
        return EndpointError(base, what, "see the server's log, or the proxy's before it")
    if isinstance(error, APIError) and error.body is not None:
        what = one_line(scrub(f"the server reports an error in the stream: {error.message}", key))
        return EndpointError(base, what, "see the server's log")
    connecting = type(error.__cause__).__name__ == "ConnectTimeout"
    waited_s = min(_CONNECT_TIMEOUT_S, question.timeout_s) if connecting else question.timeout_s
    return explain_exception(error, base, key, waited_s)
