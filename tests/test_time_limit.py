"""How long a run may take: set, or all that it can need."""

from __future__ import annotations

from typing import Any

import pytest

from harness.plan import Plan
from harness.settings import Settings
from harness.time_limit import GRACE_S, run_time_limit_s

START_S = 480.0  # 120 to register, 60 to start, 300 for the data set


def limit_s(plan: dict[str, Any] | None = None, **settings: Any) -> float | None:
    load = {"concurrency": 10, "n_requests": 30, "n_warmup": 10, **(plan or {})}
    pattern = load.pop("arrival_pattern", "constant")
    planned = Plan(name="RUN", mode="profile", seed=1, arrival_pattern=pattern, **load)
    chosen = {"model": "m", "request_timeout_seconds": 100.0, **settings}
    return run_time_limit_s(Settings(**chosen), planned)


def test_a_limit_that_is_set_is_the_limit() -> None:
    assert limit_s(run_time_limit=7.0) == 7.0


def test_each_round_of_users_may_take_the_time_out() -> None:
    assert limit_s() == START_S + 100 * (1 + 3)
    assert limit_s({"n_requests": 31, "n_warmup": 0}) == START_S + 100 * 4


def test_a_rate_takes_its_time_and_one_time_out() -> None:
    plan = {"concurrency": None, "request_rate": 2.0, "n_requests": 60, "n_warmup": 0}
    assert limit_s(plan) == START_S + 30 + 100


def test_a_warm_up_is_sent_at_the_rate_too() -> None:
    plan = {"concurrency": None, "request_rate": 1.0, "n_requests": 30, "n_warmup": 2000}
    assert limit_s(plan) == START_S + (2000 + 100) + (30 + 100)


def test_a_warm_up_at_a_rate_comes_before_the_duration() -> None:
    plan = {"concurrency": None, "request_rate": 1.0, "n_requests": None, "duration_s": 60.0}
    assert limit_s(plan | {"n_warmup": 50}) == START_S + (50 + 100) + 60 + GRACE_S + 100


def test_arrivals_at_random_may_take_longer_than_their_mean() -> None:
    plan = {"concurrency": None, "request_rate": 0.01, "n_requests": 100, "n_warmup": 0}
    assert limit_s(plan | {"arrival_pattern": "poisson"}) == START_S + (100 + 5 * 10) / 0.01 + 100


def test_a_duration_takes_its_time_aiperfs_grace_and_one_time_out() -> None:
    plan = {"n_requests": None, "duration_s": 60.0, "n_warmup": 0}
    assert limit_s(plan) == START_S + 60 + GRACE_S + 100


@pytest.mark.parametrize(
    ("plan", "settings"),
    [
        ({"follows_timestamps": True}, {}),
        ({"n_requests": None, "n_conversations": 5}, {}),
        ({}, {"custom_dataset_type": "multi_turn"}),
    ],
)
def test_pauses_that_only_the_prompt_file_knows_have_no_limit(
    plan: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert limit_s(plan, **settings) is None
