"""What AIPerf itself says of a whole run: its aggregate and its list of phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import DataError
from harness.export.failures import ErrorCounter, ErrorGroup, ErrorRow, Scrub, mask
from harness.export.units import Unit, in_ms
from harness.metrics import (
    GOODPUT,
    LATENCIES,
    OUTPUT_TOKEN_THROUGHPUT,
    OUTPUT_TOKEN_THROUGHPUT_PER_USER,
    REASONING,
    REQUEST_THROUGHPUT,
    TIME_TO_FIRST_OUTPUT_TOKEN,
)

AGGREGATE = "profile_export_aiperf.json"
PHASES = "phase_manifest.json"

_THROUGHPUTS = (OUTPUT_TOKEN_THROUGHPUT, REQUEST_THROUGHPUT, GOODPUT)
_TIMES = (*LATENCIES, TIME_TO_FIRST_OUTPUT_TOKEN)
#: Token counts: the client's, and as the server's ``usage`` tells them.
CLIENT_INPUT, CLIENT_OUTPUT = "input_sequence_length", "output_sequence_length"
SERVER_INPUT, SERVER_OUTPUT = "usage_prompt_tokens", "usage_completion_tokens"
CACHED_INPUT = "usage_prompt_cache_read_tokens"
_TOKENS = (CLIENT_INPUT, CLIENT_OUTPUT, SERVER_INPUT, SERVER_OUTPUT, CACHED_INPUT)
_CLOSED_LOOP = "concurrency"
_PER_USER = OUTPUT_TOKEN_THROUGHPUT_PER_USER.tag
_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of one latency over ``n`` requests, in ms; absent figures are None."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    avg_ms: float | None
    n: int

    @property
    def figures_ms(self) -> tuple[float | None, ...]:
        """Return p50, p95, p99 and average."""
        return self.p50_ms, self.p95_ms, self.p99_ms, self.avg_ms


@dataclass(frozen=True, slots=True)
class Tokens:
    """One kind of tokens, counted in ``n_requests`` requests."""

    n_tokens: float
    n_requests: int

    @property
    def mean(self) -> float:
        """Return the tokens of one request, 0 if none was counted."""
        return self.n_tokens / self.n_requests if self.n_requests else 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """AIPerf's aggregate of one run; what it leaves out is None, empty or 0.

    ``rates`` are throughputs by tag, in tokens/s or requests/s (per user: the median). ``tokens``
    are counts by tag. ``incomplete`` says why the run did not reach its end. ``concurrency`` and
    ``n_requests`` are what was asked for; ``is_open_loop`` if requests were sent at a rate, so that
    the concurrency is no more than a ceiling.
    """

    spreads: Mapping[str, Spread]
    rates: Mapping[str, float]
    tokens: Mapping[str, Tokens]
    n_used: int
    n_failed: int
    was_cancelled: bool
    incomplete: str
    errors: tuple[ErrorGroup, ...]
    guessed: frozenset[str]
    aiperf_version: str
    model: str
    url: str
    concurrency: int | None
    n_requests: int | None
    is_open_loop: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured phase as AIPerf lists it: its length and how many requests it ended."""

    length_s: float
    n_requests: int
    was_cancelled: bool


class _Stat(msgspec.Struct):
    unit: str = ""
    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    count: float | None = None


class _ErrorCount(msgspec.Struct):
    error_details: ErrorRow
    count: int = 1


class _Named(msgspec.Struct):
    name: str = ""


class _Models(msgspec.Struct):
    items: list[_Named] = []


class _Endpoint(msgspec.Struct):
    urls: list[str] = []


class _Load(msgspec.Struct):
    kind: str = ""
    type: str = _CLOSED_LOOP
    concurrency: int | None = None
    requests: int | None = None


class _Config(msgspec.Struct):
    models: _Models = msgspec.field(default_factory=_Models)
    endpoint: _Endpoint = msgspec.field(default_factory=_Endpoint)
    phases: list[_Load] = []


class _Run(msgspec.Struct):
    """The keys of the aggregate that are no metrics."""

    aiperf_version: str = ""
    was_cancelled: bool | None = None
    is_complete: bool | None = None
    incomplete_reason: str | None = None
    error_summary: list[_ErrorCount] | None = None
    input_config: msgspec.Raw = msgspec.Raw(b"{}")


class _Phase(msgspec.Struct):
    phase_kind: str = ""
    start_ns: int | None = None
    end_ns: int | None = None
    total_request_count: int = 0
    was_cancelled: bool = False


class _Phases(msgspec.Struct):
    phases: list[_Phase] = []


