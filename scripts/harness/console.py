"""What AIPerf printed: the reason that it gives for ending badly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_FRAME = "│"
_LABEL = re.compile(r"^(•.*|[A-Z][a-z]+: .*)$")
_LOGGED = re.compile(r"^[\d:.]+ ERROR +(.*?)(?: \([\w.]+:\d+\))?$", re.MULTILINE)
_TAIL_BYTES = 64 * 1024


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
