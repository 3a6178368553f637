"""Service level objectives: the limits that a person sets, held against one run's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.metrics import (
    ERROR_RATE,
    INTER_TOKEN_LATENCY,
    REQUEST_LATENCY,
    TTFT,
    Metric,
)
from harness.settings import Settings
from harness.summary import Summary
from harness.table import number

Statistic = Literal["p95", "p99", "rate"]

_DECLARED: dict[str, tuple[Metric, Statistic]] = {
    "SLO_TTFT_P95_MS": (TTFT, "p95"),
    "SLO_ITL_P95_MS": (INTER_TOKEN_LATENCY, "p95"),
    "SLO_LATENCY_P99_MS": (REQUEST_LATENCY, "p99"),
    "SLO_ERROR_RATE_PCT": (ERROR_RATE, "rate"),
}
KEYS = tuple(_DECLARED)
_SHORT = {INTER_TOKEN_LATENCY.tag: "ITL", REQUEST_LATENCY.tag: "latency", ERROR_RATE.tag: "errors"}


@dataclass(frozen=True, slots=True)
class Slo:
    """One limit: the largest value that a metric's statistic may have, in the metric's unit."""

    key: str
    metric: Metric
    statistic: Statistic
    limit: float

    @property
    def name(self) -> str:
        """Return the objective in short, such as ``TTFT p95``."""
        short = _SHORT.get(self.metric.tag, self.metric.title)
        return short if self.statistic == "rate" else f"{short} {self.statistic}"

    @property
    def told_limit(self) -> str:
        """Return the limit as people read it, such as ``≤ 200 ms``."""
        return f"≤ {self.limit:g} {self.metric.unit}"


@dataclass(frozen=True, slots=True)
class Result:
    """One objective and what a run showed, None where it showed nothing: that does not pass."""

    slo: Slo
    figure: float | None

    @property
    def passed(self) -> bool:
        """Tell whether the objective is met."""
        return self.figure is not None and self.figure <= self.slo.limit

    @property
    def word(self) -> str:
        """Return ``pass`` or ``fail``."""
        return "pass" if self.passed else "fail"

    @property
    def told_figure(self) -> str:
        """Return the figure with its unit, such as ``240 ms``."""
        if self.figure is None:
            return "not measured"
        return f"{_clear(self.figure, self.slo)} {self.slo.metric.unit}"

    @property
    def text(self) -> str:
        """Return figure against limit, such as ``p95 TTFT is 240 ms against 200``."""
        *name, statistic = self.slo.name.split()
        words = " ".join((statistic, *name))  # "p95 TTFT"; "errors" as it is
        verb = "are" if self.slo.metric is ERROR_RATE else "is"
        return f"{words} {verb} {self.told_figure} against {self.slo.limit:g}"


def objectives(
    settings: Settings, outranking: Mapping[str, object] | None = None
) -> tuple[Slo, ...]:
    """Return the objectives that are set, in the settings' order.

    Those that ``outranking`` has by the settings' keys outrank the settings'.
    """
    found = []
    for key, (metric, statistic) in _DECLARED.items():
        limit = (outranking or {}).get(key)
        if not isinstance(limit, int | float):
            limit = getattr(settings, key.lower())
        if limit is not None:
            found.append(Slo(key, metric, statistic, float(limit)))
    return tuple(found)


def check(summary: Summary, slos: Iterable[Slo]) -> tuple[Result, ...]:
    """Hold each objective against the run's figures."""
    return tuple(Result(slo, _figure(summary, slo)) for slo in slos)


def missed(results: Iterable[Result]) -> tuple[Result, ...]:
    """Return the objectives that are not met."""
    return tuple(result for result in results if not result.passed)


def cell(results: Sequence[Result]) -> str:
    """Return the results as one cell of a table: pass, what failed, or nothing if none is set."""
    if not results:
        return ""
    failed = [result.slo.name for result in missed(results)]
    return f"fail: {', '.join(failed)}" if failed else "pass"


def stored(results: Iterable[Result]) -> list[dict[str, object]]:
    """Return the results as run.json keeps them."""
    return [
        {
            "key": result.slo.key,
            "figure": result.figure,
            "limit": result.slo.limit,
            "passed": result.passed,
        }
        for result in results
    ]


def _figure(summary: Summary, slo: Slo) -> float | None:
    if slo.statistic == "rate":
        return summary.rate(slo.metric)
    spread = summary.latency(slo.metric)
    return spread.p95_ms if slo.statistic == "p95" else spread.p99_ms


def _clear(figure: float, slo: Slo) -> str:
    """Round for people, but never so far that a miss reads like the limit itself."""
    for digits in range(slo.metric.digits + 4):
        text = number(figure, digits)
        is_rough = digits < slo.metric.digits and abs(figure) < 100
        if not is_rough and (float(text) > slo.limit) == (figure > slo.limit):
            return text
    return f"{figure:g}"
