"""Runs AIPerf's own command line in this process, with the API key added after argv is fixed.

The key comes through a pipe, so it stands on no process's argv and in no environment. AIPerf
redacts ``--api-key`` in everything it writes. The pipe's end means that the harness was killed:
AIPerf must not go on measuring then, with nobody to take its result.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

_LONGEST_LINE = 4096


def main(argv: Sequence[str]) -> None:
    """Run AIPerf with ``argv``: the pipe's file descriptor, then AIPerf's own words.

    Does not return: AIPerf leaves the process with its own exit status.
    """
    lifeline = int(argv[0])
    key = os.read(lifeline, _LONGEST_LINE).decode().rstrip("\n")  # written at once, before us
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    sys.argv = ["aiperf", *argv[1:]]
    if key:
        sys.argv += ["--api-key", key]
    # Until AIPerf has handlers of its own, a Ctrl-C ends it without a trace of its imports.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    from aiperf.cli import app  # noqa: PLC0415 - it reads the environment when imported

    app()


def _end_with(lifeline: int) -> None:
    """Kill this process, with its group if that is its own, when the other end is closed."""
    os.read(lifeline, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
