"""When each measured request of an export was answered, by the id that it was sent with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness.errors import DataError
from harness.export.units import Unit, in_ms


class _Time(msgspec.Struct):
    value: float
    unit: Unit = ""


class _Metrics(msgspec.Struct):
    time_to_first_token: _Time | None = None
    inter_token_latency: _Time | None = None


class _Metadata(msgspec.Struct):
    x_request_id: str
    benchmark_phase: str


class _Row(msgspec.Struct):
    metadata: _Metadata
    metrics: _Metrics


class Timing(msgspec.Struct, frozen=True):
    """One answered request, as AIPerf measured it; ``request_id`` is its X-Request-ID."""

    request_id: str
    ttft_ms: float
    itl_ms: float


def read_timings(path: Path) -> list[Timing]:
    """Return the measured requests of a ``profile_export.jsonl`` that have both latencies.

    Warm-up, failed requests and answers of one token are left out. Raises DataError if the file
    cannot be read.
    """
    try:
        rows = msgspec.json.Decoder(_Row).decode_lines(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "run it again") from None
    return [
        Timing(row.metadata.x_request_id, in_ms(ttft.value, ttft.unit), in_ms(itl.value, itl.unit))
        for row in rows
        if row.metadata.benchmark_phase != "warmup"
        and (ttft := row.metrics.time_to_first_token) is not None
        and (itl := row.metrics.inter_token_latency) is not None
    ]
