"""One table, three ways to write it: tsv for pasting, md for pages, text for terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wcwidth import wcswidth

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading and the side its cells stand on."""

    heading: str
    align: Align = "right"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text cells under headings. An absent value is the empty cell, never 0."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None, digits: int) -> str:
    """Write a number with fixed decimals; empty for an absent or non-finite one."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.{digits}f}"


def to_tsv(table: Table) -> str:
    """Write the table as tab-separated lines; tabs and line breaks in a cell become spaces."""
    lines = [[column.heading for column in table.columns], *table.rows]
    return "".join("\t".join(_one_line(cell) for cell in line) + "\n" for line in lines)


def to_md(table: Table) -> str:
    """Write the table as a GitHub Markdown table."""
    rules = ["---:" if column.align == "right" else ":---" for column in table.columns]
    lines = [[column.heading for column in table.columns], rules, *table.rows]
    return "".join("| " + " | ".join(_md_cell(cell) for cell in line) + " |\n" for line in lines)


def to_text(table: Table) -> str:
    """Write the table as aligned columns; East Asian wide characters count as two columns."""
    lines = [tuple(column.heading for column in table.columns), *table.rows]
    cells = [tuple(_one_line(cell) for cell in line) for line in lines]
    widths = [max(display_width(line[i]) for line in cells) for i in range(len(table.columns))]
    return "".join(_text_line(line, table.columns, widths) for line in cells)


def display_width(text: str) -> int:
    """Return how many terminal columns the text takes."""
    return max(wcswidth(text), 0) if text.isprintable() else len(text)


def pad(text: str, width: int, align: Align) -> str:
    """Fill the text with spaces to ``width`` terminal columns."""
    fill = " " * (width - display_width(text))
    return fill + text if align == "right" else text + fill


def _text_line(line: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    parts = zip(line, columns, widths, strict=True)
    return (
        "  ".join(pad(cell, width, column.align) for cell, column, width in parts).rstrip() + "\n"
    )


def _one_line(cell: str) -> str:
    return " ".join(cell.splitlines()).replace("\t", " ")


def _md_cell(cell: str) -> str:
    return _one_line(cell).replace("\\", "\\\\").replace("|", "\\|")
