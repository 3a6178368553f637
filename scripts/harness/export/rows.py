"""Rows of an export, one a request, collected into columns.

Lines are decoded a block at a time into small typed structs and kept as columns of doubles: an
export larger than memory can be read, and reading one takes hardly longer than decoding it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

import msgspec

from harness.export.failures import ErrorCounter, ErrorRow, Scrub
from harness.export.units import Unit, in_ms
from harness.texts import one_line

_BLOCK_BYTES = 1 << 18
_KEPT_MALFORMED = 10
_CANCELLED = 499
_NS_PER_MS = 1e6
_NOT_A_ROW = (ValueError, RecursionError)  # msgspec's errors and UnicodeDecodeError are ValueErrors


class _Time(msgspec.Struct, gc=False):
    value: float | None = None
    unit: Unit = ""


class _Plain(msgspec.Struct, gc=False):
    """A count, rate or percentage, in the one unit that AIPerf has for it."""

    value: float | None = None


class _Metrics(msgspec.Struct, gc=False):
    """The columns. One more line here is one more column."""

    time_to_first_token: _Time | None = None
    request_latency: _Time | None = None
    inter_token_latency: _Time | None = None
    output_token_throughput_per_user: _Plain | None = None
    output_sequence_length: _Plain | None = None
    osl_mismatch_diff_pct: _Plain | None = None


class _Metadata(msgspec.Struct, gc=False):
    benchmark_phase: str = "profiling"
    was_cancelled: bool = False
    context_overflow_skip: bool = False
    request_start_ns: int = 0
    credit_issued_ns: int | None = None


class _Row(msgspec.Struct, gc=False):
    metrics: _Metrics
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    error: ErrorRow | None = None


_FIELDS = msgspec.structs.fields(_Metrics)
_TIMES = frozenset(field.name for field in _FIELDS if field.type == _Time | None)
_GETTERS = {field.name: attrgetter(field.name) for field in _FIELDS}
_NO_LATENCY = ErrorRow(type="NoLatency", message="the row holds neither a latency nor an error")


class Rows:
    """Rows read so far: used ones as columns, the others counted by why they are set aside.

    ``columns`` have one value a used row, latencies in ms, NaN where the row lacks the metric, and
    ``queued_ms`` the time it waited in the client before it was sent.
    ``malformed`` are the first unreadable rows as ``file:line: reason``. ``guessed`` are the
    latencies that came without a unit.
    """

    def __init__(self, source: str, scrub: Scrub) -> None:
        self.source = source
        self.columns: dict[str, array[float]] = {tag: array("d") for tag in _GETTERS}
        self.started_ns: array[int] = array("q")
        self.queued_ms: array[float] = array("d")
        self.n_read = self.n_warmup = self.n_failed = self.n_cancelled = self.n_malformed = 0
        self.errors = ErrorCounter(scrub)
        self.warmup_errors = ErrorCounter(scrub)
        self.malformed: list[str] = []
        self.guessed: set[str] = set()
        self._decoder = msgspec.json.Decoder(_Row)

    @property
    def n_used(self) -> int:
        """Return the number of rows that the figures rest on."""
        return len(self.started_ns)

    @property
    def is_empty(self) -> bool:
        """Tell whether no row could be read."""
        return self.n_read == self.n_malformed

    def add_lines(self, lines: Sequence[bytes], n_before: int) -> None:
        """Add lines, of which ``n_before`` came before the first in the file."""
        try:
            rows = self._decoder.decode_lines(b"".join(lines))
        except _NOT_A_ROW:
            rows = []
        if len(rows) == len(lines):
            self.n_read += len(lines)
            self._add(rows)
            return
        for number, line in enumerate(lines, n_before + 1):  # one is malformed, blank or double
            if line.strip():
                self.add_one(line, f"{self.source}:{number}")

    def add_one(self, text: bytes, where: str) -> None:
        """Add one row, or count it as malformed and say why."""
        self.n_read += 1
        try:
            row = self._decode(text)
        except _NOT_A_ROW as error:
            self.reject(where, error)
        else:
            self._add([row])

    def reject(self, where: str, error: Exception) -> None:
        """Count a row as malformed; the first few are named."""
        self.n_malformed += 1
        if len(self.malformed) < _KEPT_MALFORMED:
            self.malformed.append(f"{where}: {one_line(str(error))}")

    def _decode(self, text: bytes) -> _Row:
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError:
            loose = _loose_row(text)
            if loose is None:
                raise
            return loose

    def _add(self, rows: Sequence[_Row]) -> None:
        used = [row for row in rows if _is_used(row)]
        if len(used) < len(rows):
            for row in rows:
                if not _is_used(row):
                    self._set_aside(row)
        metrics = [row.metrics for row in used]
        for tag, column in self.columns.items():
            values = map(_GETTERS[tag], metrics)
            column.extend(self._times(tag, values) if tag in _TIMES else _plains(values))
        metadata = [row.metadata for row in used]
        self.started_ns.extend([data.request_start_ns for data in metadata])
        self.queued_ms.extend(
            [
                math.nan
                if data.credit_issued_ns is None
                else (data.request_start_ns - data.credit_issued_ns) / _NS_PER_MS
                for data in metadata
            ]
        )

    def _times(self, tag: str, times: Iterator[_Time | None]) -> list[float]:
        # Nearly every value is there and in ms: testing for that here saves a call a value.
        return [
            time.value
            if time is not None and time.unit == "ms" and time.value is not None
            else self._other_time(tag, time)
            for time in times
        ]

    def _other_time(self, tag: str, time: _Time | None) -> float:
        if time is None or time.value is None:
            return math.nan
        if not time.unit:
            self.guessed.add(tag)
        return in_ms(time.value, time.unit)

    def _set_aside(self, row: _Row) -> None:
        if row.metadata.benchmark_phase == "warmup":
            self.n_warmup += 1
            if row.error is not None:
                self.warmup_errors.add(row.error)
        elif _is_cancelled(row):
            self.n_cancelled += 1
        else:
            self.n_failed += 1
            self.errors.add(row.error or _NO_LATENCY)


def read_lines(path: Path, scrub: Scrub) -> Rows:
    """Read a JSONL file; OSError if it cannot be opened."""
    rows = Rows(path.name, scrub)
    n_lines = 0
    with path.open("rb", buffering=_BLOCK_BYTES) as file:
        while lines := file.readlines(_BLOCK_BYTES):
            rows.add_lines(lines, n_lines)
            n_lines += len(lines)
    return rows


def read_array(path: Path, scrub: Scrub) -> Rows:
    """Read a file that holds one JSON array of rows; OSError if it cannot be opened."""
    rows = Rows(path.name, scrub)
    try:
        items = msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
    except _NOT_A_ROW as error:
        rows.n_read = 1
        rows.reject(path.name, error)
        return rows
    for number, item in enumerate(items, 1):
        rows.add_one(bytes(item), f"{path.name}: item {number}")
    return rows


def _is_used(row: _Row) -> bool:
    metadata, latency = row.metadata, row.metrics.request_latency
    return (
        row.error is None
        and metadata.benchmark_phase != "warmup"
        and not metadata.was_cancelled
        and not metadata.context_overflow_skip
        and latency is not None
        and latency.value is not None
    )


def _is_cancelled(row: _Row) -> bool:
    """Tell whether the client gave the request up, as planned or because the run was stopped."""
    given_up = row.metadata.was_cancelled or row.metadata.context_overflow_skip
    return given_up or (row.error is not None and row.error.code == _CANCELLED)


def _plains(values: Iterator[_Plain | None]) -> list[float]:
    return [math.nan if v is None or v.value is None else v.value for v in values]


def _loose_row(text: bytes) -> _Row | None:
    """Read a legacy row, with bare numbers for metrics, beside the metadata or under ``metrics``.

    None if it is no such row; ValueError if it is one with wrong values.
    """
    document = msgspec.json.decode(text)
    metrics = document.get("metrics", document) if isinstance(document, dict) else None
    if not isinstance(metrics, dict) or not any(_is_number(metrics.get(tag)) for tag in _GETTERS):
        return None
    bare = {tag: metrics[tag] for tag in _GETTERS if tag in metrics}
    error = document.get("error")
    row = {
        "metrics": {tag: {"value": v} if _is_number(v) else v for tag, v in bare.items()},
        "metadata": document.get("metadata", document),
        "error": {"message": error} if isinstance(error, str) else error,
    }
    return msgspec.convert(row, _Row)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
