"""AIPerf's export files become Records; with `harness.export` the only room that knows them.

A run folder is read from the best file it has: ``profile_export.jsonl`` (a row a request), else
``profile_export_aiperf.json`` (AIPerf's aggregate), else a legacy ``profile_export.json`` (an array
of rows whose numbers have no unit).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import DataError, UsageError
from harness.export.aggregate import (
    AGGREGATE,
    CACHED_INPUT,
    CLIENT_INPUT,
    CLIENT_OUTPUT,
    SERVER_INPUT,
    SERVER_OUTPUT,
    Facts,
    Measured,
    Spread,
    Tokens,
    read_facts,
    read_measured,
)
from harness.export.failures import ErrorGroup, Scrub, mask
from harness.export.rows import Rows, read_array, read_lines
from harness.metrics import REQUEST_LATENCY

__all__ = [
    "CACHED_INPUT",
    "CLIENT_INPUT",
    "CLIENT_OUTPUT",
    "SERVER_INPUT",
    "SERVER_OUTPUT",
    "Counts",
    "ErrorGroup",
    "Facts",
    "Records",
    "Scrub",
    "Spread",
    "Tokens",
    "read_run",
]

ROWS = "profile_export.jsonl"
LEGACY = "profile_export.json"
_NS_PER_MS = 1e6
_MS_PER_S = 1e3


@dataclass(frozen=True, slots=True)
class Counts:
    """Where every row of an export went; ValueError unless the five parts add up to ``n_read``."""

    n_read: int
    n_used: int
    n_warmup: int
    n_failed: int
    n_cancelled: int
    n_malformed: int

    def __post_init__(self) -> None:
        n_set_aside = self.n_warmup + self.n_failed + self.n_cancelled + self.n_malformed
        if self.n_read != self.n_used + n_set_aside:
            raise ValueError(f"rows are lost or counted twice: {self}")


@dataclass(frozen=True, slots=True)
class Records:
    """The requests of one run, every row accounted for in ``counts``.

    ``columns`` hold one value a used row by AIPerf's tag (latencies in ms, NaN where the row lacks
    the metric), ``started_ns`` its start by the wall clock, ``queued_ms`` how long it waited in the
    client before; all are empty when only the aggregate was found. ``facts`` is None where AIPerf's
    aggregate is missing or belongs to another run. ``window_s`` is the length of the measured
    phase, None if unknown. ``guessed`` are the latencies whose unit the magnitude rule decided.
    ``incomplete`` says why the run did not reach its end, or how many of its rows are lost.
    ``malformed`` are the first unreadable rows, each ``file:line: reason``. ``notes`` are for the
    reader.
    """

    source: str
    counts: Counts
    columns: Mapping[str, array[float]]
    started_ns: array[int]
    queued_ms: array[float]
    facts: Facts | None
    window_s: float | None
    was_cancelled: bool
    incomplete: str
    guessed: frozenset[str]
    errors: tuple[ErrorGroup, ...]
    warmup_errors: tuple[ErrorGroup, ...]
    malformed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def n_used(self) -> int:
        """Return the number of requests that the figures rest on."""
        return self.counts.n_used

    @property
    def n_failed(self) -> int:
        """Return the number of requests that failed."""
        return self.counts.n_failed


def read_run(folder: Path, scrub: Scrub = mask) -> Records:
    """Read a run folder, the harness's or plain AIPerf's.

    ``scrub`` takes secrets out of error messages, which a server may have echoed; by default all
    that looks like a key goes. Raises UsageError
    if there is no such folder and DataError if it holds nothing usable. A run in which every
    request failed is usable: its Records hold the errors.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UsageError(str(folder), what, "name a run folder, such as artifacts/<run>")
    facts, notes = _facts_or_note(folder, scrub)
    rows = _read(read_lines, folder / ROWS, scrub)
    if rows.is_empty and facts is None:
        legacy = _read(read_array, folder / LEGACY, scrub)
        rows = legacy if legacy.n_read else rows
    if not rows.is_empty:
        return _from_rows(rows, facts, read_measured(folder), notes)
    if facts is not None:
        return _from_facts(facts, rows, notes)
    raise _nothing_usable(folder, [*notes, *rows.malformed])


def _facts_or_note(folder: Path, scrub: Scrub) -> tuple[Facts | None, tuple[str, ...]]:
    """Return the aggregate; a broken one does not stop the reading of the rows beside it."""
    try:
        return read_facts(folder, scrub), ()
    except DataError as error:
        return None, (f"{AGGREGATE} {error.what}",)


def _read(reader: Callable[[Path, Scrub], Rows], path: Path, scrub: Scrub) -> Rows:
    try:
        return reader(path, scrub)
    except FileNotFoundError:
        return Rows(path.name, scrub)
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise DataError(str(path), what, "make it a readable file") from None


