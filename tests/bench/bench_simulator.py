"""How far AIPerf's measured TTFT and ITL lie from the simulator's truth log.

    python tests/bench/bench_simulator.py [--concurrency 10] [--requests 200]

Runs real AIPerf against the simulator on this machine, matches its rows with the truth log by
request id, and prints both medians and their difference. Exits 1 beyond 5 ms (TTFT) or 1 ms (ITL).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec

from harness.cli import run_verb
from harness.errors import EngineError, Exit
from harness.simulator.truth import Truth
from harness.stats import quantile
from harness.table import Column, Table, number, to_text
from harness.tokenizer import offline_files
from tests.servers import simulator

ROOT = Path(__file__).resolve().parents[2]

_LIMIT_S = 300
_DELAYS = ("--ttft-ms", "normal:100,10", "--itl-ms", "normal:10,1")


class _Value(msgspec.Struct):
    value: float | list[float]


class _Metadata(msgspec.Struct):
    x_request_id: str
    benchmark_phase: str


class _Row(msgspec.Struct):
    metadata: _Metadata
    metrics: dict[str, _Value | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of the same requests, as AIPerf measured it and as it truly was (ms)."""

    title: str
    limit_ms: float
    measured_ms: tuple[float, ...]
    true_ms: tuple[float, ...]

    def difference_ms(self, q: float) -> float:
        """Return the measured quantile minus the true one."""
        return quantile(sorted(self.measured_ms), q) - quantile(sorted(self.true_ms), q)


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concurrency", type=int, default=10)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args(argv)
    comparisons = _measure(options.concurrency, options.requests)
    out.write(f"concurrency {options.concurrency}, {len(comparisons[0].true_ms)} requests\n")
    out.write(to_text(_table(comparisons)))
    good = all(abs(each.difference_ms(0.5)) <= each.limit_ms for each in comparisons)
    return Exit.DONE if good else Exit.LIMIT


def _measure(concurrency: int, n_requests: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory(prefix="b") as folder, simulator(*_DELAYS) as server:
        _run_aiperf(server.url, concurrency, n_requests, folder)
        truths = {truth.request_id: truth for truth in server.truths(n_requests)}
        return _compare(list(_rows(Path(folder))), truths)


def _run_aiperf(url: str, concurrency: int, n_requests: int, folder: str) -> None:
    argv = [sys.executable, "-m", "aiperf", "profile", "-m", "simulated", "--url", url]
    argv += ["--endpoint-type", "chat", "--streaming", "--ui-type", "none"]
    argv += ["--tokenizer", "builtin", "--synthetic-input-tokens-mean", "100"]
    argv += ["--output-tokens-mean", "100", "--concurrency", str(concurrency)]
    argv += ["--request-count", str(n_requests), "--warmup-request-count", str(concurrency)]
    argv += ["--random-seed", "1", "--artifact-dir", folder]
    data = offline_files()
    environ = {**os.environ, **({"TIKTOKEN_CACHE_DIR": str(data)} if data else {})}
    done = subprocess.run(argv, env=environ, capture_output=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        tail = done.stdout.decode(errors="replace")[-500:]
        raise EngineError("aiperf", f"ended with {done.returncode}: {tail}", "run it by hand")


def _rows(folder: Path) -> Iterator[_Row]:
    for line in (folder / "profile_export.jsonl").read_bytes().splitlines():
        row = msgspec.json.decode(line, type=_Row)
        if row.metadata.benchmark_phase == "profiling":
            yield row


def _compare(rows: Sequence[_Row], truths: Mapping[str | None, Truth]) -> list[Comparison]:
    true = [truths[row.metadata.x_request_id] for row in rows]
    return [
        Comparison(
            "TTFT",
            5.0,
            tuple(_value(row, "time_to_first_token") for row in rows),
            tuple(truth.ttft_ms for truth in true if truth.ttft_ms is not None),
        ),
        Comparison(
            "ITL",
            1.0,
            tuple(_value(row, "inter_token_latency") for row in rows),
            tuple(truth.itl_ms for truth in true if truth.itl_ms is not None),
        ),
    ]


def _value(row: _Row, tag: str) -> float:
    found = row.metrics.get(tag)
    if found is None or isinstance(found.value, list):
        raise EngineError("aiperf", f"a request has no {tag}", "look at the simulator's log")
    return found.value


def _table(comparisons: Sequence[Comparison]) -> Table:
    headings = ("measured p50", "true p50", "difference", "allowed", "difference at p99")
    columns = (Column("ms", "left"), *(Column(heading) for heading in headings))
    return Table(columns, tuple(_line(each) for each in comparisons))


def _line(each: Comparison) -> tuple[str, ...]:
    figures = (
        quantile(sorted(each.measured_ms), 0.5),
        quantile(sorted(each.true_ms), 0.5),
        each.difference_ms(0.5),
        each.limit_ms,
        each.difference_ms(0.99),
    )
    return (each.title, *(number(figure, 3) for figure in figures))


if __name__ == "__main__":
    run_verb(main)
