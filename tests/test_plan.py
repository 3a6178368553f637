"""Plan: counts, names and seeds of one run."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import UsageError
from harness.plan import Mode, describe, make_plan, parse_mode, reuse_note
from harness.prompts import PromptFile
from harness.settings import Settings


def settings(**changes: Any) -> Settings:
    return Settings(model="m", aiperf_url="http://lab", **changes)


def test_a_profile_has_three_requests_a_user_and_one_to_warm_up() -> None:
    plan = make_plan(settings(), "profile")
    assert (plan.concurrency, plan.n_requests, plan.n_warmup) == (10, 30, 10)
    assert plan.name == "ISL100_OSL200_CON10"


def test_counts_may_be_set_and_zero_warm_up_is_zero() -> None:
    plan = make_plan(settings(request_count=100, warmup_requests=0), "profile")
    assert (plan.n_requests, plan.n_warmup) == (100, 0)


def test_fewer_requests_than_users_is_a_contradiction_of_a_profile_only() -> None:
    with pytest.raises(UsageError, match="never be reached"):
        make_plan(settings(request_count=5), "profile")
    assert make_plan(settings(request_count=5), "sweep", 2).n_requests == 6
    assert make_plan(settings(request_count=5), "warmup").n_requests == 9


def test_a_warm_up_run_is_small_whatever_is_set() -> None:
    plan = make_plan(settings(concurrency=50, request_count=500), "warmup")
    assert (plan.concurrency, plan.n_requests, plan.n_warmup) == (3, 9, 0)
    assert plan.name == "warmup_ISL100_OSL200_CON3"


def test_a_point_of_a_sweep_has_its_own_name_and_enough_requests() -> None:
    plan = make_plan(settings(request_count=40), "sweep", 50)
    assert plan.name == "sweep_50_ISL100_OSL200_CON50"
    assert (plan.n_requests, plan.n_warmup) == (150, 50)
    assert make_plan(settings(request_count=40), "sweep", 5).n_requests == 40


@pytest.mark.parametrize(
    ("path", "part"),
    [("prompts/trace.jsonl", "FILE-trace"), ("/x/日本 語.jsonl", "FILE-日本-語")],
)
def test_a_prompt_file_names_the_folder(path: str, part: str) -> None:
    assert make_plan(settings(input_file=path), "profile").name == f"{part}_OSL200_CON10"


def test_each_run_draws_its_own_seed_unless_one_is_set() -> None:
    assert make_plan(settings(), "profile").seed != make_plan(settings(), "profile").seed
    assert make_plan(settings(random_seed=7), "profile").seed == 7


def test_points_of_a_sweep_never_share_a_seed() -> None:
    seeds = {make_plan(settings(random_seed=7), "sweep", point).seed for point in (1, 5, 10)}
    assert len(seeds) == 3


def rated(**changes: Any) -> Settings:
    return settings(request_rate=5.0, **changes)


def test_a_rate_is_not_limited_by_a_concurrency_that_nobody_set() -> None:
    plan = make_plan(rated(), "profile")
    assert (plan.concurrency, plan.n_requests, plan.request_rate) == (None, 150, 5.0)
    assert plan.name == "ISL100_OSL200_RATE5"
    limited = make_plan(rated(concurrency=20, concurrency_is_set=True), "profile")
    assert limited.name == "ISL100_OSL200_RATE5_CON20"
    assert describe(limited) == (
        "150 requests, 5 a second (poisson), at most 20 at a time after 15 to warm up"
    )


def test_a_rate_warms_up_for_three_seconds_since_that_is_at_the_rate_too() -> None:
    assert make_plan(rated(), "profile").n_warmup == 15
    assert make_plan(settings(request_rate=0.1), "profile").n_warmup == 1
    assert make_plan(rated(warmup_requests=4), "profile").n_warmup == 4


def test_a_slow_rate_still_makes_thirty_requests() -> None:
    assert make_plan(settings(request_rate=0.1), "profile").n_requests == 30
    assert make_plan(rated(request_count=7), "profile").n_requests == 7


def test_a_name_tells_pattern_duration_and_servers() -> None:
    wanted = rated(
        arrival_pattern="constant", benchmark_duration=2.5, more_urls=("http://b", "http://c")
    )
    plan = make_plan(wanted, "profile")
    assert plan.name == "ISL100_OSL200_RATE5-constant_2.5S_URLS3"
    assert describe(plan).startswith("2.5 s of requests, 5 a second (constant) after")


def test_a_duration_counts_no_requests_and_has_prompts_for_a_fast_server() -> None:
    plan = make_plan(settings(benchmark_duration=30.0), "profile")
    assert (plan.n_requests, plan.duration_s, plan.name) == (None, 30.0, "ISL100_OSL200_CON10_30S")
    assert plan.n_prompts == 10 * 30 / 0.4 + 10  # 200 tokens at 500 a second
    assert reuse_note(plan).startswith("760 prompts are made; a server that answers more")
    assert reuse_note(make_plan(settings(), "profile")) == ""
    at_rate = make_plan(rated(benchmark_duration=100.0, warmup_requests=0), "profile")
    assert 500 < (at_rate.n_prompts or 0) < 650
    forever = make_plan(settings(benchmark_duration=1e6), "profile")
    assert forever.n_prompts == 20_010


def test_a_warm_up_run_and_a_sweeps_point_are_no_open_loop() -> None:
    assert make_plan(rated(), "warmup").request_rate is None
    with pytest.raises(UsageError, match="SWEEP_REQUEST_RATES"):
        make_plan(rated(), "sweep", 5)


TIMED = PromptFile(4, 4, 4, is_timed=True)


def test_timestamps_make_the_schedule_and_each_line_is_sent_once() -> None:
    plan = make_plan(settings(input_file="t.jsonl"), "profile", prompts=TIMED)
    assert (plan.n_requests, plan.concurrency, plan.follows_timestamps) == (4, None, True)
    assert plan.name == "FILE-t_OSL200_TIMED"
    part = make_plan(settings(input_file="t.jsonl", request_count=3), "profile", prompts=TIMED)
    assert part.n_requests == 3
    warmup = make_plan(settings(input_file="t.jsonl"), "warmup", prompts=TIMED)
    assert not warmup.follows_timestamps


@pytest.mark.parametrize(
    ("changes", "mode", "told"),
    [
        ({"request_rate": 5.0}, "profile", "REQUEST_RATE: contradicts the timestamps"),
        ({"benchmark_duration": 5.0}, "profile", "BENCHMARK_DURATION: contradicts"),
        ({}, "sweep", "sweep: contradicts"),
    ],
)
def test_what_contradicts_timestamps_is_told(
    changes: dict[str, Any], mode: Mode, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        make_plan(settings(input_file="t.jsonl", **changes), mode, 5, TIMED)


def test_conversations_are_played_whole_unless_requests_are_counted() -> None:
    talks = PromptFile(2, 6, 2, is_timed=False)
    plan = make_plan(settings(input_file="t.jsonl", concurrency=4), "profile", prompts=talks)
    assert (plan.n_requests, plan.n_conversations) == (None, 12)
    assert describe(plan) == "12 conversations, 4 at a time after 4 to warm up"
    at_rate = make_plan(rated(input_file="t.jsonl"), "profile", prompts=talks)
    assert at_rate.n_conversations == 50  # of three turns each: 150 requests
    counted = make_plan(rated(input_file="t.jsonl", request_count=9), "profile", prompts=talks)
    assert (counted.n_requests, counted.n_conversations) == (9, None)


def test_a_number_of_thousands_of_digits_is_no_mode() -> None:
    with pytest.raises(UsageError, match="is none"):
        parse_mode("sweep_" + "9" * 5000)


def test_modes_are_parsed() -> None:
    assert parse_mode("sweep_5") == ("sweep", 5)
    assert parse_mode("warmup") == ("warmup", None)


@pytest.mark.parametrize("word", ["", "sweep_0", "sweep_", "sweep_５", "sweep_-1", "profil", "5"])
def test_other_words_are_no_mode(word: str) -> None:
    with pytest.raises(UsageError, match="MODE"):
        parse_mode(word)
