"""Evidence: what the records themselves say for and against their figures. Limits are `verdict`'s.

A run at a fixed concurrency begins with a wave of requests at once and ends with a drain. Neither
says anything of the client or the server at that load, so both are left out where it matters.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness import stats
from harness.metrics import REQUEST_LATENCY
from harness.records import Records, Tokens

#: An answer is off the length that was asked for where it differs by more than this.
LENGTH_TOLERANCE_PCT = 10.0

_LENGTH_DIFFERENCE_PCT = "osl_mismatch_diff_pct"
_NS_PER_MS = 1e6
_NS_PER_S = 1e9
#: Of fewer requests one that a busy machine held up would speak for all.
_FEWEST_STEADY = 20
_FEWEST_IN_A_THIRD = 10
_Z_99_PCT = 2.58


@dataclass(frozen=True, slots=True)
class Drift:
    """Median request latency in the first and in the last third of the steady requests.

    ``is_beyond_chance``: their 99 % intervals do not overlap.
    """

    first_ms: float
    last_ms: float
    is_beyond_chance: bool

    @property
    def pct(self) -> float:
        """Return the change from the first third to the last, in % of the first."""
        return 100 * (self.last_ms - self.first_ms) / self.first_ms if self.first_ms else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found; None where the records cannot tell.

    ``n_lengths`` answers were asked for with a length, ``n_lengths_off`` of them miss it.
    ``queued_p95_ms`` is the wait in the client before a request was sent, ``in_flight`` the mean
    number of requests in flight, both without the first wave and the drain. ``sent_per_s`` is the
    rate of an open loop. ``tokens`` are counts by AIPerf's tag.
    """

    n_lengths: int = 0
    n_lengths_off: int = 0
    queued_p95_ms: float | None = None
    in_flight: float | None = None
    sent_per_s: float | None = None
    drift: Drift | None = None
    tokens: Mapping[str, Tokens] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Steady:
    """From the start of a run's last request of the first wave to that of its last before the end.

    The drain begins at ``last_ns``; requests that start from ``settled_ns`` on end in it.
    """

    first_ns: int
    settled_ns: int
    last_ns: int


def weigh(records: Records) -> Evidence:
    """Return the evidence; without rows or AIPerf's aggregate there is little."""
    tokens = records.facts.tokens if records.facts else {}
    n_lengths, n_off = _lengths(records)
    steady = _steady(records)
    if steady is None:
        return Evidence(n_lengths, n_off, tokens=tokens)
    is_open = records.facts is not None and records.facts.is_open_loop
    return Evidence(
        n_lengths=n_lengths,
        n_lengths_off=n_off,
        queued_p95_ms=_queued_p95_ms(records, steady),
        in_flight=None if is_open else _in_flight(records, steady),
        sent_per_s=_sent_per_s(records) if is_open else None,
        drift=_drift(records, steady),
        tokens=tokens,
    )


def _lengths(records: Records) -> tuple[int, int]:
    """Return how many answers were asked for with a length, and how many of those miss it."""
    differences_pct = records.columns[_LENGTH_DIFFERENCE_PCT]
    n_exact = differences_pct.count(0.0)
    if n_exact == len(differences_pct):  # mostly, and then nothing need be looked at one by one
        return n_exact, 0
    known = [pct for pct in differences_pct if not math.isnan(pct)]
    return len(known), sum(abs(pct) > LENGTH_TOLERANCE_PCT for pct in known)


def _steady(records: Records) -> _Steady | None:
    """Return the time in which a run was neither starting nor draining; None if it never was."""
    started_ns = records.started_ns
    if not started_ns or not records.facts:
        return None
    if records.facts.is_open_loop:
        if len(started_ns) < _FEWEST_STEADY:
            return None
        first_ns, last_ns = min(started_ns), max(started_ns)
        return _Steady(first_ns - 1, last_ns + 1, last_ns) if last_ns > first_ns else None
    n_wave = records.facts.concurrency or 1
    if len(started_ns) < n_wave + max(n_wave, _FEWEST_STEADY):
        return None
    first_ns = heapq.nsmallest(n_wave, started_ns)[-1]
    # From the end: rows are nearly in order, and a heap of the largest is then filled once.
    settled_ns, last_ns = heapq.nlargest(n_wave, reversed(started_ns))[-1], max(started_ns)
    return _Steady(first_ns, settled_ns, last_ns) if first_ns < last_ns else None


def _queued_p95_ms(records: Records, steady: _Steady) -> float | None:
    pairs = zip(records.queued_ms, records.started_ns, strict=True)
    waits_ms = stats.ascending(wait for wait, start_ns in pairs if start_ns > steady.first_ns)
    return stats.quantile(waits_ms, 0.95) if waits_ms else None


def _in_flight(records: Records, steady: _Steady) -> float:
    """Return the requests in flight, averaged over the steady time.

    That is all time spent in requests, less what lies before and after, divided by its length.
    Few requests reach beyond, so only those are looked at one by one.
    """
    begin, end = steady.first_ns, steady.last_ns
    latencies_ms = records.columns[REQUEST_LATENCY.tag]
    late_ns = end - max(latencies_ms) * _NS_PER_MS
    edges = [
        (start_ns, start_ns + latency_ms * _NS_PER_MS)
        for start_ns, latency_ms in zip(records.started_ns, latencies_ms, strict=True)
        if start_ns < begin or start_ns > late_ns
    ]
    before_ns = math.fsum(min(begin, stop) - start for start, stop in edges if start < begin)
    after_ns = math.fsum(stop - end for _, stop in edges if stop > end)
    return (math.fsum(latencies_ms) * _NS_PER_MS - before_ns - after_ns) / (end - begin)


def _sent_per_s(records: Records) -> float | None:
    length_s = (max(records.started_ns) - min(records.started_ns)) / _NS_PER_S
    return (records.n_used - 1) / length_s if length_s else None


def _drift(records: Records, steady: _Steady) -> Drift | None:
    """Compare the thirds, by start; None where they have too few requests to tell."""
    begin, end = steady.first_ns, steady.settled_ns
    starts_ns = sorted([start_ns for start_ns in records.started_ns if begin < start_ns < end])
    n_third = len(starts_ns) // 3
    if n_third < _FEWEST_IN_A_THIRD:
        return None
    first = _latencies_ms(records, starts_ns[0], starts_ns[n_third - 1])
    last = _latencies_ms(records, starts_ns[-n_third], starts_ns[-1])
    (low, high), (other_low, other_high) = (
        stats.median_interval(third, _Z_99_PCT) for third in (first, last)
    )
    is_beyond_chance = high < other_low or other_high < low
    return Drift(stats.quantile(first, 0.5), stats.quantile(last, 0.5), is_beyond_chance)


def _latencies_ms(records: Records, from_ns: int, until_ns: int) -> list[float]:
    """Return the latencies of the requests that started then, in ascending order."""
    pairs = zip(records.started_ns, records.columns[REQUEST_LATENCY.tag], strict=True)
    return sorted([ms for start_ns, ms in pairs if from_ns <= start_ns <= until_ns])
