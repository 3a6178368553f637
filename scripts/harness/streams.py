"""Streams that broke, and whose answers AIPerf counts as good all the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.console import n_unreadable_events
from harness.records import SERVER_OUTPUT
from harness.summary import Summary
from harness.verdict import Level, Limits, Reason

_LOG = Path("logs", "aiperf.log")
_LINES_AN_EVENT = 2  # AIPerf reads each event twice, and says so each time


def broken_streams(
    folder: Path, summary: Summary, limits: Limits, manifest: Mapping[str, object]
) -> tuple[Reason, ...]:
    """Return why the answers of a run may be less than they seem: broken events, missing ends.

    The rows have neither as an error. INVALID where they may be more than MAX_ERROR_RATE allows of
    failed requests.
    """
    found = (*_unreadable(folder, summary, limits), *_endless(summary, limits, manifest))
    return found if summary.n_used else ()


def _unreadable(folder: Path, summary: Summary, limits: Limits) -> Iterator[Reason]:
    n_lines = n_unreadable_events(folder / _LOG)
    if n_lines:
        figure = (
            "the server sent events that are no JSON, which AIPerf leaves out of answers "
            f"that it counts as good ({n_lines} lines of {_LOG})"
        )
        yield _reason(figure, -(-n_lines // _LINES_AN_EVENT), summary, limits)


def _endless(summary: Summary, limits: Limits, manifest: Mapping[str, object]) -> Iterator[Reason]:
    """Find streams without the usage that others, or the one asked for before the run, end with."""
    tokens = summary.evidence.tokens
    n_with = tokens[SERVER_OUTPUT].n_requests if SERVER_OUTPUT in tokens else 0
    n_without = summary.n_used - n_with
    if summary.was_cancelled or summary.incomplete:  # the counts are of the whole run only
        return
    if n_without > 0 and (n_with or _is_counted_by_server(manifest)):
        figure = (
            f"{n_without} of {summary.n_used} answers end without usage: they broke off, or ended "
            "in an error event, which AIPerf counts as good"
        )
        yield _reason(figure, n_without, summary, limits)


def _is_counted_by_server(manifest: Mapping[str, object]) -> bool:
    choice = manifest.get("tokenizer")
    return isinstance(choice, Mapping) and choice.get("server_counts") is True


def _reason(figure: str, n_answers: int, summary: Summary, limits: Limits) -> Reason:
    share_pct = 100 * n_answers / summary.n_used
    level = Level.INVALID if share_pct > limits.max_error_rate_pct else Level.SUSPECT
    limit = f"MAX_ERROR_RATE {limits.max_error_rate_pct:g} %"
    return Reason(figure, limit, "see the server's log", level)
