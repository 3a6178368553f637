"""The edge: errors become one line and an exit code, a trace only on request."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TextIO

import pytest

from harness.cli import guarded
from harness.errors import ConfigError, DataError, EndpointError, Exit, StoppedError, UsageError


def raising(error: BaseException) -> tuple[int, str, str]:
    def main(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
        raise error

    out, err = io.StringIO(), io.StringIO()
    return guarded(main, [], out, err), out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("A", "b", "c"), 2),
        (EndpointError("A", "b", "c"), 3),
        (DataError("A", "b", "c"), 4),
        (StoppedError("A", "b", "c"), 130),
    ],
)
def test_an_error_is_one_line_on_standard_error(error: Exception, code: int) -> None:
    assert raising(error) == (code, "", "error: A: b; c\n")


def test_every_problem_of_a_configuration_has_its_line() -> None:
    problems = ConfigError([UsageError("A", "b", "c"), UsageError("D", "e", "f")])
    assert raising(problems) == (2, "", "error: A: b; c\nerror: D: e; f\n")


def test_ctrl_c_is_130() -> None:
    assert raising(KeyboardInterrupt())[0] == Exit.INTERRUPTED


def test_what_nobody_foresaw_is_one_line_too() -> None:
    code, _, err = raising(ZeroDivisionError("x"))
    assert code != 0
    assert err == "error: harness: ZeroDivisionError: x; run again with DEBUG=1\n"


def test_debug_shows_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError("x"))
    with pytest.raises(DataError):
        raising(DataError("A", "b", "c"))
