"""What `make profile` costs over the same bare `aiperf profile`: medians of alternating pairs.

Usage: bench_profile.py [PAIRS]    PAIRS: 5 by default
Goal: median ratio of wall times at most 1.06. The load is 10 users, 100 requests of 100 tokens,
against the simulator: about ten seconds beside AIPerf's own start.
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
LOAD = {
    "MODEL": "sim",
    "CONCURRENCY": "10",
    "REQUEST_COUNT": "100",
    "OUTPUT_TOKENS_MEAN": "100",
    "TOKENIZER": "builtin",
    "RANDOM_SEED": "1",
    "UI_TYPE": "none",
}


def main(pairs: int) -> None:
    """Run both alternately and print the medians and their ratio."""
    with (
        simulator("--model", "sim", "--ttft-ms", "50", "--itl-ms", "10") as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        env = environment(Path(folder), server.url)
        ours: list[float] = []
        bare: list[float] = []
        for number in range(1, pairs + 1):
            both = [(ours, profile_s), (bare, bare_s)]
            for times, measure in both if number % 2 else reversed(both):
                times.append(measure(env, Path(folder)))
            print(f"pair {number}: make profile {ours[-1]:.2f} s, aiperf profile {bare[-1]:.2f} s")
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    print(
        f"median: make profile {statistics.median(ours):.2f} s, "
        f"aiperf profile {statistics.median(bare):.2f} s, "
        f"ratio {statistics.median(ratios):.3f} (goal: at most 1.06)"
    )


def environment(folder: Path, url: str) -> dict[str, str]:
    """Return an environment with the load and nothing of one's own settings."""
    (folder / ".env").touch()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    places = {"ENV_FILE": str(folder / ".env"), "ARTIFACTS_DIR": str(folder / "artifacts")}
    return {**kept, **places, **LOAD, "AIPERF_URL": url}


def profile_s(env: dict[str, str], _: Path) -> float:
    """Return the wall time of `make profile`, in seconds."""
    return timed_s(["make", "-s", "-C", str(ROOT), "profile"], env)


def bare_s(env: dict[str, str], folder: Path) -> float:
    """Return the wall time of the command that DRY_RUN=1 prints, typed into a shell."""
    script = subprocess.run(
        ["make", "-s", "-C", str(ROOT), "profile"],
        env={**env, "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path = f"{Path(sys.executable).parent}:{env['PATH']}"
    return timed_s(["bash", "-euc", f"cd {folder}\n{script}"], {**env, "PATH": path})


def timed_s(command: list[str], env: dict[str, str]) -> float:
    """Run a command quietly and return its wall time in seconds; CalledProcessError if it fails."""
    started_s = time.perf_counter()
    subprocess.run(command, env=env, capture_output=True, check=True)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
