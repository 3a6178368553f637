"""Simulated endpoints for process tests: started on a free port, always stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.simulator.truth import Truth, read_truth

REPOSITORY = Path(__file__).parent.parent
KEY_VARIABLE = "SIMULATOR_KEY"
_START_S = 60.0  # busy machines import slowly
_STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator. ``truth`` is its truth log, ``log`` all that it printed."""

    url: str
    truth: Path
    log: Path
    process: subprocess.Popen[bytes]

    def truths(self, at_least: int = 0) -> list[Truth]:
        """Return the truth log's rows, waiting a while for ``at_least`` of them.

        A client can have its answer a moment before the server logs it.
        """
        deadline_s = time.monotonic() + _STOP_S
        rows = read_truth(self.truth)
        while len(rows) < at_least and time.monotonic() < deadline_s:
            time.sleep(0.02)
            rows = read_truth(self.truth)
        return rows


@contextmanager
def simulator(*args: str, key: str | None = None) -> Iterator[Simulator]:
    """Run scripts/simulate_endpoint.py with ``args`` on a free port; ``key`` makes it require one.

    The port is chosen by the system unless ``args`` name one.
    """
    with tempfile.TemporaryDirectory(prefix="simulator-") as folder:
        log, truth = Path(folder, "log"), Path(folder, "truth.jsonl")
        process = _start(["--truth-log", str(truth), *args], key, log)
        try:
            yield Simulator(_url(process, log), truth, log, process)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Stop a server process, kindly at first; return its exit status."""
    process.terminate()
    try:
        return process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _start(args: list[str], key: str | None, log: Path) -> subprocess.Popen[bytes]:
    environ: Mapping[str, str] = os.environ
    if key is not None:
        args = ["--require-key-env", KEY_VARIABLE, *args]
        environ = {**os.environ, KEY_VARIABLE: key}
    script = REPOSITORY / "scripts" / "simulate_endpoint.py"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, str(script), *args],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
        )


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        text = log.read_text()
        for line in text.splitlines(keepends=True):
            if line.startswith("listening on ") and line.endswith("\n"):
                return line.split()[-1]
        if process.poll() is not None:
            raise RuntimeError(f"the simulator ended with {process.returncode}: {text}")
        time.sleep(0.02)
    raise RuntimeError(f"the simulator did not listen within {_START_S:g} s")
