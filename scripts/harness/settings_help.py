"""The settings table written out: for the terminal, for ``.env.example`` and for the README."""

from __future__ import annotations

import textwrap
from itertools import groupby

from harness.kinds import Text
from harness.settings import Entry, table
from harness.table import Column, Table, to_md, to_text

_HEADER = """\
# Settings of the harness. Copy to .env and edit:  cp .env.example .env
# A line is KEY=value. Values arrive as written; quote one that holds " #", or starts with a quote.
# `make profile CONCURRENCY=20` outranks the environment, which outranks this file, which outranks
# the defaults. Only OPENAI_API_KEY is the other way round: a line here, even empty, comes first.
"""


def plain() -> str:
    """Return the table for a terminal, a block a group."""
    columns = tuple(Column(heading, "left") for heading in ("setting", "default", "meaning"))
    blocks = []
    for group, entries in groupby(table(), key=lambda entry: entry.group):
        rows = tuple((e.key, _default(e), e.meaning) for e in entries)
        blocks.append(f"{group}\n" + textwrap.indent(to_text(Table(columns, rows)), "  "))
    return "\n".join(blocks)


def markdown() -> str:
    """Return the README's table."""
    headings = ("Setting", "Default", "Allowed", "Meaning")
    rows = tuple((f"`{e.key}`", _default(e), e.kind.expected(), e.meaning) for e in table())
    return to_md(Table(tuple(Column(heading, "left") for heading in headings), rows))


def env_example() -> str:
    """Return the text of ``.env.example``: every setting, at its default, told in one sentence."""
    blocks = [_HEADER]
    for group, entries in groupby(table(), key=lambda entry: entry.group):
        blocks.append(f"# --- {group} ---\n" + "\n".join(_example(e) for e in entries))
    return "\n".join(blocks)


def _example(entry: Entry) -> str:
    """Return one setting's lines; all but the two that everybody needs are commented out."""
    hint = f" Default: {entry.shown}." if entry.shown else ""
    line = f"{entry.key}={entry.default}"
    if entry.required:
        line += "SmolLM2-135M-Instruct"
    elif entry.key != "AIPERF_URL":
        line = f"#{line}"
    return f"# {entry.meaning}{hint}\n{_allowed(entry)}{line}\n"


def _allowed(entry: Entry) -> str:
    if isinstance(entry.kind, Text):
        return ""
    words = entry.kind.expected()
    return (
        textwrap.fill(
            f"{words[0].upper()}{words[1:]}.", 96, initial_indent="# ", subsequent_indent="# "
        )
        + "\n"
    )


def _default(entry: Entry) -> str:
    return "required" if entry.required else entry.default or entry.shown or "none"
