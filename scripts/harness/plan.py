"""Plan: the load of one run, and the folder name that tells it."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.prompts import PromptFile
from harness.settings import Settings

Mode = Literal["warmup", "profile", "sweep"]

WARMUP_CONCURRENCY = 3
WARMUP_REQUESTS = 9
REQUESTS_PER_USER = 3
#: An open loop's default: as many requests as arrive in half a minute, at least 30.
RATE_S = 30
LEAST_REQUESTS = 30
#: AIPerf warms an open loop up at the same rate; so long makes the connections that it needs.
WARMUP_S = 3
#: A server that nobody should outrun: what a run of a given length may need in prompts.
FAST_TOKENS_PER_S = 500.0
FASTEST_REQUEST_S = 0.05
MOST_PROMPTS = 20_000
_SEED_BITS = 31


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: ``n_warmup`` requests that do not count, then ``n_requests`` that do.

    ``concurrency`` is None where nothing limits the requests in flight. The run ends after
    ``n_requests``, ``n_conversations`` or ``duration_s``, whichever is not None. An open loop sends
    whether or not earlier requests are answered: at ``request_rate`` (a second), spread as
    ``arrival_pattern``, or where it ``follows_timestamps``. ``n_prompts`` is how many synthetic
    prompts are made, None with a prompt file.
    """

    name: str
    mode: Mode
    concurrency: int | None
    n_requests: int | None
    n_warmup: int
    seed: int
    request_rate: float | None = None
    arrival_pattern: str | None = None
    duration_s: float | None = None
    n_conversations: int | None = None
    follows_timestamps: bool = False
    n_prompts: int | None = None


def parse_mode(word: str) -> tuple[Mode, int | None]:
    """Read ``warmup``, ``profile`` or ``sweep_<concurrency>``.

    Raises UsageError for anything else.
    """
    if word == "warmup":
        return "warmup", None
    if word == "profile":
        return "profile", None
    if found := re.fullmatch(r"sweep_([1-9][0-9]{0,17})", word, re.ASCII):
        return "sweep", int(found[1])
    remedy = "use warmup, profile, sweep or sweep_<concurrency>, such as sweep_5"
    raise UsageError("MODE", f"{word!r} is none", remedy)


def make_plan(
    settings: Settings, mode: Mode, point: int | None = None, prompts: PromptFile | None = None
) -> Plan:
    """Return the load of one run; ``point`` is the concurrency of a sweep's point.

    A sweep's point never has fewer than 3 requests a user, whatever REQUEST_COUNT says. With
    REQUEST_RATE, or with ``prompts`` that have timestamps, a run is an open loop, which CONCURRENCY
    limits only where a person set it. Raises UsageError where settings contradict each other.
    """
    seed = _seed(settings, point)
    if mode == "warmup":
        load = Plan("", mode, WARMUP_CONCURRENCY, WARMUP_REQUESTS, 0, seed)
    elif prompts and prompts.is_timed:
        load = _replay(settings, mode, prompts, seed)
    elif settings.request_rate is not None:
        load = _open_loop(settings, mode, point, prompts, seed)
    else:
        load = _closed_loop(settings, mode, point, prompts, seed)
    return replace(load, name=_name(settings, load), n_prompts=_n_prompts(settings, load))


def describe(plan: Plan) -> str:
    """Return the load in words."""
    words = []
    if plan.n_requests is not None:
        words.append(f"{plan.n_requests} requests")
    if plan.n_conversations is not None:
        words.append(f"{plan.n_conversations} conversations")
    if plan.duration_s is not None:
        words.append(f"{plan.duration_s:g} s of requests")
    if plan.request_rate is not None:
        words.append(f"{plan.request_rate:g} a second ({plan.arrival_pattern})")
    if plan.follows_timestamps:
        words.append("at their timestamps")
    if plan.concurrency is not None:
        is_open = plan.request_rate is not None or plan.follows_timestamps
        words.append(("at most " if is_open else "") + f"{plan.concurrency} at a time")
    return ", ".join(words) + (f" after {plan.n_warmup} to warm up" if plan.n_warmup else "")


def reuse_note(plan: Plan) -> str:
    """Say that prompts may be sent again: nobody knows how many a closed loop takes in a time."""
    if plan.n_prompts is None or plan.duration_s is None or plan.request_rate is not None:
        return ""
    return (
        f"{plan.n_prompts} prompts are made; a server that answers more requests meets some again"
    )


def _closed_loop(
    settings: Settings, mode: Mode, point: int | None, prompts: PromptFile | None, seed: int
) -> Plan:
    """Return a load of users who each send again once they are answered."""
    concurrency = settings.concurrency if point is None else point
    n_least = REQUESTS_PER_USER * concurrency
    n_requests = _or(settings.request_count, n_least)
    if point is not None:
        n_requests = max(n_requests, n_least)
    elif n_requests < concurrency:
        what = f"{n_requests} is below CONCURRENCY {concurrency}, which would never be reached"
        remedy = f"raise it ({REQUESTS_PER_USER} × CONCURRENCY is the default)"
        raise UsageError("REQUEST_COUNT", what, remedy)
    n_warmup = _or(settings.warmup_requests, concurrency)
    load = Plan("", mode, concurrency, n_requests, n_warmup, seed)
    return _with_end(load, settings, prompts, n_least)


