"""Errors that a person reads: one line each, and the exit code that every verb keeps."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every verb."""

    DONE = 0
    LIMIT = 1  # it ran, and the result fails a limit
    USAGE = 2  # usage or configuration
    ENDPOINT = 3  # the endpoint or AIPerf failed
    DATA = 4  # unreadable data
    INTERRUPTED = 130


class HarnessError(Exception):
    """Something a person can act on: where it happened, what it is, what to do."""

    exit_code: Exit = Exit.USAGE

    def __init__(self, where: str, what: str, remedy: str) -> None:
        super().__init__(where, what, remedy)
        self.where = where
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"

    def lines(self) -> list[str]:
        """Return the lines to show, without the leading ``error:``."""
        return [str(self)]


class UsageError(HarnessError):
    """A wrong argument, setting or input file."""


class ConfigError(UsageError):
    """All problems of one configuration, told together."""

    def __init__(self, problems: Sequence[UsageError]) -> None:
        first = problems[0]
        super().__init__(first.where, first.what, first.remedy)
        self.problems = tuple(problems)

    def lines(self) -> list[str]:
        """Return one line a problem."""
        return [str(problem) for problem in self.problems]


class EndpointError(HarnessError):
    """The server could not be reached, refused, or did not answer as a chat endpoint does."""

    exit_code = Exit.ENDPOINT


class EngineError(HarnessError):
    """AIPerf itself failed."""

    exit_code = Exit.ENDPOINT


class TimeLimitError(EngineError):
    """AIPerf was stopped because the run took longer than it may."""


class StoppedError(HarnessError):
    """A person, or the system, stopped the run; what it has is kept."""

    exit_code = Exit.INTERRUPTED


class DataError(HarnessError):
    """A result file that cannot be read, or holds nothing usable."""

    exit_code = Exit.DATA
