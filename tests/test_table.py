"""Tables: three forms, Japanese lined up, absent cells empty."""

from __future__ import annotations

import math

import pytest

from harness.table import Column, Table, display_width, number, to_md, to_text, to_tsv

TABLE = Table((Column("name", "left"), Column("ms")), (("速い", "1.0"), ("slow", "10.0")))


def test_tsv_has_a_heading_and_unix_line_ends() -> None:
    assert to_tsv(TABLE) == "name\tms\n速い\t1.0\nslow\t10.0\n"


def test_markdown_tells_the_alignment() -> None:
    assert to_md(TABLE).splitlines()[1] == "| :--- | ---: |"


def test_wide_characters_take_two_columns() -> None:
    assert to_text(TABLE) == "name    ms\n速い   1.0\nslow  10.0\n"


def test_cells_cannot_break_the_form() -> None:
    hostile = Table((Column("a"), Column("b")), (("x\ty\nz", "p|q\\"),))
    assert to_tsv(hostile).splitlines()[1] == "x y z\tp|q\\"
    assert to_md(hostile).splitlines()[2] == "| x y z | p\\|q\\\\ |"
    assert len(to_text(hostile).splitlines()) == 2


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_an_absent_number_is_empty_never_zero(value: float | None) -> None:
    assert number(value, 2) == ""


def test_numbers_have_fixed_decimals() -> None:
    assert number(0.006, 2) == "0.01"
    assert number(0.0, 2) == "0.00"


def test_control_characters_have_a_width_too() -> None:
    assert display_width("a\x1bb") == 3
