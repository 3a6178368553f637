"""The edge that every verb shares: errors become one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO, TypeVar

from harness.errors import Exit, HarnessError, UsageError
from harness.kinds import Kind

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
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a C locale must not stop Japanese from being printed
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        code = guarded(main, sys.argv[1:], sys.stdout, sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has gone: `make summary | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.DONE
    sys.exit(code)


def guarded(main: Main, argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Call ``main`` and return its exit code, telling any error on ``err`` in one line.

    With ``DEBUG=1`` in the environment the trace is shown as well.
    """
    debug = os.environ.get("DEBUG", "") not in ("", "0")
    try:
        return main(argv, out, err)
    except HarnessError as error:
        for line in error.lines():
            err.write(f"error: {line}\n")
        if debug:
            raise
        return error.exit_code
    except KeyboardInterrupt:
        err.write("interrupted\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        err.write(f"error: harness: {type(error).__name__}: {error}; run again with DEBUG=1\n")
        return Exit.ENDPOINT
