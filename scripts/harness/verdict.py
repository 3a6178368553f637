"""Whether a run's figures can be used: VALID, SUSPECT or INVALID, with reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.evidence import LENGTH_TOLERANCE_PCT
from harness.metrics import ERROR_RATE, REQUEST_LATENCY, TTFT
from harness.records import (
    CACHED_INPUT,
    CLIENT_INPUT,
    CLIENT_OUTPUT,
    SERVER_INPUT,
    SERVER_OUTPUT,
    Tokens,
)
from harness.summary import Summary

_FEWEST_IN_ONE_PIECE = 2
#: With so many requests a user, neither the first wave nor the drain makes up most of a run.
REQUESTS_PER_USER = 3
#: A shorter wait in the client cannot be told from what the operating system does there.
_SHORT_WAIT_MS = 20.0
#: A server that counts the token which ends an answer is no other tokenizer.
_END_TOKENS = 1
#: What a chat template adds to a prompt, at most: 30 for SmolLM2, about 70 for gpt-oss.
_TEMPLATE_TOKENS = 100
#: What is allowed where nobody can tell a template's tokens from the prompt's.
_USUAL_TEMPLATE_TOKENS = 75
#: Failed and cancelled requests were in flight too, but the rows do not say for how long.
_FEW_LOST_PCT = 5.0
_Z_RATE = 3
_LESS_LOAD = "lower the load, or run from a machine with more free cores"


class Level(StrEnum):
    """How far the figures can be trusted."""

    VALID = "VALID"
    SUSPECT = "SUSPECT"
    INVALID = "INVALID"


_SEVERITY = tuple(Level)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run is not VALID: what was found, the limit it breaks (if one is set), what to do."""

    figure: str
    limit: str
    remedy: str
    level: Level = Level.SUSPECT

    @property
    def text(self) -> str:
        """Return the reason in one line."""
        limit = f" (limit: {self.limit})" if self.limit else ""
        return f"{self.figure}{limit}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The level, and every reason for it, the gravest first; VALID has none."""

    level: Level
    reasons: tuple[Reason, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Return each reason in one line."""
        return tuple(reason.text for reason in self.reasons)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run is held to, in %: the settings MAX_… and MIN_… of these names."""

    max_error_rate_pct: float
    max_length_miss_pct: float
    max_count_miss_pct: float
    max_queue_pct: float
    min_concurrency_pct: float
    max_cached_pct: float
    max_drift_pct: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run asked for; the defaults where nothing is known of it.

    ``concurrency`` is that of a closed loop, ``request_rate`` (a second) that of an open one.
    ``forces_length``: EXTRA_INPUTS asks the server for answers of full length.
    ``tokenizer`` is named where it is a stand-in whose counts nobody corrects.
    ``server_counts``: the client took the server's counts, prompts included.
    ``is_uniform``: every request is drawn alike; no later turns of conversations, no trace.
    """

    concurrency: int | None = None
    request_rate: float | None = None
    output_tokens: int | None = None
    forces_length: bool = False
    stand_in: str = ""
    server_counts: bool = False
    is_uniform: bool = True


def judge(summary: Summary, limits: Limits, asked: Asked, more: Sequence[Reason] = ()) -> Verdict:
    """Judge a run; ``more`` are reasons that the run itself does not show.

    INVALID: it was cut short, too many requests failed, or nothing streamed. SUSPECT: its figures
    are real, and yet may not mean what a reader takes them for.
    """
    reasons = [
        *_cut_short(summary),
        *_failures(summary, limits),
        *_not_streamed(summary),
    ]
    if summary.n_used:
        reasons += [
            *_lengths(summary, limits, asked),
            *_counts(summary, limits, asked),
            *_client_bound(summary, limits, asked),
            *_cached(summary, limits, asked),
            *_few_requests(summary, asked),
            *_unsteady(summary, limits, asked),
            *more,
        ]
    reasons.sort(key=lambda reason: -_SEVERITY.index(reason.level))
    return Verdict(reasons[0].level if reasons else Level.VALID, tuple(reasons))


def _invalid(figure: str, limit: str, remedy: str) -> Reason:
    return Reason(figure, limit, remedy, Level.INVALID)


def _cut_short(summary: Summary) -> Iterator[Reason]:
    if summary.was_cancelled:
        figure = f"the run was cancelled after {summary.n_used} successful requests"
        yield _invalid(figure, "", "run it again and let it end")
    elif summary.incomplete:
        yield _invalid(f"the run is not complete: {summary.incomplete}", "", "run it again")


def _failures(summary: Summary, limits: Limits) -> Iterator[Reason]:
    error_rate_pct = summary.rate(ERROR_RATE)
    if not summary.n_used:
        yield _invalid("no request succeeded", "", "see the errors and the server's log")
    elif error_rate_pct is not None and error_rate_pct > limits.max_error_rate_pct:
        share = f"{error_rate_pct:.2f} % of requests failed"
        counts = f"{summary.n_failed} of {summary.n_failed + summary.n_used}"
        limit = f"MAX_ERROR_RATE {limits.max_error_rate_pct:g} %"
        yield _invalid(f"{share}, {counts}", limit, "see the errors and the server's log")


def _not_streamed(summary: Summary) -> Iterator[Reason]:
    """Find a TTFT that means nothing; one answer in one piece may be chance."""
    n = summary.n_in_one_piece
    if n >= _FEWEST_IN_ONE_PIECE:
        figure = f"the server does not stream: TTFT equals latency in all {n} answers"
        yield _invalid(figure, "", "switch streaming on in the server or the proxy before it")


def _lengths(summary: Summary, limits: Limits, asked: Asked) -> Iterator[Reason]:
    """Find answers of another length than asked for; a stand-in's counts cannot tell."""
    n, n_off = summary.evidence.n_lengths, summary.evidence.n_lengths_off
    if asked.stand_in or not n or 100 * n_off / n <= limits.max_length_miss_pct:
        return
    figure = (
        f"{n_off} of {n} answers ({100 * n_off / n:.0f} %) are more than "
        f"{LENGTH_TOLERANCE_PCT:g} % off the length asked for"
    )
    yield Reason(figure, f"MAX_LENGTH_MISS {limits.max_length_miss_pct:g} %", _lengthen(asked))


def _lengthen(asked: Asked) -> str:
    natural = "raise the limit if answers of natural length are what you measure"
    if asked.forces_length:
        return f"the server does not follow EXTRA_INPUTS: see what it takes instead, or {natural}"
    n_tokens = asked.output_tokens or "N"
    hint = f"EXTRA_INPUTS=ignore_eos:true or min_tokens:{n_tokens}"
    return f"set {hint}, if the server takes one of them, or {natural}"


def _counts(summary: Summary, limits: Limits, asked: Asked) -> Iterator[Reason]:
    """Find token counts that are not the server's."""
    if asked.stand_in:
        figure = f"token counts are approximate: {asked.stand_in} is not the model's tokenizer"
        remedy = "set TOKENIZER to the model's, or USE_SERVER_TOKEN_COUNT=1 if it sends usage"
        yield Reason(figure, "", remedy)
        return
    tokens = summary.evidence.tokens
    pairs = (("output", CLIENT_OUTPUT, SERVER_OUTPUT), ("prompt", CLIENT_INPUT, SERVER_INPUT))
    for kind, of_client, of_server in pairs:
        if of_client not in tokens or of_server not in tokens:
            continue
        client, server = tokens[of_client].mean, tokens[of_server].mean
        miss = _miss_output(client, server) if kind == "output" else _miss_prompt(client, server)
        if server and 100 * miss / server > limits.max_count_miss_pct:
            counted = f"{client:.1f} {kind} tokens a request by the client, {server:.1f} by the"
            remedy = "set TOKENIZER to the model's own, or USE_SERVER_TOKEN_COUNT=1"
            limit = f"MAX_COUNT_MISS {limits.max_count_miss_pct:g} %"
            yield Reason(f"token counts differ: {counted} server", limit, remedy)


def _miss_output(client: float, server: float) -> float:
    return max(abs(server - client) - _END_TOKENS, 0)


def _miss_prompt(client: float, server: float) -> float:
    """Return the difference that no chat template explains: it adds tokens, and takes none."""
    return client - server if client > server else max(server - client - _TEMPLATE_TOKENS, 0)


def _client_bound(summary: Summary, limits: Limits, asked: Asked) -> Iterator[Reason]:
    """Find a load that was not the one asked for because the client could not make it."""
    yield from _queued(summary, limits)
    n_lost = summary.n_failed + summary.counts.n_cancelled
    if asked.is_uniform and 100 * n_lost <= _FEW_LOST_PCT * (n_lost + summary.n_used):
        yield from _too_few_in_flight(summary, limits, asked)
        yield from _too_few_sent(summary, limits, asked)


def _queued(summary: Summary, limits: Limits) -> Iterator[Reason]:
    waited_ms, ttft_ms = summary.evidence.queued_p95_ms, summary.latency(TTFT).p95_ms
    if waited_ms is None or not ttft_ms or waited_ms <= _SHORT_WAIT_MS:
        return
    share_pct = 100 * waited_ms / ttft_ms
    if share_pct > limits.max_queue_pct:
        waited = f"requests waited {waited_ms:.0f} ms (p95) inside the client before they were sent"
        figure = f"client-bound: {waited}, {share_pct:.0f} % of p95 TTFT"
        yield Reason(figure, f"MAX_QUEUE {limits.max_queue_pct:g} %", _LESS_LOAD)


def _too_few_in_flight(summary: Summary, limits: Limits, asked: Asked) -> Iterator[Reason]:
    in_flight = summary.evidence.in_flight
    latency_ms = summary.latency(REQUEST_LATENCY).avg_ms
    if not asked.concurrency or not in_flight or latency_ms is None:
        return
    achieved_pct = 100 * in_flight / asked.concurrency
    # A user who is not in flight is between an answer and the next request, for so long each time:
    pause_ms = latency_ms * (asked.concurrency / in_flight - 1)
    if achieved_pct < limits.min_concurrency_pct and pause_ms > _SHORT_WAIT_MS:
        found = f"{in_flight:.1f} requests in flight on average, of {asked.concurrency} asked for"
        limit = f"MIN_CONCURRENCY {limits.min_concurrency_pct:g} %"
        yield Reason(f"client-bound: {found} ({achieved_pct:.0f} %)", limit, _LESS_LOAD)


def _too_few_sent(summary: Summary, limits: Limits, asked: Asked) -> Iterator[Reason]:
    """Find an open loop that sent less than it should, beyond what Poisson arrivals vary."""
    sent_per_s = summary.evidence.sent_per_s
    if not asked.request_rate or not sent_per_s:
        return
    achieved_pct = 100 * sent_per_s / asked.request_rate
    most_by_chance_per_s = sent_per_s * (1 + _Z_RATE / math.sqrt(summary.n_used))
    if achieved_pct < limits.min_concurrency_pct and most_by_chance_per_s < asked.request_rate:
        sent = f"{sent_per_s:.1f} requests a second were sent, of {asked.request_rate:g} asked for"
        limit = f"MIN_CONCURRENCY {limits.min_concurrency_pct:g} %"
        remedy = f"{_LESS_LOAD}, or raise CONCURRENCY if it held them back"
        yield Reason(f"client-bound: {sent} ({achieved_pct:.0f} %)", limit, remedy)


def _cached(summary: Summary, limits: Limits, asked: Asked) -> Iterator[Reason]:
    """Find prompts that the server had seen; conversations and traces are to repeat themselves."""
    tokens = summary.evidence.tokens
    none = Tokens(0, 0)
    cached, prompts = tokens.get(CACHED_INPUT, none), tokens.get(SERVER_INPUT, none)
    if not asked.is_uniform or not prompts.n_tokens:
        return
    # The template's own tokens are the same in every request, and cached in real use as well.
    added = prompts.mean - tokens.get(CLIENT_INPUT, prompts).mean
    template = min(max(added, 0), _TEMPLATE_TOKENS)
    if asked.server_counts:
        template = _USUAL_TEMPLATE_TOKENS
    n_cached = max(cached.n_tokens - template * cached.n_requests, 0)
    share_pct = 100 * n_cached / prompts.n_tokens
    if share_pct > limits.max_cached_pct:
        figure = (
            f"{share_pct:.1f} % of prompt tokens, the chat template's apart, came from the "
            "server's prefix cache"
        )
        limit = f"MAX_CACHED {limits.max_cached_pct:g} %"
        remedy = "empty it before the run (RESET_KV_CACHE=1, or restart the server)"
        yield Reason(figure, limit, f"{remedy}, or use prompts that differ, each used once")


def _few_requests(summary: Summary, asked: Asked) -> Iterator[Reason]:
    """Find a run that is little more than its first wave and its drain."""
    counts = summary.counts
    n_measured = counts.n_used + counts.n_failed + counts.n_cancelled
    n_needed = REQUESTS_PER_USER * (asked.concurrency or 0)
    if n_measured < n_needed and not (summary.was_cancelled or summary.incomplete):
        figure = f"{n_measured} requests at concurrency {asked.concurrency}"
        limit = f"{REQUESTS_PER_USER} × CONCURRENCY = {n_needed}"
        yield Reason(figure, limit, f"set REQUEST_COUNT to {n_needed} or more, or measure longer")


def _unsteady(summary: Summary, limits: Limits, asked: Asked) -> Iterator[Reason]:
    """Find a latency that moved while it was measured, by more than chance moves it."""
    drift = summary.evidence.drift
    if not asked.is_uniform or drift is None or not drift.is_beyond_chance:
        return
    if abs(drift.pct) > limits.max_drift_pct:
        moved = (
            f"from {drift.first_ms:.0f} ms in its first third to {drift.last_ms:.0f} in its last"
        )
        figure = f"the run never became steady: median latency went {moved} ({drift.pct:+.0f} %)"
        limit = f"MAX_DRIFT {limits.max_drift_pct:g} %"
        yield Reason(figure, limit, "raise WARMUP_REQUESTS or REQUEST_COUNT, or lower the load")
