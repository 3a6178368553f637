"""Plan: the load of one run, and the folder name that tells it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.settings import Settings

Mode = Literal["warmup", "profile", "sweep"]

WARMUP_CONCURRENCY = 3
WARMUP_REQUESTS = 9
REQUESTS_PER_USER = 3
_SEED_BITS = 31


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: ``n_warmup`` requests that do not count, then ``n_requests`` that do."""

    name: str
    mode: Mode
    concurrency: int
    n_requests: int
    n_warmup: int
    seed: int


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

    A sweep's point never has fewer than 3 requests a user, whatever REQUEST_COUNT says. Raises
    UsageError where a profile's REQUEST_COUNT would never reach its CONCURRENCY.
    """
    if mode == "warmup":
        concurrency, n_requests, n_warmup = WARMUP_CONCURRENCY, WARMUP_REQUESTS, 0
    elif point is not None:
        concurrency = point
        n_requests = max(settings.request_count or 0, REQUESTS_PER_USER * point)
        n_warmup = _or(settings.warmup_requests, point)
    else:
        concurrency = settings.concurrency
        n_requests = _or(settings.request_count, REQUESTS_PER_USER * concurrency)
        n_warmup = _or(settings.warmup_requests, concurrency)
        if n_requests < concurrency:
            what = f"{n_requests} is below CONCURRENCY {concurrency}, which would never be reached"
            remedy = f"raise it ({REQUESTS_PER_USER} × CONCURRENCY is the default)"
            raise UsageError("REQUEST_COUNT", what, remedy)
    name = _name(settings, mode, concurrency)
    return Plan(name, mode, concurrency, n_requests, n_warmup, _seed(settings, point))


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _name(settings: Settings, mode: Mode, concurrency: int) -> str:
    prefix = {"warmup": "warmup_", "profile": "", "sweep": f"sweep_{concurrency}_"}[mode]
    if settings.input_file:
        stem = re.sub(r"[\s/\\:]+", "-", Path(settings.input_file).stem)
        prompts = f"FILE-{stem}"
    else:
        prompts = f"ISL{settings.input_tokens_mean}"
    return f"{prefix}{prompts}_OSL{settings.output_tokens_mean}_CON{concurrency}"


def _seed(settings: Settings, point: int | None) -> int:
    """Return another seed for each point of a sweep.

    The same prompts at every point would measure the server's prefix cache (vllm#54227).
    """
    if settings.random_seed is None:
        return secrets.randbits(_SEED_BITS)
    return settings.random_seed + (point or 0)
