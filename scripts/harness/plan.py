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
from harness.settings import Settings

Mode = Literal["warmup", "profile", "sweep"]

WARMUP_CONCURRENCY = 3
WARMUP_REQUESTS = 9
REQUESTS_PER_USER = 3
#: An open loop's default: as many requests as arrive in half a minute, at least 30.
RATE_S = 30
LEAST_REQUESTS = 30
#: A server that nobody should outrun: what a run of a given length may need in prompts.
FAST_TOKENS_PER_S = 500.0
FASTEST_REQUEST_S = 0.05
MOST_PROMPTS = 20_000
_SEED_BITS = 31


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: ``n_warmup`` requests that do not count, then ``n_requests`` that do.

    ``concurrency`` is None where nothing limits the requests in flight. ``n_requests`` is None
    where the run measures for ``duration_s`` instead. ``request_rate`` (a second) is that of an
    open loop, which sends whether or not earlier requests are answered. ``n_prompts`` is how many
    synthetic prompts are made, None with a prompt file.
    """

    name: str
    mode: Mode
    concurrency: int | None
    n_requests: int | None
    n_warmup: int
    seed: int
    request_rate: float | None = None
    duration_s: float | None = None
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


def make_plan(settings: Settings, mode: Mode, point: int | None = None) -> Plan:
    """Return the load of one run; ``point`` is the concurrency of a sweep's point.

    A sweep's point never has fewer than 3 requests a user, whatever REQUEST_COUNT says. With
    REQUEST_RATE a profile is an open loop, which CONCURRENCY limits only where a person set it;
    with BENCHMARK_DURATION nothing counts the requests. Raises UsageError where settings
    contradict each other.
    """
    load = _load(settings, mode, point)
    name = _name(settings, mode, load)
    return replace(load, name=name, n_prompts=_n_prompts(settings, load))


def _load(settings: Settings, mode: Mode, point: int | None) -> Plan:
    """Return the plan without its name."""
    seed = _seed(settings, point)
    if mode == "warmup":
        return Plan("", mode, WARMUP_CONCURRENCY, WARMUP_REQUESTS, 0, seed)
    _refuse_two_ends(settings)
    if settings.request_rate is not None:
        _refuse_two_loads(point)
        return _open_loop(settings, mode, settings.request_rate, seed)
    concurrency = settings.concurrency if point is None else point
    n_requests = _or(settings.request_count, REQUESTS_PER_USER * concurrency)
    if point is not None:
        n_requests = max(n_requests, REQUESTS_PER_USER * point)
    elif n_requests < concurrency:
        what = f"{n_requests} is below CONCURRENCY {concurrency}, which would never be reached"
        remedy = f"raise it ({REQUESTS_PER_USER} × CONCURRENCY is the default)"
        raise UsageError("REQUEST_COUNT", what, remedy)
    n_warmup = _or(settings.warmup_requests, concurrency)
    duration_s = settings.benchmark_duration
    counted = n_requests if duration_s is None else None
    return Plan("", mode, concurrency, counted, n_warmup, seed, duration_s=duration_s)


def _open_loop(settings: Settings, mode: Mode, per_s: float, seed: int) -> Plan:
    """Return a load that sends at a rate: for half a minute, unless a person says otherwise."""
    duration_s = settings.benchmark_duration
    n_default = max(LEAST_REQUESTS, math.ceil(per_s * RATE_S))
    n_requests = _or(settings.request_count, n_default) if duration_s is None else None
    ceiling = settings.concurrency if settings.concurrency_is_set else None
    n_warmup = _or(settings.warmup_requests, settings.concurrency)
    return Plan("", mode, ceiling, n_requests, n_warmup, seed, per_s, duration_s)


def _refuse_two_ends(settings: Settings) -> None:
    if settings.benchmark_duration is not None and settings.request_count is not None:
        what = "says when to stop, and so does REQUEST_COUNT"
        raise UsageError("BENCHMARK_DURATION", what, "set only one of them")


def _refuse_two_loads(point: int | None) -> None:
    if point is not None:
        what = "fixes the load that a sweep of concurrencies varies"
        raise UsageError("REQUEST_RATE", what, "unset it, or set SWEEP_REQUEST_RATES")


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


def _name(settings: Settings, mode: Mode, load: Plan) -> str:
    word = load.concurrency if load.request_rate is None else f"{load.request_rate:g}"
    prefix = {"warmup": "warmup_", "profile": "", "sweep": f"sweep_{word}_"}[mode]
    if settings.input_file:
        stem = re.sub(r"[\s/\\:]+", "-", Path(settings.input_file).stem)
        prompts = f"FILE-{stem}"
    else:
        prompts = f"ISL{settings.input_tokens_mean}"
    parts = [prompts, f"OSL{settings.output_tokens_mean}", *_load_words(settings, load)]
    return prefix + "_".join(parts)


def _load_words(settings: Settings, load: Plan) -> Iterator[str]:
    if load.request_rate is not None:
        pattern = settings.arrival_pattern
        yield f"RATE{load.request_rate:g}" + ("" if pattern == "poisson" else f"-{pattern}")
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
