"""Kinds of setting: how written text becomes a value, and what to say when it does not."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NoReturn, Protocol, TypeVar

from harness.address import base_url
from harness.errors import ConfigError, UsageError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Json = bool | int | float | str | None | list["Json"] | dict[str, "Json"]

_YES = ("1", "true", "yes", "on")
_NO = ("0", "false", "no", "off")
_LAST_PORT = 65535
_MOST_DIGITS = 18  # more is no count, and Python itself refuses to read thousands of digits
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # control characters, half surrogate pairs, line separators
#: Fields of a request without which it would not be the one that is measured.
SET_BY_HARNESS = frozenset(("messages", "model", "stream", "stream_options"))


def read_json(text: str) -> Json:
    """Return the value of a JSON text, as strictly as AIPerf reads it; else ValueError says why.

    Python alone would take NaN, Infinity and half a surrogate pair, which no server has to read.
    """
    try:
        value: Json = json.loads(text, parse_constant=_no_json)
        written = json.dumps(value, ensure_ascii=False) if "\\u" in text else text
        written.encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair stands alone") from None
    return value


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


class Kind(Protocol[T_co]):
    """Turns text into a value; ``parse`` raises ValueError saying what was expected."""

    def parse(self, text: str) -> T_co:
        """Return the value, or raise ValueError with the expected form."""
        ...

    def expected(self) -> str:
        """Say which values are allowed, in a few words."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Any text, as written, that no control character makes look like another."""

    hint: str = "text"

    def parse(self, text: str) -> str:
        """Return the text itself."""
        if any(unicodedata.category(char) in _CONTROLS for char in text):
            raise ValueError(f"{self.expected()} without control characters")
        return text

    def expected(self) -> str:
        """Say what the text is."""
        return self.hint


@dataclass(frozen=True, slots=True)
class ModelName(Text):
    """The name of one model: AIPerf takes a comma for the start of a second, - for an option."""

    hint: str = "a model name"

    def parse(self, text: str) -> str:
        """Return the name itself; a copied zero-width space is told too, since nobody sees it."""
        if "," in text:
            raise ValueError("the name of one model: a comma would make it two")
        if text.startswith("-"):
            raise ValueError("a model name that does not start with -")
        if any(unicodedata.category(char) == "Cf" for char in text):
            raise ValueError("a model name without invisible characters")
        return Text.parse(self, text)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server."""

    def parse(self, text: str) -> str:
        """Return it in its one form; UsageError tells what is wrong without showing a password."""
        return base_url(text)

    def expected(self) -> str:
        """Say the form."""
        return "an address such as http://localhost:8000"


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number no smaller than ``least``."""

    least: int

    def parse(self, text: str) -> int:
        """Return the number; only ASCII digits count, so that 1_000 and １０ are asked about."""
        number = _digits(text)
        if number is None or number < self.least:
            raise ValueError(self.expected())
        return number

    def expected(self) -> str:
        """Say the range."""
        return f"a whole number, {self.least} or more"


@dataclass(frozen=True, slots=True)
class Port:
    """A port to listen on; 0 stands for a free one."""

    def parse(self, text: str) -> int:
        """Return the port. A larger number must not reach a server: some wrap it round."""
        number = _digits(text)
        if number is None or number > _LAST_PORT:
            raise ValueError(self.expected())
        return number

    def expected(self) -> str:
        """Say the range."""
        return f"a port, 0 to {_LAST_PORT}"


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal number within ``least`` and ``most``; ``above`` excludes ``least`` itself."""

    least: float = 0.0
    most: float = math.inf
    above: bool = False

    def parse(self, text: str) -> float:
        """Return the number; inf and nan are none."""
        try:
            value = float(text)
        except ValueError:
            raise ValueError(self.expected()) from None
        too_small = value <= self.least if self.above else value < self.least
        if not math.isfinite(value) or too_small or value > self.most:
            raise ValueError(self.expected())
        return value

    def expected(self) -> str:
        """Say the range."""
        if math.isfinite(self.most):
            return f"a number from {self.least:g} to {self.most:g}"
        return (
            f"a number above {self.least:g}" if self.above else f"a number, {self.least:g} or more"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def parse(self, text: str) -> str:
        """Return the word in its own spelling, whatever the case it was written in."""
        word = text.lower()
        if word not in self.words:
            raise ValueError(self.expected())
        return word

    def expected(self) -> str:
        """List the words."""
        return "one of " + ", ".join(self.words)


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""

    def parse(self, text: str) -> bool:
        """Return True for 1, true, yes, on; False for 0, false, no, off."""
        word = text.lower()
        if word not in _YES + _NO:
            raise ValueError(self.expected())
        return word in _YES

    def expected(self) -> str:
        """Say both words."""
        return "1 or 0"


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """Different values of one kind, separated by commas; ``plural`` says of which."""

    item: Kind[T]
    plural: str

    def parse(self, text: str) -> tuple[T, ...]:
        """Return the values in the order written."""
        try:
            values = tuple(self.item.parse(part.strip()) for part in text.split(","))
        except ValueError:
            raise ValueError(self.expected()) from None
        if len(set(values)) != len(values):
            raise ValueError(self.expected())
        return values

    def expected(self) -> str:
        """Say the form."""
        return f"different {self.plural}, separated by commas"


@dataclass(frozen=True, slots=True)
class ExtraInputs:
    """Fields added to each request: ``name:value,name:value`` or one JSON object."""

    def parse(self, text: str) -> Mapping[str, Json]:
        """Return the fields; values that read as JSON (50, true) take its type, others are text.

        Raises ConfigError with one line for each field that the harness sets itself.
        """
        if text.lstrip().startswith("{"):
            fields = self._from_json(text)
        else:
            fields = dict(self._pair(part) for part in text.split(",") if part.strip())
        taken = sorted(SET_BY_HARNESS & fields.keys())
        if taken:
            what = '"{}" is set by the harness'
            raise ConfigError(
                [UsageError("EXTRA_INPUTS", what.format(name), "remove it") for name in taken]
            )
        return fields

    def expected(self) -> str:
        """Say both forms."""
        return 'name:value pairs separated by commas, or one JSON object such as {"min_tokens": 50}'

    def _from_json(self, text: str) -> Mapping[str, Json]:
        try:
            fields = read_json(text)
        except ValueError as error:
            raise ValueError(f"{self.expected()} (not JSON: {error})") from None
        if not isinstance(fields, dict):
            raise ValueError(self.expected())
        return fields

    def _pair(self, part: str) -> tuple[str, Json]:
        name, colon, value = part.strip().partition(":")
        if not (name and colon and value):
            raise ValueError(self.expected())
        try:
            typed = read_json(value)
        except ValueError:
            typed = value
        return name.strip(), typed


def _digits(text: str) -> int | None:
    """Return a number written in plain digits; None for anything else and for absurdly many."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_number else None