def _open_loop(
    settings: Settings, mode: Mode, point: int | None, prompts: PromptFile | None, seed: int
) -> Plan:
    """Return a load that arrives at REQUEST_RATE: for half a minute, unless it is set otherwise."""
    if point is not None:
        what = "fixes the load that a sweep of concurrencies varies"
        raise UsageError("REQUEST_RATE", what, "unset it, or set SWEEP_REQUEST_RATES")
    per_s = settings.request_rate or 0.0
    n_default = max(LEAST_REQUESTS, math.ceil(per_s * RATE_S))
    load = replace(
        _unhurried(settings, mode, _or(settings.request_count, n_default), seed),
        n_warmup=_or(settings.warmup_requests, math.ceil(per_s * WARMUP_S)),
        request_rate=per_s,
        arrival_pattern=settings.arrival_pattern,
    )
    turns = prompts.n_requests / prompts.n_conversations if prompts else 1
    return _with_end(load, settings, prompts, math.ceil(n_default / turns))


def _replay(settings: Settings, mode: Mode, prompts: PromptFile, seed: int) -> Plan:
    """Return a load that arrives when the prompt file says so."""
    what = "contradicts the timestamps of INPUT_FILE, which say when to send"
    if mode == "sweep":
        raise UsageError("sweep", what, "take them out of the file, or use make profile")
    if settings.request_rate is not None:
        raise UsageError("REQUEST_RATE", what, "unset it, or take them out of the file")
    if settings.benchmark_duration is not None:
        raise UsageError("BENCHMARK_DURATION", what, "set REQUEST_COUNT to replay only a part")
    n_requests = min(_or(settings.request_count, prompts.n_requests), prompts.n_requests)
    return replace(_unhurried(settings, mode, n_requests, seed), follows_timestamps=True)


def _unhurried(settings: Settings, mode: Mode, n_requests: int, seed: int) -> Plan:
    """Return an open loop; a ceiling that nobody set would quietly close it."""
    ceiling = settings.concurrency if settings.concurrency_is_set else None
    n_warmup = _or(settings.warmup_requests, settings.concurrency)
    return Plan("", mode, ceiling, n_requests, n_warmup, seed)


def _with_end(
    load: Plan, settings: Settings, prompts: PromptFile | None, n_conversations: int
) -> Plan:
    """Return the load with what ends it, where that is not a number of requests.

    Conversations are played whole, unless REQUEST_COUNT, which counts turns, cuts the last short.
    """
    if settings.benchmark_duration is not None:
        return replace(load, n_requests=None, duration_s=settings.benchmark_duration)
    if prompts and prompts.has_conversations and settings.request_count is None:
        return replace(load, n_requests=None, n_conversations=n_conversations)
    return load


def _n_prompts(settings: Settings, load: Plan) -> int | None:
    """Return how many synthetic prompts to make: one a request, as far as that can be known.

    Within a duration a server may answer more requests than are expected of a fast one, and meets
    prompts again then.
    """
    if settings.input_file:
        return None
    if load.n_requests is not None:
        return load.n_requests + load.n_warmup
    duration_s = load.duration_s or 0.0
    if load.request_rate is not None:
        mean = load.request_rate * duration_s
        return math.ceil(mean + 5 * math.sqrt(mean)) + load.n_warmup  # arrivals vary
    per_request_s = max(settings.output_tokens_mean / FAST_TOKENS_PER_S, FASTEST_REQUEST_S)
    n_expected = math.ceil((load.concurrency or 1) * duration_s / per_request_s)
    return min(n_expected, MOST_PROMPTS) + load.n_warmup


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _name(settings: Settings, load: Plan) -> str:
    word = load.concurrency if load.request_rate is None else f"{load.request_rate:g}"
    prefix = {"warmup": "warmup_", "profile": "", "sweep": f"sweep_{word}_"}[load.mode]
    if settings.input_file:
        stem = re.sub(r"[\s/\\:]+", "-", Path(settings.input_file).stem)
        prompts = f"FILE-{stem}"
    else:
        prompts = f"ISL{settings.input_tokens_mean}"
    parts = [prompts, f"OSL{settings.output_tokens_mean}", *_load_words(settings, load)]
    return prefix + "_".join(parts)


def _load_words(settings: Settings, load: Plan) -> Iterator[str]:
    if load.request_rate is not None:
        pattern = load.arrival_pattern
        yield f"RATE{load.request_rate:g}" + ("" if pattern == "poisson" else f"-{pattern}")
    if load.follows_timestamps:
        yield "TIMED"
    if load.concurrency is not None:
        yield f"CON{load.concurrency}"
    if load.duration_s is not None:
        yield f"{load.duration_s:g}S"
    if settings.more_urls:
        yield f"URLS{1 + len(settings.more_urls)}"


def _seed(settings: Settings, point: int | None) -> int:
    """Return another seed for each point of a sweep.

    The same prompts at every point would measure the server's prefix cache (vllm#54227).
    """
    if settings.random_seed is None:
        return secrets.randbits(_SEED_BITS)
    return settings.random_seed + (point or 0)
