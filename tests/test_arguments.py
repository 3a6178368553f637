"""Arguments of the verbs: of the same kinds as settings, and told in the same words."""

from __future__ import annotations

import pytest

from harness.cli import Arguments, argument
from harness.errors import UsageError
from harness.kinds import Port


def read(*words: str) -> int:
    parser = Arguments(prog="verb.py", allow_abbrev=False)
    parser.add_argument("--port", type=argument(Port()), default="8080")
    port: int = parser.parse_args(words).port
    return port


@pytest.mark.parametrize(("text", "port"), [("0", 0), ("80", 80), ("65535", 65535)])
def test_a_port_is_a_number_up_to_65535(text: str, port: int) -> None:
    assert read("--port", text) == port


def test_a_default_in_words_is_read_as_if_typed() -> None:
    assert read() == 8080


@pytest.mark.parametrize("text", ["65536", "-1", "8_0", "８０", "80.0", "", "http"])
def test_a_wrong_argument_is_told_with_what_was_expected(text: str) -> None:
    with pytest.raises(UsageError) as told:
        read(f"--port={text}")
    assert str(told.value) == (
        f"verb: argument --port: {text!r} is not a port, 0 to 65535; see --help"
    )
