"""Print the settings table, from the one place where settings are declared.

Usage: help_env.py [--env-example | --markdown]
  (none)         a table for the terminal
  --env-example  the text of .env.example
  --markdown     the table of the README
Exit: 0, or 2 for any other word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from harness.cli import run_verb
from harness.errors import Exit, UsageError
from harness.settings_help import env_example, markdown, plain


def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:  # noqa: ARG001 - every verb's form
    """Print the settings in the form that ``argv`` names."""
    forms = {(): plain, ("--env-example",): env_example, ("--markdown",): markdown}
    form = forms.get(tuple(argv))
    if form is None:
        remedy = "use no argument, --env-example or --markdown"
        raise UsageError("help_env", f"unknown arguments {' '.join(argv)!r}", remedy)
    out.write(form())
    return Exit.DONE


if __name__ == "__main__":
    run_verb(main)
