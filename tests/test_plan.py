"""Plan: counts, names and seeds of one run."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import UsageError
from harness.plan import make_plan, parse_mode
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
