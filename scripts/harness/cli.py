"""The edge that every verb shares: errors become one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, TextIO, TypeVar

from harness.errors import Exit, HarnessError, UsageError
from harness.interrupts import raise_on_request
from harness.kinds import Kind
from harness.settings import is_on

T = TypeVar("T")
Main = Callable[[Sequence[str], TextIO, TextIO], int]


class Arguments(argparse.ArgumentParser):
    """A verb's command line; what is wrong with it is told like every other error."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage."""
        raise UsageError(self.prog.removesuffix(".py"), message, "see --help")


def argument(kind: Kind[T]) -> Callable[[str], T]:
    """Return what reads an argument of that kind: the ``type`` of an argparse argument."""

    def read(text: str) -> T:
        try:
            return kind.parse(text)
        except ValueError as expected:
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None

    return read


def run_verb(main: Main) -> NoReturn:
    """Run a verb's ``main(argv, out, err)`` and leave the process with its exit code."""
    raise_on_request()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a C locale must not stop Japanese from being printed
            # and PYTHONUNBUFFERED must not make `| head` an error before all is written
            stream.reconfigure(encoding="utf-8", errors="replace", write_through=False)
    code = guarded(main, sys.argv[1:], sys.stdout, sys.stderr)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as in `make summary | head`: no matter
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def talker(err: TextIO) -> Callable[[str], None]:
    """Return what writes a line of talk; nobody listening any more is no reason to stop."""

    def talk(line: str) -> None:
        with suppress(BrokenPipeError):
            err.write(line + "\n")
            err.flush()

    return talk


def guarded(main: Main, argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Call ``main`` and return its exit code, telling any error on ``err`` in one line.

    With ``DEBUG=1`` in the environment the trace is shown as well.
    """
    try:
        return main(argv, out, err)
    except BaseException as error:  # noqa: BLE001 - the edge: whatever it is becomes a line and a code
        lines, code = _told(error)
        if _wants_trace():
            lines = [*lines, traceback.format_exc().rstrip()]
    talk = talker(err)
    for line in lines:
        talk(line)
    return code


def _wants_trace() -> bool:
    try:
        return is_on(os.environ, "DEBUG")
    except UsageError:  # who types DEBUG=yes-please wants it
        return True


def _told(error: BaseException) -> tuple[list[str], int]:
    """Return the lines that tell an error, and its exit code."""
    if isinstance(error, HarnessError):
        return [f"error: {line}" for line in error.lines()], error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"], Exit.INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader has gone
        return [], Exit.INTERRUPTED
    if isinstance(error, OSError) and error.strerror:
        remedy = "check the path, its rights and free space"
        return [f"error: {error.filename or 'disk'}: {error.strerror}; {remedy}"], Exit.USAGE
    if isinstance(error, Exception):
        told = f"error: harness: {type(error).__name__}: {error}; run again with DEBUG=1"
        return [told], Exit.ENDPOINT
    raise error