def _from_rows(
    rows: Rows, facts: Facts | None, measured: Measured | None, notes: Sequence[str]
) -> Records:
    told = list(notes)
    if facts is not None and not _belongs(facts, rows):
        told.append(_of_another_run(facts, rows))
        facts = None
    if measured is not None and abs(measured.n_requests - _n_measured(rows)) > rows.n_malformed:
        measured = None
    return Records(
        source=rows.source,
        counts=_counts(rows),
        columns=rows.columns,
        started_ns=rows.started_ns,
        queued_ms=rows.queued_ms,
        facts=facts,
        window_s=measured.length_s if measured else _own_window_s(rows),
        was_cancelled=any(end.was_cancelled for end in (facts, measured) if end),
        incomplete=_incomplete(rows, facts, measured),
        guessed=frozenset(rows.guessed),
        errors=rows.errors.groups(),
        warmup_errors=rows.warmup_errors.groups(),
        malformed=tuple(rows.malformed),
        notes=tuple(told),
    )


def _from_facts(facts: Facts, rows: Rows, notes: Sequence[str]) -> Records:
    """Return Records that hold counts and AIPerf's own percentiles only."""
    empty = _from_rows(rows, None, None, notes)
    n_read = facts.n_used + facts.n_failed + rows.n_malformed
    counts = replace(empty.counts, n_read=n_read, n_used=facts.n_used, n_failed=facts.n_failed)
    return replace(
        empty,
        source=AGGREGATE,
        counts=counts,
        facts=facts,
        window_s=None,
        was_cancelled=facts.was_cancelled,
        incomplete=facts.incomplete,
        guessed=facts.guessed,
        errors=facts.errors,
    )


def _counts(rows: Rows) -> Counts:
    return Counts(
        n_read=rows.n_read,
        n_used=rows.n_used,
        n_warmup=rows.n_warmup,
        n_failed=rows.n_failed,
        n_cancelled=rows.n_cancelled,
        n_malformed=rows.n_malformed,
    )


def _n_measured(rows: Rows) -> int:
    return rows.n_used + rows.n_failed + rows.n_cancelled


def _belongs(facts: Facts, rows: Rows) -> bool:
    """Tell whether the aggregate is of these rows: AIPerf leaves an older one behind on failure."""
    n_lacking = facts.n_used - rows.n_used
    n_lacking_failed = facts.n_failed - rows.n_failed - rows.n_cancelled
    is_none_extra = n_lacking >= 0 and n_lacking_failed >= 0
    return is_none_extra and n_lacking + n_lacking_failed <= rows.n_malformed


def _of_another_run(facts: Facts, rows: Rows) -> str:
    theirs = f"{facts.n_used} successful and {facts.n_failed} failed requests"
    ours = f"{rows.n_used} and {rows.n_failed}"
    return f"{AGGREGATE} is of another run ({theirs}, {rows.source} has {ours}) and is not used"


def _incomplete(rows: Rows, facts: Facts | None, measured: Measured | None) -> str:
    if facts is not None:
        return facts.incomplete or _unreadable(rows.n_used, facts.n_used, "successful rows")
    if measured is not None:
        return _unreadable(_n_measured(rows), measured.n_requests, "rows")
    # Where every request failed AIPerf writes no aggregate; legacy exports never had one.
    if not rows.n_used or rows.source != ROWS:
        return ""
    return f"{AGGREGATE} of this run is missing: AIPerf was ended, or the file was not copied"


def _unreadable(n_readable: int, n_written: int, rows: str) -> str:
    """Say that AIPerf counted requests which the percentiles lack: these are of another crowd."""
    n = n_written - n_readable
    return f"{n} of {n_written} {rows} are unreadable" if n > 0 else ""


def _own_window_s(rows: Rows) -> float | None:
    """Return the time from the first start to the last end of the used rows, in seconds."""
    if not rows.n_used or not (first_ns := min(rows.started_ns)):
        return None
    latencies_ms = rows.columns[REQUEST_LATENCY.tag]
    # Only a request that started late can be the last to end: few are looked at.
    late_ns = max(rows.started_ns) - max(latencies_ms) * _NS_PER_MS
    ends_ns = [
        start_ns + latency_ms * _NS_PER_MS
        for start_ns, latency_ms in zip(rows.started_ns, latencies_ms, strict=True)
        if start_ns >= late_ns
    ]
    return (max(ends_ns) - first_ns) / _NS_PER_MS / _MS_PER_S


def _nothing_usable(folder: Path, reasons: Sequence[str]) -> DataError:
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in folder.iterdir())
    found = ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "nothing"
    why = f"; {'; '.join(reasons[:3])}" if reasons else ""
    what = f"holds no usable result of AIPerf (found: {found}{why})"
    return DataError(str(folder), what, f"name a folder with {ROWS} or {AGGREGATE}")
