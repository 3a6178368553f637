"""Small exports in AIPerf's form, for tests that need a certain row."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.settings import Settings
from harness.terms import limits_of

Json = dict[str, object]
Line = Json | str | bytes

ROWS = "profile_export.jsonl"
AGGREGATE = "profile_export_aiperf.json"
PHASES = "phase_manifest.json"
GOLDEN = Path(__file__).parent / "golden"
#: What a run is held to unless a person says otherwise.
LIMITS = limits_of(Settings(model="any"))


def used(ttft_ms: float = 20.0, latency_ms: float = 60.0, unit: str | None = "ms") -> Json:
    """Return a row of a request that succeeded; ``unit`` None leaves the units out."""
    times = {
        "time_to_first_token": ttft_ms,
        "request_latency": latency_ms,
        "inter_token_latency": (latency_ms - ttft_ms) / 9,
    }
    mark = {} if unit is None else {"unit": unit}
    metrics: Json = {tag: {"value": value, **mark} for tag, value in times.items()}
    metrics["output_sequence_length"] = {"value": 10, "unit": "tokens"}
    metadata = {"benchmark_phase": "profiling", "request_start_ns": 1_700_000_000_000_000_000}
    return {"metadata": metadata, "metrics": metrics}


def warmup() -> Json:
    """Return a warm-up row."""
    return used() | {"metadata": {"benchmark_phase": "warmup"}}


def failed(code: int | None = 500, message: str = "boom", phase: str = "profiling") -> Json:
    """Return a row of a request that failed: it has no latency."""
    error = {"type": "Server Error", "message": message} | ({} if code is None else {"code": code})
    return {"metadata": {"benchmark_phase": phase}, "metrics": {}, "error": error}


def timed(start_ms: float, latency_ms: float, queued_ms: float = 1.0) -> Json:
    """Return a row of a request that started so long after the run."""
    row = used(min(20.0, latency_ms / 2), latency_ms)
    start_ns = 1_700_000_000_000_000_000 + int(start_ms * 1e6)
    issued_ns = start_ns - int(queued_ms * 1e6)
    return row | {"metadata": {"benchmark_phase": "profiling", "request_start_ns": start_ns,
                               "credit_issued_ns": issued_ns}}  # fmt: skip


def closed_loop(latencies_ms: Iterable[float], n_users: int, pause_ms: float = 1.0) -> list[Json]:
    """Return rows of users who each send the next request a pause after an answer."""
    free_ms = [0.0] * n_users
    rows = []
    for latency_ms in latencies_ms:
        start_ms = heapq.heappop(free_ms)
        heapq.heappush(free_ms, start_ms + latency_ms + pause_ms)
        rows.append(timed(start_ms, latency_ms))
    return rows


def write_load(
    folder: Path,
    rows: Sequence[Json],
    concurrency: int | None,
    kind: str = "concurrency",
    **more: Any,
) -> Path:
    """Write the rows of a run that reached its end, and AIPerf's aggregate with what it asked."""
    phase = {"kind": "profiling", "type": kind, "concurrency": concurrency}
    write_aggregate(folder=write_rows(folder, rows), n_used=len(rows),
                    input_config={"phases": [phase]}, **more)  # fmt: skip
    return folder


def cancelled() -> Json:
    """Return a row of a request that the client gave up."""
    row = failed(499, "Request cancelled")
    return row | {"metadata": {"benchmark_phase": "profiling", "was_cancelled": True}}


def write_rows(folder: Path, lines: Sequence[Line], name: str = ROWS) -> Path:
    """Write a JSONL export; text and bytes are written as they are. Return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"".join(_encoded(line) + b"\n" for line in lines))
    return folder


def write_aggregate(folder: Path, n_used: int, n_failed: int = 0, **more: object) -> None:
    """Write AIPerf's aggregate of a run that reached its end, with further keys."""
    counts: Json = {"request_count": {"unit": "requests", "avg": float(n_used)}}
    if n_failed:
        counts["error_request_count"] = {"unit": "requests", "avg": float(n_failed)}
    state = {"was_cancelled": False, "is_complete": True}
    (folder / AGGREGATE).write_text(json.dumps({**counts, **state, **more}), encoding="utf-8")


def write_phases(folder: Path, n_requests: int, length_s: float = 1.0) -> None:
    """Write AIPerf's list of phases, of a run without warm-up."""
    phase = {"phase_kind": "profiling", "start_ns": 0, "end_ns": int(length_s * 1e9)}
    phases = [phase | {"total_request_count": n_requests}]
    (folder / PHASES).write_text(json.dumps({"phases": phases}), encoding="utf-8")


def _encoded(line: Line) -> bytes:
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()
