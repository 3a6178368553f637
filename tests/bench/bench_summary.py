"""What the summary of a large export costs, beside loops that do less.

    python tests/bench/bench_summary.py [--rows 200000]

Generates exports of a tenth of ROWS and of ROWS (a real row with jittered figures, about 3.4 KB
each) in a temporary folder and reads them with each reader, alternating, each in its own process:
a bare msgspec loop and a bare orjson loop that only collect the six metrics, DuckDB computing the
same quantiles (if installed), and the harness (rows to Summary). Prints medians of three. Exits 1
where the harness takes more than 1.3 × the msgspec loop or 200 MB, or memory per row grows.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from harness.cli import run_verb
from harness.errors import Exit
from harness.table import Column, Table, to_text

ROOT = Path(__file__).resolve().parents[2]

SIX = ("time_to_first_token", "request_latency", "inter_token_latency",
       "output_token_throughput_per_user", "osl_mismatch_diff_pct",
       "output_sequence_length")  # fmt: skip
_AGGREGATE = "profile_export_aiperf.json"
_STEP_NS = 15_000_000
_ROW_BYTES = 3400
_MAX_RATIO = 1.3
_MAX_MB = 200.0
_N_REPEATS = 3
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Cost:
    """What one reader took for one export: wall time of the reading, peak memory of its process.

    ``idle_mb`` is the memory that the process had before it read anything.
    """

    seconds: float
    peak_mb: float
    idle_mb: float


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Measure, print the table, and say whether the limits are kept."""
    parser = argparse.ArgumentParser(description="What the summary of a large export costs.")
    parser.add_argument("--rows", type=int, default=200_000, help="the limits are for 200000")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.reader:
        out.write(json.dumps(_in_this_process(options.reader, options.folder)))
        return Exit.DONE
    return _compare(options.rows, out, err)


def read_msgspec(folder: Path) -> None:
    """Collect the six metrics with typed structs, a line at a time."""
    import msgspec

    value = msgspec.defstruct("Value", [("value", float)], gc=False)
    metrics = msgspec.defstruct("Metrics", [(tag, value) for tag in SIX], gc=False)
    row = msgspec.defstruct("Row", [("metrics", metrics)], gc=False)
    decode = msgspec.json.Decoder(row).decode
    columns = [array("d") for _ in SIX]
    a, b, c, d, e, f = (column.append for column in columns)
    with (folder / "profile_export.jsonl").open("rb") as lines:
        for line in lines:
            m = decode(line).metrics  # type: ignore[attr-defined]
            a(m.time_to_first_token.value)
            b(m.request_latency.value)
            c(m.inter_token_latency.value)
            d(m.output_token_throughput_per_user.value)
            e(m.osl_mismatch_diff_pct.value)
            f(m.output_sequence_length.value)


def read_orjson(folder: Path) -> None:
    """Collect the six metrics from whole dicts."""
    loads = importlib.import_module("orjson").loads
    columns = [array("d") for _ in SIX]
    with (folder / "profile_export.jsonl").open("rb") as lines:
        for line in lines:
            metrics = loads(line)["metrics"]
            for column, tag in zip(columns, SIX, strict=True):
                column.append(metrics[tag]["value"])


def read_duckdb(folder: Path) -> None:
    """Let DuckDB compute three quantiles and the mean of three metrics, on all cores."""
    sql = importlib.import_module("duckdb").sql
    paths = [f"metrics.{tag}.value" for tag in SIX[:3]]
    asked = ", ".join(f"quantile_cont({p}, [0.5, 0.95, 0.99]), avg({p})" for p in paths)
    metrics = ", ".join(f"{tag} STRUCT(value DOUBLE)" for tag in SIX)
    source = f"read_json('{folder}/profile_export.jsonl', format='newline_delimited', columns="
    sql(f"SELECT {asked} FROM {source}{{metrics: 'STRUCT({metrics})'}})").fetchall()


def read_harness(folder: Path) -> None:
    """Read and sum up as `make summary` does."""
    from harness.records import read_run
    from harness.summary import summarize

    summarize(read_run(folder))


READERS: Mapping[str, Callable[[Path], None]] = {
    "msgspec": read_msgspec,
    "harness": read_harness,
    "orjson": read_orjson,
    "duckdb": read_duckdb,
}


def _in_this_process(reader: str, folder: Path) -> dict[str, float]:
    idle_mb = _peak_mb()
    start_s = time.perf_counter()
    READERS[reader](folder)
    return {
        "seconds": time.perf_counter() - start_s,
        "peak_mb": _peak_mb(),
        "idle_mb": idle_mb,
    }


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, else in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


