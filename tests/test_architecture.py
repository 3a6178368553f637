"""The library's rooms are those of ARCHITECTURE.md, and imports point up its table only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "scripts/harness"


def rows(text: str) -> list[str]:
    """Return the rooms that the table names, from the top down, within a row from the left."""
    _, _, section = text.partition("\n## The rooms\n")
    table = section.partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    return [room for cell in first_cells for room in re.findall(r"`(\w+)/?`", cell)]


def room_of(file: Path, library: Path) -> str:
    return file.relative_to(library).parts[0].removesuffix(".py")


def files(library: Path) -> list[Path]:
    return sorted(file for file in library.rglob("*.py") if file != library / "__init__.py")


def imported_rooms(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, room) for each import of the library, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        start = ""
        if isinstance(node, ast.ImportFrom):
            start = resolve_name("." * node.level + (node.module or ""), package) + "."
        for alias in node.names:
            top, _, rest = (start + alias.name).partition(".")
            if top == "harness":
                yield node.lineno, rest.partition(".")[0]


def downward(library: Path, order: list[str]) -> list[str]:
    """Return each import of a room that does not stand above, as ``file:line: room -> room``."""
    found = []
    for file in files(library):
        room = room_of(file, library)
        package = ".".join(("harness", *file.relative_to(library).parts[:-1]))
        for line, other in imported_rooms(file.read_text(encoding="utf-8"), package):
            if other != room and order.index(other) > order.index(room):
                found.append(f"{file.relative_to(library)}:{line}: {room} -> {other}")
    return found


ORDER = rows((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))


def test_the_table_names_each_room_once_and_no_other() -> None:
    assert sorted(ORDER) == sorted({room_of(file, LIBRARY) for file in files(LIBRARY)})


def test_imports_point_up_the_table_only() -> None:
    assert downward(LIBRARY, ORDER) == []


@pytest.mark.parametrize(
    "line",
    [
        "from harness.low import thing",
        "from harness import low",
        "import harness.low as other",
        "def late():\n    from harness.low import thing",
        "from . import low",
        "from .low import thing",
    ],
)
def test_an_import_that_points_down_is_found_however_it_is_written(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "low.py").write_text("from harness.high import thing\n")
    (tmp_path / "high.py").write_text(line + "\n")
    found = downward(tmp_path, ["high", "low"])
    assert [told.partition(": ")[2] for told in found] == ["high -> low"]


def test_a_packages_own_modules_may_import_each_other(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export/rows.py").write_text("from harness.export import units\nfrom . import x\n")
    assert downward(tmp_path, ["export"]) == []


def test_rooms_are_read_from_their_table_alone() -> None:
    text = "| `no` | |\n## The rooms\n| room |\n| `a/`, `b` | `c` |\n\n## Next\n| `no` | |\n"
    assert rows("\n" + text) == ["a", "b"]
