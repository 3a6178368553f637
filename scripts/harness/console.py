"""What AIPerf printed: how far it came, what it could not read, and why it ended badly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_FRAME = "│"
_LABEL = re.compile(r"^(•.*|[A-Z][a-z]+: .*)$")
_LOGGED = re.compile(r"^[\d:.]+ ERROR +(.*?)(?: \([\w.]+:\d+\))?$", re.MULTILINE)
_TAIL_BYTES = 64 * 1024
_HEAD_BYTES = 256 * 1024
_MEASURES = b"AIPerf System is PROFILING"
_UNREADABLE = b" Failed to parse JSON string: "


def has_begun(log: Path) -> bool:
    """Tell whether AIPerf has sent requests, as far as its log says."""
    try:
        with log.open("rb") as file:
            return _MEASURES in file.read(_HEAD_BYTES)
    except OSError:
        return False


def n_unreadable_events(log: Path) -> int:
    """Count the lines on events of a stream that are no JSON; 0 without a log."""
    try:
        with log.open("rb") as file:
            return sum(_UNREADABLE in line for line in file)
    except OSError:
        return 0


def reason_in(log: Path) -> str:
    """Return why AIPerf says it failed, on one line; empty where it says nothing.

    It frames its errors at the end, as ``Reason: …`` over several lines; else the first ERROR line
    of its log counts, since the later ones follow from it.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    framed = list(_framed(text))
    starts = [n for n, line in enumerate(framed) if line.startswith("Reason: ")]
    if starts:
        return " ".join(_paragraph(framed[starts[0] :])).removeprefix("Reason: ")
    if framed:
        return " ".join(_paragraph(framed))
    logged = _LOGGED.search(text)
    return logged.group(1) if logged else ""


def _framed(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith(_FRAME) and line.rstrip().endswith(_FRAME):
            yield line.strip().strip(_FRAME).strip()


def _paragraph(lines: list[str]) -> Iterator[str]:
    yield lines[0]
    for line in lines[1:]:
        if not line or _LABEL.match(line):
            return
        yield line