def _compare(n_rows: int, out: TextIO, err: TextIO) -> int:
    readers = [reader for reader in READERS if importlib.util.find_spec(reader)]
    with tempfile.TemporaryDirectory(prefix="bench-summary-") as scratch:
        sizes = {n: Path(scratch, str(n)) for n in (n_rows // 10, n_rows)}
        costs: dict[tuple[str, int], Cost] = {}
        for n, folder in sizes.items():
            size_mb = _generate(folder, n) / _MB
            err.write(f"{n} rows, {size_mb:.0f} MB\n")
            costs |= {(reader, n): c for reader, c in _alternate(readers, folder, err).items()}
    out.write(to_text(_table(costs, readers, *sizes)))
    out.write("".join(f"{name}: not installed\n" for name in READERS if name not in readers))
    problems = _problems(costs, *sizes)
    out.write("".join(f"beyond the limit: {problem}\n" for problem in problems))
    return Exit.LIMIT if problems else Exit.DONE


def _generate(folder: Path, n_rows: int) -> int:
    """Write an export of ``n_rows`` rows like a real one; return its size in bytes.

    Requests start one after the other, each a little after AIPerf decided on it.
    """
    folder.mkdir()
    path = folder / "profile_export.jsonl"
    golden = ROOT / "tests" / "golden" / "clean"
    rng = random.Random(n_rows)
    times = rf'"(?:{"|".join(SIX[:4])})":{{"value":'
    moments = '"credit_issued_ns":|"request_start_ns":'
    pieces = re.split(rf"({times}|{moments})([\d.]+)", _real_row(golden / path.name))
    with path.open("w", encoding="utf-8") as file:
        for number in range(n_rows):
            row = list(pieces)
            for place in range(2, len(row), 3):
                if row[place - 1].endswith('_ns":'):
                    row[place] = str(int(row[place]) + number * _STEP_NS)
                else:
                    row[place] = repr(float(row[place]) * rng.uniform(0.5, 1.5))
            file.write("".join(row))
    aggregate = json.loads((golden / _AGGREGATE).read_text(encoding="utf-8"))
    aggregate["request_count"]["avg"] = float(n_rows)
    (folder / _AGGREGATE).write_text(json.dumps(aggregate), encoding="utf-8")
    return path.stat().st_size


def _real_row(golden: Path) -> str:
    """Return a real row with as many inter-chunk latencies as bring it to the usual length."""
    line = golden.read_text(encoding="utf-8").splitlines()[0] + "\n"
    more = max(0, _ROW_BYTES - len(line)) // len("24.112345,")
    padded = line.replace('"inter_chunk_latency":{"value":[', "\\g<0>" + "24.112345," * more)
    return padded.replace("\\g<0>", '"inter_chunk_latency":{"value":[')


def _alternate(readers: Sequence[str], folder: Path, err: TextIO) -> dict[str, Cost]:
    """Return each reader's median cost; readers take turns, so that drift of the machine cancels.

    The first round also warms the file cache and is not counted.
    """
    runs: dict[str, list[Cost]] = {reader: [] for reader in readers}
    _child("msgspec", folder)
    for _ in range(_N_REPEATS):
        for reader in readers:
            runs[reader].append(_child(reader, folder))
            err.write(".")
            err.flush()
    err.write("\n")
    return {reader: _median(costs) for reader, costs in runs.items()}


def _child(reader: str, folder: Path) -> Cost:
    command = [sys.executable, __file__, "--reader", reader, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(**json.loads(done.stdout))


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.peak_mb for cost in costs),
        statistics.median(cost.idle_mb for cost in costs),
    )


def _table(
    costs: Mapping[tuple[str, int], Cost], readers: Sequence[str], few: int, many: int
) -> Table:
    bare_s = costs["msgspec", many].seconds
    rows = []
    for reader in readers:
        cost = costs[reader, many]
        cells = (f"{cost.seconds:.2f}", f"{cost.seconds / bare_s:.2f}", f"{cost.peak_mb:.0f}")
        rows.append((reader, *cells, f"{_bytes_per_row(costs, reader, few, many):.0f}"))
    headings = (f"{many} rows: s", "ratio", "peak MB", "bytes/added row")
    return Table((Column("", "left"), *(Column(heading) for heading in headings)), tuple(rows))


def _bytes_per_row(
    costs: Mapping[tuple[str, int], Cost], reader: str, few: int, many: int
) -> float:
    """Return how much peak memory each further row costs, in bytes."""
    more_mb = costs[reader, many].peak_mb - costs[reader, few].peak_mb
    return more_mb * _MB / (many - few)


def _problems(costs: Mapping[tuple[str, int], Cost], few: int, many: int) -> list[str]:
    ours, bare = costs["harness", many], costs["msgspec", many]
    ratio = ours.seconds / bare.seconds
    added = _bytes_per_row(costs, "harness", few, many)
    at_first = (costs["harness", few].peak_mb - costs["harness", few].idle_mb) * _MB / few
    checks = (
        (ratio > _MAX_RATIO, f"{ratio:.2f} × the msgspec loop (limit {_MAX_RATIO})"),
        (ours.peak_mb > _MAX_MB, f"{ours.peak_mb:.0f} MB (limit {_MAX_MB:.0f})"),
        (added > at_first, f"{added:.0f} bytes an added row, {at_first:.0f} a row before"),
    )
    return [text for broken, text in checks if broken]


if __name__ == "__main__":
    run_verb(main)
