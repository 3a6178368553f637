"""Durations as AIPerf writes them, in milliseconds."""

from __future__ import annotations

from typing import Literal

#: The empty unit stands for "not written". Any other word makes the row malformed.
Unit = Literal[
    "ms", "ns", "us", "s", "sec",
    "milliseconds", "nanoseconds", "microseconds", "seconds", "",
]  # fmt: skip

_MS_PER: dict[Unit, float] = {
    "ms": 1.0, "ns": 1e-6, "us": 1e-3, "s": 1e3, "sec": 1e3,
    "milliseconds": 1.0, "nanoseconds": 1e-6, "microseconds": 1e-3, "seconds": 1e3,
}  # fmt: skip


def in_ms(value: float, unit: Unit) -> float:
    """Return a duration in ms; one without a unit by the magnitude rule of `guess_ms`."""
    return value * _MS_PER[unit] if unit else guess_ms(value)


def guess_ms(value: float) -> float:
    """Return a duration without a unit in ms, by its magnitude: > 1e9 is ns, < 1 is s, else ms."""
    if value > 1e9:
        return value * 1e-6
    return value * 1e3 if value < 1 else value
