"""Measure a small real language model on this machine: from nothing to the table.

    python scripts/demo.py [--requests N] [--output-tokens N] [--artifacts DIR]

Serves SmolLM2-135M-Instruct (the simulator, where that cannot be), then runs the verbs smoke,
warm-up and profile against it. Needs no .env, no key and no network, follows no setting, and stops
its server however it ends. The table goes to standard output, everything else to standard error.
Exit: 0 done, 1 the result is INVALID, 2 usage, 3 the server or AIPerf failed, 4 data,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from harness.cli import Arguments, argument, run_verb
from harness.demo_server import MODEL, usable_cpus
from harness.demo_steps import (
    ROOT,
    Load,
    demo_server,
    left_aside,
    own_environment,
    run_folder,
    run_step,
    steps,
)
from harness.errors import Exit
from harness.kinds import Whole
from harness.provenance import cpu_name

Say = Callable[[str], None]


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Run the demo."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends all as Ctrl-C does
    started_s = time.monotonic()

    def say(line: str) -> None:
        err.write(line + "\n")
        err.flush()

    if aside := left_aside(os.environ):
        say(f"note: the demo has its own settings; not followed: {', '.join(aside)}")
    load = Load(n_requests=options.requests, output_tokens=options.output_tokens)
    own = own_environment(os.environ) | load.settings() | {"ARTIFACTS_DIR": str(options.artifacts)}
    say("[1/4] model: a server of its own on this machine (a few seconds)")
    with demo_server(own) as server:
        status = _run_steps(own | server, say)
    if status not in (Exit.DONE, Exit.LIMIT):
        return status
    out.write(_closing(own | server))
    out.flush()
    say(f"The demo took {time.monotonic() - started_s:.0f} s; its server is stopped.")
    return status


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(prog="demo.py", allow_abbrev=False, description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    usual = Load()
    n_requests, n_tokens = argument(Whole(usual.n_users)), argument(Whole(2))
    parser.add_argument("--requests", type=n_requests, default=usual.n_requests)
    parser.add_argument("--output-tokens", type=n_tokens, default=usual.output_tokens)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    return parser.parse_args(argv)


def _run_steps(environ: Mapping[str, str], say: Say) -> int:
    """Run each step; return the exit status of the first that fails, else of the last."""
    status = 0
    for number, step in enumerate(steps(), start=2):
        say(f"\n[{number}/4] {step.title} (about {step.about_s} s)")
        status = run_step(step, environ)
        if status != 0:
            break
    if status < 0:  # ended by a signal
        status = Exit.ENDPOINT
    if status not in (Exit.DONE, Exit.LIMIT):
        say(f"The demo ends here, with exit status {status}; its server is stopped.")
    return status


def _closing(environ: Mapping[str, str]) -> str:
    """Say what the figures are of, where they are, and what comes next."""
    if environ["MODEL"] == MODEL:
        cores = f"{usable_cpus()} cores of {cpu_name()}"
        what = f"{MODEL}, by llama.cpp on this machine's CPU ({cores}), which AIPerf shares"
    else:
        what = "the simulator: delays that were set (TTFT 20 ms, ITL 5 ms), no model"
    folder = run_folder(environ)
    first = "" if (ROOT / ".env").exists() else "cp .env.example .env, set MODEL and AIPERF_URL, "
    return (
        f"\nMeasured  {what}\n"
        f"Files     {folder}/ (summary.tsv to paste, summary.md to read)\n"
        f"Next      your own server: {first}make smoke, make profile\n"
    )


if __name__ == "__main__":
    run_verb(main)
