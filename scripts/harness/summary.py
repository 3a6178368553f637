"""Records become a Summary: percentiles, rates, counts, and what a reader must know about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness import stats
from harness.evidence import Evidence, weigh
from harness.metrics import (
    ERROR_RATE,
    GOODPUT,
    INTER_TOKEN_LATENCY,
    LATENCIES,
    OUTPUT_TOKEN_THROUGHPUT,
    OUTPUT_TOKEN_THROUGHPUT_PER_USER,
    RATES,
    REASONING,
    REQUEST_LATENCY,
    REQUEST_THROUGHPUT,
    TIME_TO_FIRST_OUTPUT_TOKEN,
    TTFT,
    Metric,
)
from harness.records import CLIENT_OUTPUT, Counts, ErrorGroup, Records, Spread

#: Below so many samples a p95 or a p99 is close to the largest of them.
P95_SAMPLES = 20
P99_SAMPLES = 100

_NOTHING = Spread(None, None, None, None, 0)


@dataclass(frozen=True, slots=True)
class Latency:
    """The distribution of one latency over the used requests that have it."""

    metric: Metric
    spread: Spread

    @property
    def is_p95_thin(self) -> bool:
        """Tell whether the p95 rests on too few samples to be more than the slowest one."""
        return 0 < self.spread.n < P95_SAMPLES and self.spread.p95_ms is not None

    @property
    def is_p99_thin(self) -> bool:
        """Tell whether the p99 rests on too few samples to be more than the slowest ones."""
        return 0 < self.spread.n < P99_SAMPLES and self.spread.p99_ms is not None


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate in its metric's unit; None if it could not be computed."""

    metric: Metric
    value: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What one run shows.

    ``first_output`` is the time to the first token of the answer itself where that differs from
    TTFT, and ``reasoning`` the tokens of both kinds where the model reasoned, else None and empty.
    ``incomplete`` says why the run did not reach its end, empty if it did. ``errors`` are the
    failed requests grouped, the largest group first. ``n_in_one_piece`` counts the answers of
    several tokens if each of them came in one piece, as from a server that does not stream; else
    it is 0. ``notes`` are what a reader must know about the figures, `thin_note` apart.
    """

    latencies: tuple[Latency, ...]
    first_output: Latency | None
    rates: tuple[Rate, ...]
    reasoning: tuple[Rate, ...]
    source: str
    counts: Counts
    was_cancelled: bool
    incomplete: str
    errors: tuple[ErrorGroup, ...]
    n_in_one_piece: int
    evidence: Evidence
    notes: tuple[str, ...]

    @property
    def n_used(self) -> int:
        """Return the number of requests that the figures rest on."""
        return self.counts.n_used

    @property
    def n_failed(self) -> int:
        """Return the number of requests that failed."""
        return self.counts.n_failed

    def latency(self, metric: Metric) -> Spread:
        """Return one latency's figures; KeyError if the metric is none."""
        return {latency.metric.tag: latency.spread for latency in self.latencies}[metric.tag]

    def rate(self, metric: Metric) -> float | None:
        """Return one rate; KeyError if the metric is none."""
        return {rate.metric.tag: rate.value for rate in self.rates}[metric.tag]

    @property
    def all_latencies(self) -> tuple[Latency, ...]:
        """Return TTFT, the first output token where it is another, and the others."""
        ttft, *others = self.latencies
        return (ttft, *((self.first_output,) if self.first_output else ()), *others)

    @property
    def thin_note(self) -> str:
        """Say that a p95 or p99 rests on too few requests; empty if none does."""
        rows = self.all_latencies
        n_requests = [row.spread.n for row in rows if row.is_p99_thin or row.is_p95_thin]
        if not n_requests:
            return ""
        slowest = "little more than the slowest of them"
        if any(row.is_p95_thin for row in rows):
            return (
                f"p95 and p99 of {min(n_requests)} requests are {slowest}; "
                f"{P95_SAMPLES} and {P99_SAMPLES} or more make them percentiles"
            )
        return (
            f"p99 of {min(n_requests)} requests is {slowest}; "
            f"{P99_SAMPLES} or more make it a percentile"
        )


def summarize(records: Records) -> Summary:
    """Sum up a run. Failed, cancelled, warm-up and malformed rows are counted, never averaged."""
    return Summary(
        latencies=tuple(Latency(metric, _spread(records, metric.tag)) for metric in LATENCIES),
        first_output=_first_output(records),
        rates=(*(Rate(metric, _rate(metric, records)) for metric in RATES), *_goodput(records)),
        reasoning=_reasoning(records),
        source=records.source,
        counts=records.counts,
        was_cancelled=records.was_cancelled,
        incomplete=records.incomplete,
        errors=records.errors,
        n_in_one_piece=_n_in_one_piece(records),
        evidence=weigh(records),
        notes=(*records.notes, *_reading_notes(records)),
    )


def error_rate_pct(n_failed: int, n_used: int) -> float | None:
    """Return failed requests as a share of failed and successful ones; None if there are none.

    As AIPerf's request_error_rate, but for requests that the client itself cancelled: these did
    not fail.
    """
    n_ended = n_failed + n_used
    return 100 * n_failed / n_ended if n_ended else None


