"""Sum up a run: print its table, write summary.tsv and summary.md.

    python scripts/summarize_export.py [RUN_DIR] [--output-dir DIR] [--max-error-rate PCT]

RUN_DIR is a run folder, the harness's or plain AIPerf's; by default the latest under artifacts/.
The table goes to stdout, everything else to stderr. Exit codes: 0 reported, also when the verdict
is INVALID; 2 wrong argument; 4 nothing usable in the folder.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from harness import settings as configuration
from harness import slo
from harness.calibration import finding_of, noted
from harness.cli import Arguments, argument, run_verb
from harness.errors import Exit, HarnessError
from harness.kinds import Number
from harness.records import read_run
from harness.render import MD, TSV, about_line, summary_text, write_summary
from harness.runs import latest, read_manifest
from harness.settings import Settings
from harness.streams import broken_streams
from harness.summary import summarize
from harness.terms import LIMIT_KEYS, asked_of, limits_of
from harness.texts import scrub
from harness.verdict import judge

_STAND_INS = {"MODEL": "any", "AIPERF_URL": "http://localhost"}


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Sum up the run that ``argv`` names, or the latest."""
    options = _parser().parse_args(argv)
    settings = _settings(err)
    run = options.run_dir or latest(Path(settings.artifacts_dir))
    err.write(f"summary of {run}\n")
    records = read_run(run, lambda text: scrub(text, settings.openai_api_key))
    manifest = read_manifest(run)
    found = finding_of(manifest)
    summary = noted(summarize(records), found)
    outranking = _outranking(options.max_error_rate, manifest, settings)
    limits = limits_of(settings, outranking)
    slos = slo.check(summary, slo.objectives(settings, outranking))
    more = (*broken_streams(run, summary, limits, manifest), *found.reasons)
    verdict = judge(summary, limits, asked_of(manifest, records.facts), more)
    about = about_line(run, records.facts)
    out.write(summary_text(summary, verdict, about, slos))  # first: the folder may not be writable
    write_summary(summary, verdict, about, options.output_dir, slos)
    err.write(f"written: {options.output_dir / TSV} (to paste), {options.output_dir / MD}\n")
    return Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="summarize_export.py",
        description="Print the table of a run and write it as summary.tsv and summary.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run_dir", nargs="?", type=Path, metavar="RUN_DIR", help="run folder (the latest)")
    add("--output-dir", type=Path, default=Path(), metavar="DIR", help="for the files (here)")
    typed = os.environ.get("MAX_ERROR_RATE") or None  # `make summary MAX_ERROR_RATE=5`
    limit_help = "larger shares of failed requests are INVALID (the run's own limit, else 1)"
    limit = argument(Number(0, 100))
    add("--max-error-rate", type=limit, default=typed, metavar="PCT", help=limit_help)
    return parser


def _settings(err: TextIO) -> Settings:
    """Return the settings; where they are wrong the defaults, with a note on ``err`` a problem.

    A model, a server and its key need not be set: a summary asks no server.
    """
    problems = []
    for environ in (os.environ, {**os.environ, **_STAND_INS}):
        try:
            return configuration.from_environment(environ)
        except HarnessError as error:
            problems = error.lines()
    for problem in problems:
        err.write(f"note: {problem}; defaults are used\n")
    return Settings(model="")


def _outranking(
    typed: float | None, manifest: Mapping[str, object], settings: Settings
) -> dict[str, object]:
    """Return the limits that outrank the settings': the run's own, and above those what is typed.

    Typed is the argument ``typed`` or, as `make summary MAX_DRIFT=50`, a variable of the
    environment.
    """
    of_run = manifest.get("settings")
    limits = dict(of_run) if isinstance(of_run, dict) else {}
    keys = (*LIMIT_KEYS, *slo.KEYS)
    limits |= {key: getattr(settings, key.lower()) for key in keys if os.environ.get(key)}
    return limits if typed is None else limits | {"MAX_ERROR_RATE": typed}


if __name__ == "__main__":
    run_verb(main)
