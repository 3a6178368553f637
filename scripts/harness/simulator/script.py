"""One request becomes the script of its answer: which bytes are due when. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Annotated

import msgspec

from harness.kinds import Json
from harness.simulator.behaviour import Behaviour, Fault

DEFAULT_OUTPUT_TOKENS = 50
DONE = b"data: [DONE]\n\n"
_ERROR_EVENT = b'data: {"error":{"message":"Simulated failure","code":500}}\n\n'
#: Each is one token with its leading space, for o200k, cl100k, gpt2 and Llama's tokenizers.
_TEXT = "the time of day and one more way to say that this is only what it was for a"
_WORDS = tuple(f" {word}".encode() for word in _TEXT.split())
_Count = Annotated[int, msgspec.Meta(ge=1)]


class Part(msgspec.Struct):
    """A part of a message; only its text counts."""

    text: str = ""


class Message(msgspec.Struct):
    """One message of the conversation."""

    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    """What the client wants to have in its stream."""

    include_usage: bool | None = None


class Ask(msgspec.Struct, frozen=True):
    """A chat request, as far as the endpoint cares; other fields are accepted and ignored."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None


def parse_ask(body: bytes) -> Ask:
    """Read a request body; ValueError (msgspec's) says what is wrong with it."""
    return msgspec.json.decode(body, type=Ask, strict=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in OpenAI's error form."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] | None = None

    def body(self) -> bytes:
        """Return the JSON body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


def refusal(ask: Ask, behaviour: Behaviour) -> Refusal | None:
    """Return why the endpoint would not take this request, None if it does."""
    faults = behaviour.faults
    if faults.unknown_model_404 and ask.model not in {model.name for model in behaviour.models}:
        return Refusal(404, "model_not_found", f"The model `{ask.model}` does not exist.")
    if faults.only_max_tokens and ask.max_completion_tokens is not None:
        return _unknown_field("max_completion_tokens")
    if faults.reject_extra and ask.ignore_eos is not None:
        return _unknown_field("ignore_eos")
    if faults.reject_extra and ask.min_tokens is not None:
        return _unknown_field("min_tokens")
    return None


def _unknown_field(name: str) -> Refusal:
    return Refusal(400, "unsupported_parameter", f"Unsupported parameter: '{name}'.")


def prompt_tokens(ask: Ask) -> int:
    """Count the prompt: its UTF-8 bytes divided by 4, rounded up.

    Near what tokenizers make of English and Japanese text, without loading one.
    """
    return math.ceil(sum(len(text.encode()) for text in _texts(ask.messages)) / 4)


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content or ())


def answer_length(ask: Ask, behaviour: Behaviour) -> tuple[int, str]:
    """Return how many tokens the answer has, and its finish_reason (length or stop).

    The natural length, raised by ignore_eos (to the limit) or min_tokens, never above the limit.
    ``stop_after`` overrules all of that.
    """
    limit = ask.max_completion_tokens or ask.max_tokens
    natural = behaviour.output_tokens or limit or DEFAULT_OUTPUT_TOKENS
    if ask.ignore_eos and limit:
        natural = limit
    n_tokens = max(natural, ask.min_tokens or 0)
    if limit:
        n_tokens = min(n_tokens, limit)
    if behaviour.stop_after:
        n_tokens = min(n_tokens, behaviour.stop_after)
    return n_tokens, "length" if n_tokens == limit else "stop"


def due_s(n_tokens: int, behaviour: Behaviour, rng: Random) -> tuple[float, ...]:
    """Return when each token is due, in seconds after the start; absolute, so errors don't add."""
    first_ms = behaviour.ttft.draw_ms(rng)
    if behaviour.burst:
        return (first_ms / 1e3,) * n_tokens
    gaps_ms = (_gap_ms(n, behaviour, rng) for n in range(1, n_tokens))
    return tuple(ms / 1e3 for ms in accumulate(gaps_ms, initial=first_ms))


def _gap_ms(n: int, behaviour: Behaviour, rng: Random) -> float:
    crawl_after = behaviour.faults.crawl_after_tokens
    if crawl_after is not None and n >= crawl_after:
        return behaviour.faults.crawl_ms
    return behaviour.itl.draw_ms(rng)


@dataclass(frozen=True, slots=True)
class Answer:
    """What will be said, and when. ``due_s`` has one entry a token."""

    name: str  # chatcmpl-…
    model: str
    created_s: int
    due_s: tuple[float, ...]
    n_reasoning: int
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int | None

    @property
    def n_tokens(self) -> int:
        """Return the length, reasoning included."""
        return len(self.due_s)


def write_answer(ask: Ask, behaviour: Behaviour, ordinal: int, now_s: int) -> Answer:
    """Decide length and delays of the answer to chat request number ``ordinal``."""
    n_tokens, finish_reason = answer_length(ask, behaviour)
    n_prompt = prompt_tokens(ask)
    share = behaviour.cached_share
    all_reasoning = behaviour.reasoning_only
    return Answer(
        name=f"chatcmpl-{ordinal}",
        model=ask.model,
        created_s=now_s,
        due_s=due_s(n_tokens, behaviour, Random(behaviour.seed << 32 | ordinal)),
        n_reasoning=n_tokens if all_reasoning else min(behaviour.reasoning_tokens, n_tokens),
        finish_reason=finish_reason,
        prompt_tokens=n_prompt,
        cached_tokens=None if share is None else int(n_prompt * share),
    )


def usage(answer: Answer) -> dict[str, Json]:
    """Return OpenAI's usage object."""
    counts: dict[str, Json] = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.n_tokens,
        "total_tokens": answer.prompt_tokens + answer.n_tokens,
    }
    if answer.cached_tokens is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": answer.cached_tokens}
    if answer.n_reasoning:
        counts["completion_tokens_details"] = {"reasoning_tokens": answer.n_reasoning}
    return counts