def _spread(records: Records, tag: str) -> Spread:
    """Return percentiles of the rows, or AIPerf's own where the rows are not there."""
    values = stats.ascending(records.columns[tag])
    if not values:
        of_aiperf = records.facts.spreads.get(tag) if records.facts else None
        return of_aiperf or _NOTHING
    p50, p95, p99 = (stats.quantile(values, q) for q in (0.50, 0.95, 0.99))
    return Spread(p50, p95, p99, stats.mean(values), len(values))


def _first_output(records: Records) -> Latency | None:
    """Return AIPerf's figures for the first token after reasoning; None where TTFT says as much."""
    spreads = records.facts.spreads if records.facts else {}
    found, ttft = spreads.get(TIME_TO_FIRST_OUTPUT_TOKEN.tag), spreads.get(TTFT.tag)
    return Latency(TIME_TO_FIRST_OUTPUT_TOKEN, found) if found and found != ttft else None


def _reasoning(records: Records) -> tuple[Rate, ...]:
    """Return tokens a request of reasoning and of answers; nothing where no model reasoned."""
    tokens = records.facts.tokens if records.facts else {}
    totals = [tokens[m.tag].n_tokens if m.tag in tokens else 0.0 for m in REASONING]
    if not records.n_used or not totals[0]:
        return ()
    pairs = zip(REASONING, totals, strict=True)
    return tuple(Rate(metric, total / records.n_used) for metric, total in pairs)


def _goodput(records: Records) -> tuple[Rate, ...]:
    """Return AIPerf's goodput; nothing where no objective was set in the run."""
    goodput = _of_aiperf(GOODPUT, records)
    return () if goodput is None else (Rate(GOODPUT, goodput),)


def _n_in_one_piece(records: Records) -> int:
    """Count the answers of several tokens if all have their TTFT as latency; 0 if any has not."""
    if not records.n_used or not records.columns[TTFT.tag]:
        return _n_in_one_piece_by_aggregate(records)
    tags = (TTFT.tag, REQUEST_LATENCY.tag, CLIENT_OUTPUT)
    n = 0
    for ttft_ms, latency_ms, n_tokens in zip(*(records.columns[t] for t in tags), strict=True):
        if n_tokens > 1 and not math.isnan(ttft_ms):
            if not math.isclose(ttft_ms, latency_ms):
                return 0
            n += 1
    return n


def _n_in_one_piece_by_aggregate(records: Records) -> int:
    """Do likewise without rows; only answers of several tokens have an inter-token latency."""
    spreads = records.facts.spreads if records.facts else {}
    if any(metric.tag not in spreads for metric in LATENCIES):
        return 0
    ttft, latency = spreads[TTFT.tag], spreads[REQUEST_LATENCY.tag]
    pairs = zip(ttft.figures_ms, latency.figures_ms, strict=True)
    are_equal = all(a is not None and b is not None and math.isclose(a, b) for a, b in pairs)
    return spreads[INTER_TOKEN_LATENCY.tag].n if are_equal else 0


def _rate(metric: Metric, records: Records) -> float | None:
    if metric is ERROR_RATE:
        return error_rate_pct(records.n_failed, records.n_used)
    if metric is OUTPUT_TOKEN_THROUGHPUT_PER_USER:
        speeds = stats.ascending(records.columns[metric.tag])
        return stats.quantile(speeds, 0.50) if speeds else _of_aiperf(metric, records)
    of_aiperf = _of_aiperf(metric, records)
    return _own_throughput(metric, records) if of_aiperf is None else of_aiperf


def _of_aiperf(metric: Metric, records: Records) -> float | None:
    return records.facts.rates.get(metric.tag) if records.facts else None


def _own_throughput(metric: Metric, records: Records) -> float | None:
    """Return requests or output tokens per second of the measured phase."""
    amounts = {
        REQUEST_THROUGHPUT.tag: float(records.n_used),
        OUTPUT_TOKEN_THROUGHPUT.tag: math.fsum(stats.ascending(records.columns[CLIENT_OUTPUT])),
    }
    amount = amounts[metric.tag]
    return amount / records.window_s if amount and records.window_s else None


def _reading_notes(records: Records) -> list[str]:
    notes = []
    if records.malformed:
        left_out = records.counts.n_malformed - len(records.malformed)
        more = f" and {left_out} more" if left_out else ""
        named = ", ".join(records.malformed) + more
        notes.append(f"not readable and left out: {named}")
    if records.guessed:
        titles = ", ".join(metric.title for metric in LATENCIES if metric.tag in records.guessed)
        notes.append(
            f"units guessed by magnitude, since the export names none: {titles} "
            "(above 1e9 taken as ns, below 1 as s, else ms)"
        )
    if records.warmup_errors:
        n_failed = sum(group.n for group in records.warmup_errors)
        first = records.warmup_errors[0].text
        notes.append(f"{n_failed} of {records.counts.n_warmup} warm-up requests failed: {first}")
    if records.n_used and not records.facts and records.window_s:
        notes.append("throughputs are computed from the rows: AIPerf's own are missing")
    return notes
