"""What a sweep costs: resumed when complete, and a cell over bare AIPerf.

Usage: bench_sweep.py [ROUNDS]    ROUNDS: 3 by default
A sweep of five cells against the simulator, and the same five loads by bare `aiperf profile`, both
in turn; then the complete sweep again. Exit: 0 when the median ratio of a round's times is at most
1.06 and the slowest resume takes less than 2 s, else 1.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.errors import Exit
from tests.bench.bench_profile import environment, timed_s
from tests.servers import simulator

ROOT = Path(__file__).resolve().parents[2]
VERB = ROOT / "scripts" / "run_profile.py"
#: Five cells, each four rounds of answers long: about four seconds beside AIPerf's own start.
LOAD = {"SWEEP_CONCURRENCIES": "1,2,5,10,20", "REQUEST_COUNT": "", "CONCURRENCY": ""}
MOST_RATIO = 1.06
MOST_RESUME_S = 2.0


def main(n_rounds: int) -> int:
    """Run the rounds and print medians, ratio and the resumes' times."""
    ratios: list[float] = []
    resumes_s: list[float] = []
    with simulator("--model", "sim", "--ttft-ms", "50", "--itl-ms", "10") as server:
        for number in range(1, n_rounds + 1):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                env = environment(folder, server.url) | LOAD
                pair = (sweep_s, bare_s) if number % 2 else (bare_s, sweep_s)
                taken = {measure.__name__: measure(env, folder) for measure in pair}
                resumes_s.append(sweep_s(env, folder))
            ratios.append(taken["sweep_s"] / taken["bare_s"])
            print(
                f"round {number}: sweep {taken['sweep_s']:.2f} s, bare {taken['bare_s']:.2f} s, "
                f"ratio {ratios[-1]:.3f}, resumed {resumes_s[-1]:.2f} s"
            )
    ratio, resume_s = statistics.median(ratios), max(resumes_s)
    print(f"median ratio of a cell: {ratio:.3f} (goal: at most {MOST_RATIO})")
    print(f"slowest resume of 5 cells: {resume_s:.2f} s (goal: under {MOST_RESUME_S:g} s)")
    return Exit.DONE if ratio <= MOST_RATIO and resume_s < MOST_RESUME_S else Exit.LIMIT


def sweep_s(env: dict[str, str], _: Path) -> float:
    """Return the wall time of the whole sweep, in seconds."""
    return timed_s([sys.executable, str(VERB), "sweep"], env)


def bare_s(env: dict[str, str], folder: Path) -> float:
    """Return the wall time of the commands that DRY_RUN=1 prints, typed into a shell."""
    env = {**env, "ARTIFACTS_DIR": str(folder / "bare")}
    script = subprocess.run(
        [sys.executable, str(VERB), "sweep"],
        env={**env, "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path = f"{Path(sys.executable).parent}:{env['PATH']}"
    return timed_s(["bash", "-euc", f"cd {folder}\n{script}"], {**env, "PATH": path})


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
