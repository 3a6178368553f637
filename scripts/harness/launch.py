"""Runs AIPerf's own command line in this process, with the API key added after argv is fixed.

The key comes through a pipe, so it stands on no process's argv and in no environment. AIPerf
redacts ``--api-key`` in everything it writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Run AIPerf with ``argv``: the key's file descriptor (-1 for no key), then AIPerf's own words.

    Does not return: AIPerf leaves the process with its own exit status.
    """
    key = _read_key(int(argv[0]))
    sys.argv = ["aiperf", *argv[1:]]
    if key:
        sys.argv += ["--api-key", key]
    from aiperf.cli import app  # noqa: PLC0415 - it reads the environment when imported

    app()


def _read_key(descriptor: int) -> str:
    if descriptor < 0:
        return ""
    with os.fdopen(descriptor, encoding="utf-8") as pipe:
        return pipe.read()
