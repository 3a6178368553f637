"""Find what this machine's client adds to the figures, and the load that is too much for it.

    python scripts/calibrate.py [--levels 1,10,50,100,200,400] [--output-tokens 64]

Runs AIPerf against the simulator, whose log tells when each answer was really written, at rising
concurrency, up to the first level at which the client itself is the limit. The result is kept for
this machine as artifacts/calibration/<machine>.json, the runs beside it; an earlier one is
archived. Later runs at more than 80 % of the limit are told as client-bound, and each states the
client's own share of its TTFT. Follows no setting but ARTIFACTS_DIR and AIPerf's time-outs.
The table goes to standard output, everything else to standard error.
Exit: 0 done, 2 usage or configuration, 3 AIPerf or the simulator failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from harness import settings as configuration
from harness.calibration import DEFINITION, Calibration, Delays, Rung, save
from harness.calibration_steps import about_s, calibrate
from harness.cli import Arguments, argument, run_verb, talker
from harness.errors import Exit
from harness.kinds import Listed, Whole
from harness.runs import lock
from harness.table import Column, Table, number, to_text

_LEVELS = "1,10,50,100,200,400"
_STAND_INS = {"MODEL": "any", "AIPERF_URL": "http://localhost", "INPUT_FILE": ""}
_HEADINGS = (
    "users",
    "req/s",
    "possible",
    "achieved",
    "chunks/s",
    "TTFT + p50",
    "+ p99 ms",
    "ITL + p50",
    "+ p99 ms",
)


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Calibrate this machine."""
    options = _options(argv)
    talk = talker(err)
    levels = sorted(options.levels)
    delays = Delays(n_tokens=options.output_tokens)
    own = configuration.from_environment({**os.environ, **_STAND_INS})
    at_most = f"{', '.join(map(str, levels))} users: about {about_s(levels, delays)} s at most"
    if configuration.is_on(os.environ, "DRY_RUN"):
        talk(f"{at_most}; nothing is run")
        return Exit.DONE
    artifacts = Path(own.artifacts_dir)
    with lock(artifacts, "calibration", "wait for it: two would measure each other"):
        talk(f"{at_most}; leave the machine alone")
        found = calibrate(levels, delays, own, os.environ, talk)
        path = save(found, artifacts)
    out.write(_text(found))
    talk(f"Files: {path}, the runs and their truth logs beside it")
    return Exit.DONE


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(prog="calibrate.py", allow_abbrev=False, description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    levels = argument(Listed(Whole(1), "whole numbers, 1 or more"))
    parser.add_argument("--levels", type=levels, default=_LEVELS, metavar="N,N,…")
    tokens = argument(Whole(2))
    parser.add_argument("--output-tokens", type=tokens, default=Delays().n_tokens, metavar="N")
    return parser.parse_args(argv)


def _text(found: Calibration) -> str:
    columns = tuple(Column(heading) for heading in _HEADINGS)
    table = to_text(Table(columns, tuple(_row(rung) for rung in found.rungs)))
    delays, machine = found.delays, found.machine
    return (
        f"{machine.cpu}, {machine.n_cpus} CPUs, AIPerf {found.aiperf}: {delays.n_tokens} tokens a "
        f"request, TTFT {delays.ttft_ms:g} ms, ITL {delays.itl_ms:g} ms; + is measured minus true\n"
        f"\n{table}\n{_verdict(found)}\n{DEFINITION}\n"
        "The simulator shares the machine's cores with AIPerf, so that this is a lower bound.\n"
    )


def _row(rung: Rung) -> tuple[str, ...]:
    errors = (rung.ttft.p50_ms, rung.ttft.p99_ms)
    return (
        str(rung.concurrency),
        number(rung.requests_per_s, 1),
        number(rung.possible_requests_per_s, 1),
        f"{rung.achieved:.0%}",
        number(rung.chunks_per_s, 0),
        *(number(figure, 1) for figure in errors),
        *(number(figure, 2) for figure in (rung.itl.p50_ms, rung.itl.p99_ms)),
    )


def _verdict(found: Calibration) -> str:
    held = [rung for rung in found.rungs if not rung.excess]
    upto = f"The client keeps up to {held[-1].concurrency} users" if held else "It never keeps up"
    if found.limit is None:
        return f"{upto}, the most that was tried: its limit is not known, and no run is held to it."
    return f"{upto} and is itself the limit at {found.limit.concurrency}: {found.limit.why}."


if __name__ == "__main__":
    run_verb(main)
