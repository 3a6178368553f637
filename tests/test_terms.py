"""Terms: what a run asked for and is held to, from run.json and the settings."""

from __future__ import annotations

from typing import Any

import pytest

from harness.records import read_run
from harness.settings import Settings
from harness.terms import LIMIT_KEYS, asked_of, limits_of
from harness.verdict import Asked, Limits
from tests.exports import GOLDEN


def manifest(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "plan": {"concurrency": 4, "n_requests": 12, "request_rate": None},
        "tokenizer": {"name": "builtin", "exact": True, "server_counts": False},
        "settings": {
            "INPUT_FILE": None,
            "CUSTOM_DATASET_TYPE": "single_turn",
            "OUTPUT_TOKENS_MEAN": 200,
            "EXTRA_INPUTS": None,
            "CONCURRENCY": 4,
        },
    }
    for key, value in changes.items():
        whole[key] = whole[key] | value
    return whole


def test_every_limit_is_a_setting() -> None:
    assert set(LIMIT_KEYS) == {
        "MAX_ERROR_RATE", "MAX_LENGTH_MISS", "MAX_COUNT_MISS", "MAX_QUEUE", "MIN_CONCURRENCY",
        "MAX_CACHED", "MAX_DRIFT",
    }  # fmt: skip
    assert limits_of(Settings(model="any")) == Limits(1, 10, 5, 10, 80, 1, 25)


def test_a_limit_that_outranks_is_taken_and_one_of_no_number_is_not() -> None:
    limits = limits_of(Settings(model="any"), {"MAX_DRIFT": 40, "MAX_QUEUE": "?", "MODEL": "x"})
    assert limits == Limits(1, 10, 5, 10, 80, 1, 40)


def test_a_closed_loop_asked_for_its_concurrency() -> None:
    assert asked_of(manifest()) == Asked(concurrency=4, output_tokens=200)


def test_an_open_loop_asked_for_its_rate_and_the_concurrency_is_a_ceiling() -> None:
    asked = asked_of(manifest(plan={"request_rate": 2.5}))
    assert (asked.concurrency, asked.request_rate) == (None, 2.5)


@pytest.mark.parametrize(
    ("tokenizer", "stand_in"),
    [
        ({"exact": True}, ""),
        ({"exact": False, "server_counts": True}, ""),
        ({"exact": False, "server_counts": False}, "builtin"),
    ],
)
def test_a_stand_in_is_one_whose_counts_nobody_corrects(
    tokenizer: dict[str, Any], stand_in: str
) -> None:
    assert asked_of(manifest(tokenizer=tokenizer)).stand_in == stand_in


@pytest.mark.parametrize(
    ("extra", "forces"),
    [(None, False), ({"ignore_eos": True}, True), ({"min_tokens": 9}, True),
     ({"ignore_eos": False, "temperature": 0}, False)],
)  # fmt: skip
def test_extra_inputs_may_ask_for_full_length(extra: dict[str, Any] | None, forces: bool) -> None:
    assert asked_of(manifest(settings={"EXTRA_INPUTS": extra})).forces_length is forces


@pytest.mark.parametrize(
    ("file", "kind", "is_uniform"),
    [
        (None, "mooncake_trace", True),  # the kind counts with a file only
        ("p.jsonl", "single_turn", True),
        ("p.jsonl", "multi_turn", False),
        ("p.jsonl", "mooncake_trace", False),
    ],
)
def test_conversations_and_traces_are_not_uniform(
    file: str | None, kind: str, is_uniform: bool
) -> None:
    changes = {"INPUT_FILE": file, "CUSTOM_DATASET_TYPE": kind}
    assert asked_of(manifest(settings=changes)).is_uniform is is_uniform


def test_what_follows_timestamps_asked_for_no_concurrency_and_is_not_uniform() -> None:
    asked = asked_of(manifest(plan={"follows_timestamps": True, "concurrency": 9}))
    assert (asked.concurrency, asked.request_rate, asked.is_uniform) == (None, None, False)
    unlimited = asked_of(manifest(plan={"follows_timestamps": True, "concurrency": None}))
    assert unlimited.output_tokens == 200


def test_lines_that_share_a_session_are_conversations_too() -> None:
    plan = {"n_conversations": 12, "n_requests": None}
    assert not asked_of(manifest(plan=plan)).is_uniform


@pytest.mark.parametrize("told", [{}, {"plan": "?"}, {"name": "of an older schema"}])
def test_without_a_manifest_aiperf_says_what_was_asked_for(told: dict[str, Any]) -> None:
    facts = read_run(GOLDEN / "clean").facts
    assert asked_of(told, facts) == Asked(concurrency=4)
    assert asked_of(told) == Asked()
