"""What Ctrl-C, and a polite request to end, do to a verb, from its first import on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_SCRIPTS = Path(__file__).resolve().parents[1]
_INTERRUPTED = 130
_REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def quiet_imports() -> None:
    """Where a verb is the program, let a request to end it pass without a trace while it imports.

    Leaves the process alone where something else imports the library, and signals that are ignored.
    """
    program = Path(next(iter(getattr(sys, "argv", ())), ""))
    is_verb = program.suffix == ".py" and program.resolve().parent == _SCRIPTS
    for number in _REQUESTS if is_verb else ():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def raise_on_request() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, so that what is open is closed.

    One that is ignored stays so: nohup ignores SIGHUP.
    """
    for number in _REQUESTS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let requests to end wait until the block has ended: for what must not be left half done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)
