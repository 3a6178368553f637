"""What Ctrl-C, and a polite request to end, do to a verb, from its first import on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None

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
def held_back(after: Mapping[signal.Signals, Handler] | None = None) -> Iterator[None]:
    """Let requests to end wait until the block has ended: for what must not be left half done.

    Then the handlers are those of ``after``, if given, else what they were.
    """
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
    # The mask is this thread's: a request may still come by way of another.
    numbers = [n for n in _REQUESTS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {n: signal.signal(n, lambda number, _: came.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in (before if after is None else after).items():
            signal.signal(number, handler)
        for request in came[:1]:
            signal.raise_signal(request)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)