def read_facts(folder: Path, scrub: Scrub = mask) -> Facts | None:
    """Return what AIPerf's aggregate says; None where there is none.

    Raises DataError if the file cannot be read or is no such aggregate.
    """
    path = folder / AGGREGATE
    try:
        content = path.read_bytes()
        stats = _stats(content)
        run = msgspec.json.decode(content, type=_Run)
        return _facts(stats, run, scrub)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "run the benchmark again") from None


def read_measured(folder: Path) -> Measured | None:
    """Return the measured phase; None where AIPerf wrote no readable list of phases."""
    try:
        content = (folder / PHASES).read_bytes()
        phases = msgspec.json.decode(content, type=_Phases).phases
    except (OSError, ValueError, RecursionError):
        return None
    measured = [phase for phase in phases if phase.phase_kind == "profiling"]
    starts = [phase.start_ns for phase in measured if phase.start_ns is not None]
    ends = [phase.end_ns for phase in measured if phase.end_ns is not None]
    if not starts or len(ends) < len(measured):
        return None
    return Measured(
        (max(ends) - min(starts)) / _NS_PER_S,
        sum(phase.total_request_count for phase in measured),
        any(phase.was_cancelled for phase in measured),
    )


def _stats(content: bytes) -> dict[str, _Stat]:
    """Return the metrics of an aggregate by tag; ValueError if it holds none of ours."""
    document = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    metrics = (*_TIMES, *_THROUGHPUTS, OUTPUT_TOKEN_THROUGHPUT_PER_USER, *REASONING)
    counts = ("request_count", "error_request_count")
    stats = {
        tag: msgspec.json.decode(document[tag], type=_Stat)
        for tag in (*(metric.tag for metric in metrics), *counts, *_TOKENS)
        if tag in document
    }
    if not stats:
        raise ValueError("holds no metric of AIPerf's")
    return stats


def _facts(stats: Mapping[str, _Stat], run: _Run, scrub: Scrub) -> Facts:
    latencies = {metric.tag: stats[metric.tag] for metric in _TIMES if metric.tag in stats}
    config = _config(run.input_config)
    load = next((phase for phase in config.phases if phase.kind == "profiling"), _Load())
    return Facts(
        spreads={tag: _spread(stat) for tag, stat in latencies.items()},
        rates=_rates(stats),
        tokens=_tokens(stats),
        n_used=_count(stats, "request_count"),
        n_failed=_count(stats, "error_request_count"),
        was_cancelled=bool(run.was_cancelled),
        incomplete=_incomplete(run),
        errors=_errors(run, scrub),
        guessed=frozenset(tag for tag, stat in latencies.items() if not stat.unit),
        aiperf_version=run.aiperf_version,
        model=next((model.name for model in config.models.items), ""),
        url=next(iter(config.endpoint.urls), ""),
        concurrency=load.concurrency,
        n_requests=load.requests,
        is_open_loop=load.type != _CLOSED_LOOP,
    )


def _config(raw: msgspec.Raw) -> _Config:
    """Return what was asked for, as far as it can be read: the figures do not depend on it."""
    try:
        return msgspec.json.decode(raw, type=_Config)
    except (ValueError, RecursionError):
        return _Config()


def _spread(stat: _Stat) -> Spread:
    unit = msgspec.convert(stat.unit, Unit)
    p50, p95, p99, avg = (
        None if value is None else in_ms(value, unit)
        for value in (stat.p50, stat.p95, stat.p99, stat.avg)
    )
    return Spread(p50, p95, p99, avg, int(stat.count or 0))


def _rates(stats: Mapping[str, _Stat]) -> dict[str, float]:
    rates = {m.tag: stats[m.tag].avg for m in _THROUGHPUTS if m.tag in stats}
    if _PER_USER in stats:
        rates[_PER_USER] = stats[_PER_USER].p50
    return {tag: value for tag, value in rates.items() if value is not None}


def _tokens(stats: Mapping[str, _Stat]) -> dict[str, Tokens]:
    found = {tag: stats[tag] for tag in (*_TOKENS, *(m.tag for m in REASONING)) if tag in stats}
    return {
        tag: Tokens(stat.avg * stat.count, int(stat.count))
        for tag, stat in found.items()
        if stat.avg is not None and stat.count is not None
    }


def _count(stats: Mapping[str, _Stat], tag: str) -> int:
    return int(stats[tag].avg or 0) if tag in stats else 0


def _incomplete(run: _Run) -> str:
    if run.is_complete is not False:  # older versions do not write the key
        return ""
    return run.incomplete_reason or "AIPerf marks it as not complete"


def _errors(run: _Run, scrub: Scrub) -> tuple[ErrorGroup, ...]:
    errors = ErrorCounter(scrub)
    for group in run.error_summary or []:
        errors.add(group.error_details, group.count)
    return errors.groups()