@dataclass(frozen=True, slots=True)
class Script:
    """A stream to play: each event is written when due, then ``tail``; ``cut`` hangs up instead."""

    due_s: tuple[float, ...]
    events: tuple[bytes, ...]
    tail: bytes
    cut: bool = False


def stream_script(ask: Ask, answer: Answer, behaviour: Behaviour, fault: Fault) -> Script:
    """Return the stream of an answer, with what goes wrong in it."""
    with_usage = behaviour.usage and bool(ask.stream_options and ask.stream_options.include_usage)
    events = tuple(_token_events(answer, empty=fault is Fault.EMPTY_DELTA))
    script = Script(answer.due_s, events, _tail(answer, with_usage=with_usage))
    if behaviour.faults.empty_stream:
        return replace(script, events=(), tail=DONE)
    middle = len(events) // 2
    if fault is Fault.DROP:
        return replace(script, events=events[: max(1, middle)], cut=True)
    if fault is Fault.ERROR_EVENT:
        return replace(script, events=(*events[:middle], _ERROR_EVENT), tail=DONE)
    if fault is Fault.BROKEN_JSON:
        broken = (events[middle][:40] + b"\n\n",)
        return replace(script, events=events[:middle] + broken + events[middle + 1 :])
    return script


def _token_events(answer: Answer, *, empty: bool) -> Iterator[bytes]:
    head, foot = _event(answer, [{"index": 0, "delta": {"@": ""}, "finish_reason": None}]).split(
        b'"@":""'
    )
    for n in range(answer.n_tokens):
        field = b'"reasoning_content":"' if n < answer.n_reasoning else b'"content":"'
        role = b'"role":"assistant",' if n == 0 else b""
        word = b"" if empty else _WORDS[n % len(_WORDS)]
        yield b"".join((head, role, field, word, b'"', foot))


def _tail(answer: Answer, *, with_usage: bool) -> bytes:
    reason: Json = answer.finish_reason
    end = _event(answer, [{"index": 0, "delta": {}, "finish_reason": reason}])
    return end + (_event(answer, [], usage(answer)) if with_usage else b"") + DONE


def _event(answer: Answer, choices: list[Json], counts: dict[str, Json] | None = None) -> bytes:
    chunk = _envelope(answer, "chat.completion.chunk") | {"choices": choices}
    if counts:
        chunk["usage"] = counts
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def whole_body(answer: Answer, behaviour: Behaviour, fault: Fault) -> bytes:
    """Return the answer as one JSON body, as for a request without ``stream``."""
    empty = fault is Fault.EMPTY_DELTA
    words = [b"" if empty else _WORDS[n % len(_WORDS)] for n in range(answer.n_tokens)]
    said = b"".join(words[answer.n_reasoning :]).decode()
    message: dict[str, Json] = {"role": "assistant", "content": said}
    if answer.n_reasoning:
        message["reasoning_content"] = b"".join(words[: answer.n_reasoning]).decode()
    choice: Json = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    body = _envelope(answer, "chat.completion") | {"choices": [choice]}
    if behaviour.usage:
        body["usage"] = usage(answer)
    encoded = msgspec.json.encode(body)
    return encoded[: len(encoded) // 2] if fault is Fault.BROKEN_JSON else encoded


def _envelope(answer: Answer, kind: str) -> dict[str, Json]:
    return {
        "id": answer.name,
        "object": kind,
        "created": answer.created_s,
        "model": answer.model,
    }
