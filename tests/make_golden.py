"""Rewrite tests/golden: real AIPerf runs against the simulator, and the tables made from them.

    python tests/make_golden.py [--tables] [CASE …]

``--tables`` keeps the exports and rewrites only what the harness makes of them: look at the
difference before you commit it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import summarize_export
from harness.tokenizer import offline_files
from tests.servers import simulator

REPOSITORY = Path(__file__).resolve().parent.parent

GOLDEN = REPOSITORY / "tests" / "golden"
EXPORTS = ("profile_export.jsonl", "profile_export_aiperf.json", "phase_manifest.json")
_LIMIT_S = 180.0


@dataclass(frozen=True, slots=True)
class Case:
    """One golden run: how the server behaves, what AIPerf is told, when it is interrupted."""

    server: tuple[str, ...]
    load: tuple[str, ...]
    interrupt_after_rows: int | None = None
    n_tokens: int = 10


_DELAYS = ("--ttft-ms", "lognormal:20,0.4", "--itl-ms", "normal:4,1")
CASES: Mapping[str, Case] = {
    "clean": Case(_DELAYS, ("--request-count", "24")),
    "warmup": Case(_DELAYS, ("--request-count", "20", "--warmup-request-count", "8")),
    # AIPerf lists its phases only where there is a warm-up: the oracle for throughputs needs it
    "failed": Case(
        (*_DELAYS, "--fail-share", "0.3", "--after-requests", "4"),
        ("--request-count", "30", "--warmup-request-count", "4"),
    ),
    "all_failed": Case(("--fail-share", "1"), ("--request-count", "6")),
    "cancelled": Case(
        ("--ttft-ms", "200", "--itl-ms", "20"),
        ("--request-count", "400", "--warmup-request-count", "4"),
        interrupt_after_rows=12,
    ),
    "given_up": Case(
        ("--ttft-ms", "normal:60,20", "--itl-ms", "4"),
        (
            "--request-count",
            "24",
            "--request-cancellation-rate",
            "40",
            "--request-cancellation-delay",
            "0.08",
        ),
    ),
    "one_piece": Case(("--ttft-ms", "20", "--burst"), ("--request-count", "24")),
    # the last of 50 tokens comes a little after the others: microseconds between tokens
    "burst": Case(
        ("--ttft-ms", "20", "--itl-ms", "0", "--crawl-after", "50", "--crawl-ms", "0.1"),
        ("--request-count", "24"),
        n_tokens=50,
    ),
}


def main() -> None:
    """Rewrite the cases named on the command line, or all."""
    words = sys.argv[1:]
    for name in [word for word in words if word != "--tables"] or CASES:
        if "--tables" not in words:
            make_export(CASES[name], GOLDEN / name)
        write_tables(GOLDEN / name)
        sys.stdout.write(f"{name}: written\n")


def make_export(case: Case, target: Path) -> None:
    """Run AIPerf in a temporary folder and keep the files that the harness reads."""
    with tempfile.TemporaryDirectory() as scratch, simulator(*case.server) as server:
        _run_aiperf(case, server.url, Path(scratch))
        target.mkdir(parents=True, exist_ok=True)
        for name in EXPORTS:
            (target / name).unlink(missing_ok=True)
            made = Path(scratch, "run", name)
            if made.exists():
                shutil.copyfile(made, target / name)


def write_tables(folder: Path) -> None:
    """Rewrite the summary.tsv, summary.md and terminal text of a golden run."""
    with (folder / "stdout.txt").open("w", encoding="utf-8") as out:
        summarize_export.main([str(folder), "--output-dir", str(folder)], out, sys.stderr)


def _run_aiperf(case: Case, url: str, scratch: Path) -> None:
    command = [
        sys.executable, "-m", "aiperf", "profile", "-m", "simulated", "--url", url,
        "--endpoint-type", "chat", "--streaming", "--ui-type", "none", "--concurrency", "4",
        "--synthetic-input-tokens-mean", "20", "--output-tokens-mean", str(case.n_tokens),
        "--tokenizer", "builtin", "--extra-inputs", "ignore_eos:true", "--random-seed", "7",
        "--artifact-dir", "run", *case.load,
    ]  # fmt: skip
    environ = {**os.environ, "TIKTOKEN_CACHE_DIR": str(offline_files())}
    log = scratch / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=scratch, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            if case.interrupt_after_rows is not None:
                _interrupt(child, scratch / "run" / EXPORTS[0], case.interrupt_after_rows)
            child.wait(_LIMIT_S)
        finally:
            child.kill()
    if not (scratch / "run" / EXPORTS[0]).exists():
        raise RuntimeError(f"AIPerf wrote no rows: {log.read_text()[-2000:]}")


def _interrupt(child: subprocess.Popen[bytes], rows: Path, n_rows: int) -> None:
    deadline_s = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline_s and child.poll() is None:
        if rows.exists() and rows.read_bytes().count(b"\n") >= n_rows:
            child.send_signal(signal.SIGINT)
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
