"""Requests that failed, grouped so that a person can read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from harness.texts import one_line, said_in, scrub

Scrub = Callable[[str], str]

#: AIPerf's name for a request given up at --request-timeout-seconds; it tells only Python's words.
_TIMEOUT = "TimeoutError"
_LATE = "no answer within the time limit (REQUEST_TIMEOUT_SECONDS)"
_KEPT_GROUPS = 50  # a server that answers each request with another text must not fill the memory
_KEPT_CHARS = 1000


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """``n`` requests that failed alike: HTTP status (None: no answer), AIPerf's name for the error.

    ``message`` is what the first of them was answered, on one line, scrubbed.
    """

    code: int | None
    type: str
    message: str
    n: int

    @property
    def text(self) -> str:
        """Return status, name and what the server said in one line."""
        status = "" if self.code is None else f"HTTP {self.code} "
        return f"{status}{self.type}: {_said(self.message)}".strip(" :")


class ErrorRow(msgspec.Struct, gc=False):
    """The ``error`` of an export's row."""

    code: int | None = None
    type: str | None = None
    message: str | None = None
    cause: str | None = None

    def told(self) -> str:
        """Return the answer's body or, where none came, the time-out or the innermost cause."""
        if self.code is None and self.type == _TIMEOUT:
            return _LATE
        return (self.cause if self.code is None else None) or self.message or ""


class ErrorCounter:
    """Counts errors; those that differ in numbers and ids only are one group."""

    def __init__(self, scrub: Scrub) -> None:
        self._scrub = scrub
        self._groups: dict[tuple[int | None, str, str], tuple[str, int]] = {}

    def add(self, error: ErrorRow, n: int = 1) -> None:
        """Count an error ``n`` times."""
        message = one_line(self._scrub(error.told()), _KEPT_CHARS)
        key = (error.code, error.type or "", _without_numbers(_said(message)))
        if key not in self._groups and len(self._groups) >= _KEPT_GROUPS:
            key, message = (None, "other", ""), "errors of further kinds"
        first, n_before = self._groups.get(key, (message, 0))
        self._groups[key] = (first, n_before + n)

    def groups(self) -> tuple[ErrorGroup, ...]:
        """Return the groups, the largest first."""
        found = [
            ErrorGroup(code, kind, message, n)
            for (code, kind, _), (message, n) in self._groups.items()
        ]
        return tuple(sorted(found, key=lambda group: -group.n))


def mask(text: str) -> str:
    """Return the text without anything that looks like a key: what can be done knowing none."""
    return scrub(text, None)


def _said(message: str) -> str:
    said, _ = said_in(message)
    return one_line(said)


def _without_numbers(message: str) -> str:
    return re.sub(r"\b(?=[\w-]*\d)[\w-]{8,}|\d+(?:\.\d+)?", "#", message)
