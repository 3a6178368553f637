"""Check this machine, the settings and the endpoint before a run: one line each, with the remedy.

Usage: doctor.py [--json]
Environment: the settings of .env.example.
Prints the checks on standard output (--json: one object), everything else on standard error.
✓ well, ! take care, ✗ failed, – could not be told.
Exit: 0 well or cautions only, 2 machine or settings fail, 3 the endpoint fails, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TextIO

from harness.cli import Arguments, run_verb, talker
from harness.doctor import Check, as_json, as_text, exit_code, verdict_line
from harness.doctor_endpoint import endpoint_checks, not_asked
from harness.doctor_machine import machine_checks, settings_checks
from harness.texts import scrub


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Check all there is and tell it."""
    options = _options(argv)
    talk = talker(err)
    intent, about_settings = settings_checks(os.environ)
    checks: list[Check] = [*machine_checks(intent, os.environ), *about_settings]
    settings = intent.settings
    if settings:
        talk(f"Asking {settings.model} at {settings.base} …")
    checks += endpoint_checks(settings, os.environ) if settings else not_asked()
    key = settings.openai_api_key if settings else None
    checks = [
        replace(check, found=scrub(check.found, key), remedy=scrub(check.remedy, key))
        for check in checks
    ]
    out.write(as_json(checks) if options.json else as_text(checks))
    talk(verdict_line(checks))
    return exit_code(checks)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Arguments(prog="doctor.py", allow_abbrev=False, description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_verb(main)
