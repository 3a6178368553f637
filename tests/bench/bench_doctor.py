"""How long `make doctor` takes against a healthy server, its own start included: the median.

Usage: bench_doctor.py [TIMES]    TIMES: 5 by default
Goal: at most 3 s. The server is the simulator with its usual delays; every check must be well.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.servers import simulator

ROOT = Path(__file__).resolve().parents[2]
GOAL_S = 3.0


def main(times: int) -> None:
    """Run it so many times and print the median."""
    with simulator() as server, tempfile.TemporaryDirectory() as folder:
        env = environment(Path(folder), server.url)
        taken_s = [doctor_s(env) for _ in range(times)]
    print(
        f"make doctor: median of {times} runs {statistics.median(taken_s):.2f} s, "
        f"slowest {max(taken_s):.2f} s (goal: at most {GOAL_S:g} s)"
    )


def environment(folder: Path, url: str) -> dict[str, str]:
    """Return an environment with nothing of one's own settings."""
    (folder / ".env").touch()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "ENV_FILE": str(folder / ".env"), "MODEL": "simulated", "AIPERF_URL": url}


def doctor_s(env: dict[str, str]) -> float:
    """Return the wall time of one run (s); CalledProcessError if a check fails."""
    started_s = time.perf_counter()
    subprocess.run(
        ["make", "-s", "-C", str(ROOT), "doctor"], env=env, capture_output=True, check=True
    )
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
