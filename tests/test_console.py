"""The reason that AIPerf gives for ending badly, out of what it printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.console import has_begun, n_unreadable_events, reason_in

FRAMED = """\
06:51:39.292 ERROR    Failed to handle command profile_configure: no such tokenizer (x.py:3)

╭─ AIPerf System Exit Errors ──────────────────────────────╮
│ • Service: dataset_manager                               │
│    Operation: Configure Profiling                        │
│    Error: CommandError                                   │
│    Reason: Failed to load tokenizer 'nobody/none':       │
│            it is not present in the cache.               │
│                                                          │
│ • Service: system_controller                             │
│    Reason: HookError("…")                                │
╰──────────────────────────────────────────────────────────╯
Log File: x/logs/aiperf.log
"""
USAGE = """\
╭─ Error ──────────────────────────────────────────────────╮
│ Unknown option: --bogus. Did you mean --osl?             │
╰──────────────────────────────────────────────────────────╯
"""
LOGGED = """\
06:51:39.200 INFO     starting (a.py:1)
06:51:39.292 ERROR    the cause (a_b.py:12)
06:51:39.293 ERROR    what follows from it (c.py:3)
"""


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (FRAMED, "Failed to load tokenizer 'nobody/none': it is not present in the cache."),
        (USAGE, "Unknown option: --bogus. Did you mean --osl?"),
        (LOGGED, "the cause"),
        ("all is well\n", ""),
        ("", ""),
    ],
)
def test_the_first_reason_is_the_one(tmp_path: Path, printed: str, reason: str) -> None:
    log = tmp_path / "log"
    log.write_text(printed, encoding="utf-8")
    assert reason_in(log) == reason


def test_a_log_that_is_missing_gives_none(tmp_path: Path) -> None:
    assert reason_in(tmp_path / "none") == ""


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 79 + "\n" + "y" * 200_000 + "\n" + USAGE, encoding="utf-8")
    assert reason_in(log).startswith("Unknown option")


def test_it_has_begun_once_aiperf_says_that_it_is_profiling(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not has_begun(log)
    log.write_text("07:31:13.762 INFO     AIPerf System is CONFIGURING (x.py:536)\n")
    assert not has_begun(log)
    log.write_text("07:31:15.014 INFO     AIPerf System is PROFILING (x.py:548)\n")
    assert has_begun(log)


def test_lines_on_events_that_are_no_json_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert n_unreadable_events(log) == 0
    line = "WARNING  Failed to parse JSON string: x - JSONDecodeError\n"
    log.write_text(f"{line}another\n{line}")
    assert n_unreadable_events(log) == 2
