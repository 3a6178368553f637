"""Whether a run's figures can be used: VALID or INVALID, with reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from harness.metrics import ERROR_RATE
from harness.summary import Summary

_FEWEST_IN_ONE_PIECE = 2


class Level(StrEnum):
    """How far the figures can be trusted."""

    VALID = "VALID"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run is not VALID: what was found, the limit it breaks (if one is set), what to do."""

    figure: str
    limit: str
    remedy: str

    @property
    def text(self) -> str:
        """Return the reason in one line."""
        limit = f" (limit: {self.limit})" if self.limit else ""
        return f"{self.figure}{limit}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The level, and every reason for it; VALID has none."""

    level: Level
    reasons: tuple[Reason, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Return each reason in one line."""
        return tuple(reason.text for reason in self.reasons)


def judge(summary: Summary, max_error_rate_pct: float) -> Verdict:
    """Judge a run: INVALID if it was cut short, too many requests failed, or nothing streamed."""
    reasons = (
        *_cut_short(summary),
        *_failures(summary, max_error_rate_pct),
        *_not_streamed(summary),
    )
    return Verdict(Level.INVALID if reasons else Level.VALID, reasons)


def _cut_short(summary: Summary) -> Iterator[Reason]:
    if summary.was_cancelled:
        figure = f"the run was cancelled after {summary.n_used} successful requests"
        yield Reason(figure, "", "run it again and let it end")
    elif summary.incomplete:
        yield Reason(f"the run is not complete: {summary.incomplete}", "", "run it again")


def _not_streamed(summary: Summary) -> Iterator[Reason]:
    """Find a TTFT that means nothing; one answer in one piece may be chance."""
    n = summary.n_in_one_piece
    if n >= _FEWEST_IN_ONE_PIECE:
        figure = f"the server does not stream: TTFT equals latency in all {n} answers"
        yield Reason(figure, "", "switch streaming on in the server or the proxy before it")


def _failures(summary: Summary, max_error_rate_pct: float) -> Iterator[Reason]:
    error_rate_pct = summary.rate(ERROR_RATE)
    if not summary.n_used:
        yield Reason("no request succeeded", "", "see the errors and the server's log")
    elif error_rate_pct is not None and error_rate_pct > max_error_rate_pct:
        share = f"{error_rate_pct:.2f} % of requests failed"
        counts = f"{summary.n_failed} of {summary.n_failed + summary.n_used}"
        limit = f"MAX_ERROR_RATE {max_error_rate_pct:g} %"
        yield Reason(f"{share}, {counts}", limit, "see the errors and the server's log")
