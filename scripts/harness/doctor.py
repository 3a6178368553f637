"""Checks: what was looked at, how it stands, and what to do about it; as lines and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from harness.errors import Exit, HarnessError
from harness.table import display_width, pad
from harness.texts import one_line

Group = Literal["machine", "settings", "endpoint"]
_TITLES: dict[Group, str] = {
    "machine": "This machine",
    "settings": "Settings",
    "endpoint": "Endpoint",
}
_SHOWN_CHARS = 400


class State(StrEnum):
    """How a check ended. UNKNOWN: it could not be told, or was not asked."""

    OK = "ok"
    CAUTION = "caution"
    FAILED = "failed"
    UNKNOWN = "unknown"


_MARKS = {State.OK: "✓", State.CAUTION: "!", State.FAILED: "✗", State.UNKNOWN: "–"}


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, how it stands, what was found, and what to do (may be empty).

    Nothing found means that it was not asked, since one before it failed.
    """

    group: Group
    name: str
    state: State
    found: str
    remedy: str = ""


def failed(group: Group, name: str, error: HarnessError) -> Check:
    """Return the check that ended in this error."""
    return Check(group, name, State.FAILED, error.what, error.remedy)


def exit_code(checks: Sequence[Check]) -> Exit:
    """Return DONE if none failed, USAGE if one of machine or settings did, else ENDPOINT."""
    groups = {check.group for check in checks if check.state is State.FAILED}
    if not groups:
        return Exit.DONE
    return Exit.ENDPOINT if groups == {"endpoint"} else Exit.USAGE


def as_text(checks: Sequence[Check]) -> str:
    """Return one line a check, its remedy on the next; checks that were not asked share a line."""
    width = max((display_width(check.name) for check in checks), default=0)
    in_order = sorted(checks, key=lambda check: list(_TITLES).index(check.group))
    return "".join(f"{line}\n" for line in _lines(in_order, width))


def as_json(checks: Sequence[Check]) -> str:
    """Return one object: the checks, each with all that it holds, and the exit code."""
    rows = [
        {
            "group": check.group,
            "name": check.name,
            "state": check.state.value,
            "found": check.found,
            "remedy": check.remedy,
        }
        for check in checks
    ]
    told = {"checks": rows, "exit": int(exit_code(checks))}
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"


def verdict_line(checks: Sequence[Check]) -> str:
    """Return how many checks failed or ask for care."""
    n_failed = sum(check.state is State.FAILED for check in checks)
    n_cautions = sum(check.state is State.CAUTION for check in checks)
    if not n_failed and not n_cautions:
        return "All is well."
    counts = [(n_failed, "failed", "failed"), (n_cautions, "caution", "cautions")]
    words = [f"{n} {one if n == 1 else many}" for n, one, many in counts if n]
    return ", ".join(words) + "."


def _lines(checks: Sequence[Check], width: int) -> Iterator[str]:
    group = None
    for place, check in enumerate(checks):
        if check.group != group:
            group = check.group
            yield from ([""] if place else [])
            yield _TITLES[group]
        if not check.found:
            continue
        yield f"  {_MARKS[check.state]} {pad(check.name, width, 'left')}  {_shown(check.found)}"
        if check.remedy:
            yield f"    {' ' * width}  → {_shown(check.remedy)}"
    skipped = list(dict.fromkeys(check.name for check in checks if not check.found))
    if skipped:
        yield f"  {_MARKS[State.UNKNOWN]} not asked: {', '.join(skipped)}"


def _shown(text: str) -> str:
    return one_line(text, _SHOWN_CHARS)
