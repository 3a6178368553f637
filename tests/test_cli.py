"""The edge: errors become one line and an exit code, a trace only on request."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import pytest

from harness.cli import guarded, talker
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
    code, _, err = raising(DataError("A", "b", "c"))
    assert code == Exit.DATA
    assert err.startswith("error: A: b; c\nTraceback")
    assert "Traceback" in raising(ZeroDivisionError("x"))[2]


@pytest.mark.parametrize("word", ["0", "false", "no", ""])
def test_debug_can_be_off(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("DEBUG", word)
    assert "Traceback" not in raising(DataError("A", "b", "c"))[2]


class Gone(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_talk_that_nobody_hears_stops_nothing() -> None:
    talker(Gone())("hello")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_changes_no_exit_code(unbuffered: str) -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "from harness.cli import run_verb\n"
        "run_verb(lambda argv, out, err: (out.write('x' * 100), 1)[1])"
    )
    line = f'{sys.executable} -c "$CODE" | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "CODE": code, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "1"
    assert done.stderr == ""


def test_a_path_that_cannot_be_used_is_told_without_a_trace() -> None:
    def verb(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
        Path("/dev/null/folder").mkdir()
        return 0

    err = io.StringIO()
    assert guarded(verb, [], io.StringIO(), err) == 2
    assert err.getvalue().startswith("error: /dev/null/folder: Not a directory; check the path")
